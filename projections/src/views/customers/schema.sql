create table customers (
    key      text   collate "C" primary key,
    position bigint not null,
    data     jsonb  not null,
    last_at  text   collate "C" not null generated always as (data ->> 'last_at') stored
);
create index on customers (last_at desc, key desc);
