-- As whom staff read. Row-level security has no condition for this role: Postgres would use no index
-- of words for a query that such a condition goes with. An older release does not use it; a
-- generation that an older release made shows it what it shows `exodrive_reader`.
do $$
begin
    if not exists (select from pg_roles where rolname = 'exodrive_staff') then
        create role exodrive_staff nologin;
    end if;
exception
    -- Two databases of one server migrated at the same moment.
    when duplicate_object or unique_violation then null;
end
$$;
do $$
begin
    if not pg_has_role('exodrive_staff', 'exodrive_reader', 'usage') then
        grant exodrive_reader to exodrive_staff;
    end if;
    if not pg_has_role(session_user, 'exodrive_staff', 'member') then
        grant exodrive_staff to current_user;
    end if;
end
$$;
