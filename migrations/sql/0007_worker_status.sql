-- How the workers of each process stand (holds, erasures, sealing, ...), for
-- `exodrive workers`, readiness and operators. Each process writes its own rows
-- every second; nothing decides by them.
create table worker_status (
    name          text    not null,
    process       text    not null,
    -- starting, waiting, failing, off, stopped or panicked.
    state         text    not null,
    -- Steps made by this process.
    steps         bigint  not null,
    -- Steps that failed since the last one that did not.
    failures      integer not null,
    last_step_at  timestamptz,
    last_error    text,
    last_error_at timestamptz,
    next_step_at  timestamptz,
    -- When the process wrote this row.
    heartbeat_at  timestamptz not null default clock_timestamp(),
    primary key (name, process)
);
grant select on worker_status to exodrive_reader;
