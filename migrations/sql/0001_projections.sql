-- The log that this database was projected from. Continuing from another log
-- would mix two truths, so a worker refuses to.
create table log_identity (
    only_one   boolean primary key default true check (only_one),
    created_at text not null
);

-- Each projection has one active generation: the one that the views in
-- `public` show.
create table projections (
    name              text primary key,
    active_generation integer not null
);

-- One build of a projection: schema `<projection>_g<generation>`.
create table generations (
    projection   text    not null references projections (name),
    generation   integer not null,
    -- The fold's version that wrote the rows.
    version      integer not null,
    -- The checkpoint: every event up to here is in the rows.
    position     bigint  not null default 0,
    -- Everything up to here has been published to the cache.
    published    bigint  not null default 0,
    -- Events that changed a row, since the generation began.
    folded       bigint  not null default 0,
    -- The fencing token: whoever holds a lower one may not write.
    epoch        bigint  not null default 0,
    worker       text,
    lease_until  timestamptz,
    heartbeat_at timestamptz,
    created_at   timestamptz not null default now(),
    primary key (projection, generation)
);

-- Events that could not be folded, and those of the same key behind them, in
-- order. A key with a row here is blocked.
create table parked_events (
    projection   text    not null,
    generation   integer not null,
    key          text    not null,
    position     bigint  not null,
    -- Empty for an event that only waits behind another.
    error        text    not null,
    parked_at    timestamptz not null default now(),
    retry_wanted boolean not null default false
);
-- A key may be longer than an index can hold: that may be why it is here.
create unique index on parked_events (projection, generation, md5(key), position);

-- Who reads: neither owner nor superuser, so that row-level security holds.
do $$
begin
    if not exists (select from pg_roles where rolname = 'exodrive_reader') then
        create role exodrive_reader nologin;
    end if;
exception
    -- Two databases of one server migrated at the same moment.
    when duplicate_object or unique_violation then null;
end
$$;
grant exodrive_reader to current_user;
grant select on projections, generations, parked_events, log_identity to exodrive_reader;
do $$
begin
    if to_regclass('_sqlx_migrations') is not null then
        grant select on _sqlx_migrations to exodrive_reader;
    end if;
end
$$;
