-- The Merkle tree over the log (RFC 6962) as tiles of height 8 (C2SP
-- tlog-tiles): up to 256 hashes side by side, 32 bytes each. At level 0 they
-- are the leaves, at level n the nodes 8 n levels above them. A tile grows, and
-- what it holds never changes.
create table seal_tiles (
    level  smallint not null,
    index  bigint   not null,
    hashes bytea    not null check (length(hashes) between 32 and 8192 and length(hashes) % 32 = 0),
    primary key (level, index)
);
-- Hashes do not get smaller.
alter table seal_tiles alter column hashes set storage external;

-- Signed checkpoints (C2SP tlog-checkpoint), each with the size of the tree.
create table seal_checkpoints (
    size      bigint primary key,
    root      bytea  not null check (length(root) = 32),
    note      text   not null,
    sealed_at timestamptz not null default clock_timestamp()
);

-- The public keys that have signed, as verifier keys of C2SP signed-note.
create table seal_keys (
    vkey          text primary key,
    first_used_at timestamptz not null default clock_timestamp(),
    last_used_at  timestamptz not null default clock_timestamp()
);

create table seal_state (
    only_one         boolean primary key default true check (only_one),
    -- Who seals, until when he has it to himself.
    worker           text,
    lease_until      timestamptz,
    -- How far the rolling comparison of the log with the tiles has come.
    checked_position bigint not null default 0,
    -- The log that was compared with all tiles last; null: compare it again.
    compared_log     text
);
insert into seal_state default values;

-- Why sealing stood still. The one that is not cleared stops it.
create table seal_halts (
    id        bigint generated always as identity primary key,
    halted_at timestamptz not null default clock_timestamp(),
    -- The first position that is wrong, where one can be named.
    position  bigint,
    reason    text   not null,
    cleared_at      timestamptz,
    cleared_by      text,
    cleared_because text
);
create unique index one_halt_at_a_time on seal_halts ((true)) where cleared_at is null;

grant select on seal_tiles, seal_checkpoints, seal_keys, seal_state, seal_halts to exodrive_reader;
