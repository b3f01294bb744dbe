create table deliveries (
    key      text   primary key,
    position bigint not null,
    data     jsonb  not null,
    email_id text   collate "C" generated always as (data ->> 'email_id') stored
) with (fillfactor = 100);
create index on deliveries (email_id) where email_id is not null;
