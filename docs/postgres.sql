-- The logins of ExoDrive in a Postgres of your own. Run it in ExoDrive's database as a superuser, or on a managed Postgres
-- as the role that owns the database and may make roles: psql "$ADMIN_URL" -f docs/postgres.sql. It may be repeated.
--
--   EXODRIVE_DATABASE_URL           postgres://exodrive_api:...@host/exodrive      serve
--   EXODRIVE_DATABASE_WORKER_URL    postgres://exodrive_worker:...@host/exodrive   work, and commands that look at projections
--   EXODRIVE_DATABASE_OPERATOR_URL  postgres://exodrive_migrate:...@host/exodrive  migrate
--
-- Then give each login its password, and run `exodrive migrate` and `exodrive doctor` with all three set:
--
--   alter role exodrive_api login password '...'; alter role exodrive_worker login password '...';
--   alter role exodrive_migrate login password '...';

do $$
declare
    role text;
begin
    foreach role in array array['exodrive_reader', 'exodrive_staff', 'exodrive_api', 'exodrive_worker',
                                'exodrive_migrate'] loop
        if not exists (select from pg_roles where rolname = role) then
            execute format('create role %I nologin', role);
        end if;
    end loop;
    if not (select rolsuper from pg_roles where rolname = current_user) then
        execute 'grant exodrive_migrate, exodrive_worker to current_user';
    end if;
end $$;

-- Outside of a transaction that says as whom it reads, the API's login may do nothing.
alter role exodrive_api noinherit;

grant exodrive_reader to exodrive_staff;

grant exodrive_staff to exodrive_api, exodrive_worker;

grant exodrive_reader, exodrive_staff, exodrive_worker to exodrive_migrate with admin option;

-- Workers make a schema for each generation of a projection, and point the views in `public` to it.
do $$
begin
    execute format('alter database %I owner to exodrive_migrate', current_database());
    execute format('grant create on database %I to exodrive_worker', current_database());
    execute format('revoke temporary on database %I from public', current_database());
end $$;

revoke create on schema public from public;

grant usage on schema public to public;

grant usage, create on schema public to exodrive_worker, exodrive_migrate;

-- What an earlier release has made belongs to the login that it had.
do $$
declare
    it record;
begin
    for it in
        select 'schema' as kind, quote_ident(nspname) as name, 1 as turn from pg_namespace
        where nspname ~ '^(release_[0-9a-f]{10}|[a-z_]+_g[0-9]+)$'
          and nspowner not in (select oid from pg_roles where rolname in ('exodrive_migrate', 'exodrive_worker'))
        union all
        select case relkind when 'v' then 'view' else 'table' end, pg_class.oid::regclass::text, 2
        from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        where relkind in ('r', 'v') and nspname ~ '^(public|release_[0-9a-f]{10}|[a-z_]+_g[0-9]+)$'
          and not exists (select from pg_depend where objid = pg_class.oid and deptype = 'e')
          and relowner not in (select oid from pg_roles where rolname in ('exodrive_migrate', 'exodrive_worker'))
        union all
        select 'function', pg_proc.oid::regprocedure::text, 3
        from pg_proc join pg_namespace on pg_namespace.oid = pronamespace
        where (nspname = 'public' and proname = 'generation_read' or nspname ~ '^[a-z_]+_g[0-9]+$')
          and proowner not in (select oid from pg_roles where rolname in ('exodrive_migrate', 'exodrive_worker'))
        order by turn
    loop
        execute format('alter %s %s owner to exodrive_migrate', it.kind, it.name);
    end loop;
end $$;
