-- Ranges are read from text by a function that Postgres takes for stable;
-- numbers of days look the same under every setting.
create function days_taken(jsonb) returns int4multirange
    language sql immutable strict parallel safe
    as $$ select ($1 ->> 'taken')::int4multirange $$;
create table calendar (
    key      text   collate "C" primary key,
    position bigint not null,
    data     jsonb  not null,
    taken    int4multirange not null generated always as (days_taken(data)) stored
);
