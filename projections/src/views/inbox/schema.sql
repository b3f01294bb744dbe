create table inbox (
    key        text   collate "C" primary key,
    position   bigint not null,
    -- What searches read stands before `data`: to reach what comes after it costs a look at more memory.
    status     text   not null generated always as (data ->> 'status') stored,
    created_at text   collate "C" not null
               generated always as (data -> 'email' ->> 'created_at') stored,
    -- The status, unless it is one that most emails have or pass through.
    rare_status text collate "C" generated always as (case
               when data ->> 'status' not in ('sent', 'delivered', 'opened', 'clicked')
               then data ->> 'status' end) stored,
    words      tsvector not null generated always as ((data ->> 'search')::tsvector) stored,
    data       jsonb  not null
)
-- Rows are of about 2 kB, where Postgres would begin to compress them.
with (fillfactor = 70, toast_tuple_target = 4080);
-- Only of columns that rarely change: an update then touches no index.
create index on inbox (created_at desc, key desc);
create index on inbox (rare_status, created_at desc, key desc) where rare_status is not null;
create index on inbox using gin (words) with (gin_pending_list_limit = 512);
