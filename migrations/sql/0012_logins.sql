-- The API, the workers and `exodrive migrate` log in as roles of their own (docs/postgres.sql). The
-- API's may only become a reading role; the worker's owns the generations of projections and writes
-- the engine's tables; whoever migrates owns those tables. Here are the roles made that are missing,
-- without a password. An older release goes on with its login, which owns everything: its API sees
-- no parked event, no skipped one and no rebuild from here on.
do $$
declare
    role text;
begin
    foreach role in array array['exodrive_api', 'exodrive_worker'] loop
        begin
            if not exists (select from pg_roles where rolname = role) then
                execute format('create role %I nologin', role);
                if role = 'exodrive_api' then
                    alter role exodrive_api noinherit;
                end if;
            end if;
        exception
            -- Two databases of one server migrated at the same moment.
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise exception using errcode = 'insufficient_privilege', message =
                    format('the role %s is missing, and %s may not make it', role, current_user),
                    hint = 'run docs/postgres.sql as a role that may make roles';
        end;
    end loop;
    if not pg_has_role('exodrive_api', 'exodrive_staff', 'member') then
        grant exodrive_staff to exodrive_api;
    end if;
    if not pg_has_role('exodrive_worker', 'exodrive_staff', 'member') then
        grant exodrive_staff to exodrive_worker;
    end if;
    -- It makes generations as the worker does.
    if not pg_has_role(session_user, 'exodrive_worker', 'usage') then
        grant exodrive_worker to current_user;
    end if;
    execute format('grant create on database %I to exodrive_worker', current_database());
    execute format('revoke temporary on database %I from public', current_database());
end
$$;
grant usage, create on schema public to exodrive_worker;

-- They quote keys and events. Only an operator's identity sees them.
alter table parked_events enable row level security;
alter table skipped_events enable row level security;
alter table rebuilds enable row level security;
create policy workers on parked_events to exodrive_worker using (true) with check (true);
create policy workers on skipped_events to exodrive_worker using (true) with check (true);
create policy workers on rebuilds to exodrive_worker using (true) with check (true);
create policy operators on parked_events for select to exodrive_reader
    using (current_setting('exodrive.identity', true) = 'operator');
create policy operators on skipped_events for select to exodrive_reader
    using (current_setting('exodrive.identity', true) = 'operator');
create policy operators on rebuilds for select to exodrive_reader
    using (current_setting('exodrive.identity', true) = 'operator');
