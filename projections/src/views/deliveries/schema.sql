create table deliveries (
    key      text   collate "C" primary key,
    position bigint not null,
    data     jsonb  not null,
    email_id text   collate "C" generated always as (data ->> 'email_id') stored
);
create index on deliveries (email_id) where email_id is not null;
