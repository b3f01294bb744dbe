-- What operators want of the projections. The wishes are events of the log
-- (`exo.projection.*`); these tables are what they come to.

-- How far the operators' events have been heeded.
create table operations (
    only_one boolean primary key default true check (only_one),
    position bigint  not null
);
insert into operations (position) values (0);

-- A paused projection keeps its rows and its worker, and folds nothing.
alter table projections
    add column paused boolean not null default false,
    -- Why, and by whom.
    add column pause_reason text,
    add column paused_by text;

-- building: its rows are being loaded and mean nothing yet. catching_up: its
-- rows are the fold up to its checkpoint, nobody reads them. active: readers
-- see it. previous: readers saw it. dropping: on its way out.
alter table generations
    add column state text not null default 'active'
        check (state in ('building', 'catching_up', 'active', 'previous', 'dropping')),
    -- Into how many parts its keys are split.
    add column partitions integer not null default 1 check (partitions between 1 and 64);
create unique index one_active_generation on generations (projection) where state = 'active';

-- A rebuild, a rollback, or the build of a new version, from the wish to the
-- end.
create table rebuilds (
    -- Of the event that asked for it.
    id            uuid    primary key,
    projection    text    not null references projections (name),
    kind          text    not null check (kind in ('rebuild', 'key', 'rollback', 'version')),
    -- Workers with this version of the fold carry it out.
    version       integer not null,
    -- Of kind `key`: the one row to fold anew.
    key           text,
    -- Only rows that an event from here on touches are folded anew.
    from_position bigint,
    -- Into how many parts the new generation is split; as before if null.
    partitions    integer,
    actor         text    not null,
    reason        text    not null,
    requested_at  timestamptz not null default now(),
    state         text    not null default 'queued'
        check (state in ('queued', 'building', 'indexing', 'catching_up', 'comparing',
                         'waiting', 'swapping', 'done', 'cancelled', 'failed')),
    -- The generation that it builds, or rolls back to.
    generation    integer,
    -- Of kind `rebuild`: swap although rows differ.
    accepted      boolean not null default false,
    -- Somebody wants it to end; it becomes `cancelled`.
    cancel_wanted boolean not null default false,
    -- Events folded, and how many there were to fold when it began.
    done          bigint  not null default 0,
    total         bigint  not null default 0,
    events_per_second real not null default 0,
    -- Bytes of rows in memory, and how many there may be.
    resident      bigint  not null default 0,
    resident_limit bigint not null default 0,
    -- Seconds spent waiting so that reads stay fast.
    yielded_seconds real  not null default 0,
    started_at    timestamptz,
    finished_at   timestamptz,
    -- The old and the new generation, compared.
    comparison    jsonb,
    error         text,
    -- Whether the log has been told of the swap.
    told          boolean not null default false,
    worker        text,
    epoch         bigint  not null default 0,
    lease_until   timestamptz
);
create unique index one_rebuild_at_a_time on rebuilds (projection)
    where state not in ('done', 'cancelled', 'failed');
create index on rebuilds (requested_at desc);

-- Events that an operator wants left out of one row, in every generation.
create table skipped_events (
    projection text   not null,
    key        text   not null,
    position   bigint not null,
    actor      text   not null,
    reason     text   not null,
    skipped_at timestamptz not null default now()
);
create unique index on skipped_events (projection, md5(key), position);

-- Parked events are tried again by themselves, ever more rarely, then only
-- when somebody asks.
alter table parked_events
    add column attempts integer not null default 0,
    add column next_attempt_at timestamptz;

grant select on operations, rebuilds, skipped_events to exodrive_reader;
