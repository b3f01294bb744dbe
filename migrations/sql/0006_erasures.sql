-- Erasures that this database knows of. The log tells of them too; whichever of
-- the two is restored from an older backup is set right by the other.
create table erasures (
    id         uuid   primary key,
    -- Data keys that are destroyed, by name.
    keys       text[] not null,
    started_at timestamptz not null default now(),
    -- When no row of this database held the data any more.
    applied_at timestamptz
);
grant select on erasures to exodrive_reader;
