create table cars (
    key            text   collate "C" primary key,
    position       bigint not null,
    data           jsonb  not null,
    slug           text   collate "C" not null generated always as (data -> 'car' ->> 'slug') stored,
    shown          boolean not null generated always as ((data ->> 'shown')::boolean) stored,
    category       text   generated always as (lower(data -> 'car' -> 'profile' ->> 'category')) stored,
    price          bigint generated always as
                   ((data -> 'car' -> 'prices' ->> 'base_per_day_cents')::bigint) stored,
    -- Only the release before this one reads it.
    search         text   not null generated always as (data ->> 'search') stored,
    words          tsvector not null generated always as ((data ->> 'search')::tsvector) stored,
    by_featured    text   collate "C" not null generated always as (data ->> 'by_featured') stored,
    by_name        text   collate "C" not null generated always as (data ->> 'by_name') stored,
    by_price       text   collate "C" not null generated always as (data ->> 'by_price') stored
);
create index on cars (slug);
create index on cars (by_featured);
create index on cars (by_name);
create index on cars (by_price);
create index on cars using gin (words) with (gin_pending_list_limit = 512);
