-- How far a worker that keeps state of its own has followed the log. The position is written in
-- the transaction that changes the state.
create table worker_positions (
    -- As in `worker_status`.
    worker   text   primary key,
    -- Every event up to here that the worker reads is in its state.
    position bigint not null,
    -- Rows that its state then has. With another number of rows it is not whole, and is filled
    -- again from the beginning of the log.
    rows     bigint not null
);
grant select on worker_positions to exodrive_reader;

-- Bookings whose days are held and not paid, by the log: the worker `hold-expiry` ends them by
-- this table, whatever the view of bookings has. No text that somebody typed is in it, so that
-- Postgres takes every row.
create table open_holds (
    booking_id uuid        primary key,
    car_id     uuid        not null,
    ends_at    timestamptz not null
);
create index on open_holds (ends_at);
grant select on open_holds to exodrive_reader;
