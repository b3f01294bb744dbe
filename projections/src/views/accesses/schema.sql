create table accesses (
    key      text   collate "C" primary key,
    position bigint not null,
    data     jsonb  not null,
    resource text   collate "C" not null generated always as (data ->> 'resource') stored,
    thing    text   collate "C" generated always as (data ->> 'key') stored,
    actor    text   collate "C" not null generated always as (data ->> 'actor') stored,
    first_at text   collate "C" not null generated always as (data ->> 'first_at') stored,
    last_at  text   collate "C" not null generated always as (data ->> 'last_at') stored
);
create index on accesses (first_at desc, key desc);
create index on accesses (thing, resource) where thing is not null;
