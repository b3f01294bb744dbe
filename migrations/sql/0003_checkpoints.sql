-- A generation may be split by key: each part has a checkpoint and a writer of
-- its own.
create table checkpoints (
    projection   text    not null,
    generation   integer not null,
    partition    integer not null,
    -- Every event up to here is in the rows.
    position     bigint  not null default 0,
    -- Everything up to here has been published to the cache.
    published    bigint  not null default 0,
    -- Rows written, since the generation began.
    folded       bigint  not null default 0,
    events_per_second real not null default 0,
    -- The fencing token: whoever holds a lower one may not write.
    epoch        bigint  not null default 0,
    worker       text,
    lease_until  timestamptz,
    heartbeat_at timestamptz,
    primary key (projection, generation, partition),
    foreign key (projection, generation) references generations on delete cascade
)
-- Rows are written many times a second, each within its page.
with (fillfactor = 20);
insert into checkpoints (projection, generation, partition, position, published, folded, epoch)
    select projection, generation, 0, position, published, folded, epoch from generations;
alter table generations
    drop column position, drop column published, drop column folded, drop column epoch,
    drop column worker, drop column lease_until, drop column heartbeat_at,
    -- Where it was swapped out, if readers saw it once.
    add column replaced_at bigint,
    -- An operator has rolled back from it: nobody reads it any more.
    add column withdrawn boolean not null default false;

alter table parked_events add column partition integer not null default 0;
drop index parked_events_projection_generation_md5_position_idx;
create unique index on parked_events (projection, generation, partition, md5(key), position);

-- How often readers were given another generation.
alter table projections add column swaps bigint not null default 0;

-- Who shares the work.
create table workers (
    name    text primary key,
    seen_at timestamptz not null
);

-- A release reads by views in a schema of its own, so that two releases with
-- different versions of a fold can serve at once.
create table releases (
    name       text    not null,
    projection text    not null,
    version    integer not null,
    primary key (name, projection)
);

-- The generation that a release with this version of a fold reads: the active
-- one if it has the version, else one of the version that is still kept level
-- by that release's workers, else the active one.
create function generation_read(wanted_projection text, wanted_version integer) returns integer
    language sql stable
    as $$
        select generation from generations join projections on name = projection
        where projection = wanted_projection and (generation = active_generation
            or (state = 'previous' and not withdrawn and version = wanted_version
                and not exists (
                select from checkpoints
                where checkpoints.projection = generations.projection
                  and checkpoints.generation = generations.generation
                  and coalesce(heartbeat_at, '-infinity') < clock_timestamp() - interval '10 s')))
        order by version = wanted_version desc, generation = active_generation desc,
            generation desc
        limit 1
    $$;

grant select on checkpoints, workers, releases to exodrive_reader;
