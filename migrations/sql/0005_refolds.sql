-- Rows that are to be folded afresh, because what the log says of them was
-- erased.

-- What was wanted, by whoever wants it. The key is a digest: once its row is
-- folded afresh nobody needs the key.
create table refolds (
    id           uuid   not null,
    projection   text   not null,
    key          uuid   not null,
    -- Up to here events may have been read before they were erased.
    position     bigint not null,
    requested_at timestamptz not null default now(),
    primary key (id, projection, key)
);
create index on refolds (projection, position desc);

-- What of it is left to be done: one row for each generation that there was
-- when it was wanted. A later one reads what is left of the log by itself.
create table refolds_due (
    id           uuid    not null,
    projection   text    not null,
    generation   integer not null,
    partition    integer not null,
    key          text    not null,
    -- Up to here; see above.
    position     bigint  not null,
    requested_at timestamptz not null default now(),
    -- The table has the row; Redis may not have it yet.
    folded       boolean not null default false,
    attempts     integer not null default 0,
    -- Why the last attempt failed. Never a text of the row or of an event.
    error        text,
    next_attempt_at timestamptz not null default now(),
    foreign key (projection, generation) references generations on delete cascade
);
-- A key may be longer than an index can hold.
create unique index on refolds_due (projection, generation, partition, id, md5(key));
create index on refolds_due (id);

-- Events that were erased while parked: their errors may have quoted them.
create table erased_positions (
    position bigint primary key
);
