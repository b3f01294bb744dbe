create table inbox (
    key        text   collate "C" primary key,
    position   bigint not null,
    data       jsonb  not null,
    status     text   not null generated always as (data ->> 'status') stored,
    created_at text   collate "C" not null
               generated always as (data -> 'email' ->> 'created_at') stored,
    search     text   not null generated always as (data ->> 'search') stored
) with (fillfactor = 70);
-- Only of columns that rarely change: an update then touches no index.
create index on inbox (created_at desc, key desc);
