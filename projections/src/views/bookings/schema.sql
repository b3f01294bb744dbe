create table bookings (
    key             text collate "C" primary key,
    position        bigint not null,
    data            jsonb  not null,
    status          text collate "C" not null generated always as (data -> 'booking' ->> 'status') stored,
    car_id          text collate "C" not null generated always as (data -> 'booking' ->> 'car_id') stored,
    customer_id     text collate "C" not null generated always as (data -> 'booking' ->> 'customer_id') stored,
    user_id         text generated always as (data -> 'booking' ->> 'user_id') stored,
    first_day       text collate "C" not null generated always as (data -> 'booking' -> 'days' ->> 'from') stored,
    until_day       text collate "C" not null generated always as (data -> 'booking' -> 'days' ->> 'until') stored,
    created_at      text collate "C" not null generated always as (data -> 'booking' ->> 'created_at') stored,
    words           tsvector not null generated always as ((data ->> 'search')::tsvector) stored
);
create index on bookings (created_at desc, key desc);
create index on bookings (car_id, first_day);
create index on bookings (user_id) where user_id is not null;
create index on bookings (customer_id);
create index on bookings using gin (words) with (gin_pending_list_limit = 512);
