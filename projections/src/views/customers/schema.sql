create table customers (
    key      text   collate "C" primary key,
    position bigint not null,
    data     jsonb  not null,
    last_at  text   collate "C" not null generated always as (data ->> 'last_at') stored,
    words    tsvector not null generated always as ((data ->> 'search')::tsvector) stored
);
create index on customers (last_at desc, key desc);
create index on customers using gin (words) with (gin_pending_list_limit = 512);
