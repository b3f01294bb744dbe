create table email_timeline (
    key      text   primary key,
    position bigint not null,
    data     jsonb  not null,
    email_id text   collate "C" not null generated always as (data ->> 'email_id') stored
) with (fillfactor = 100);
create index on email_timeline (email_id);
