//! The whole system, from a signed webhook to an answer, on real servers: in the
//! test's own process (`InProcess`), or with processes where these are the point
//! (`World`). One binary, so that it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]

mod accesses;
mod alarms;
mod append;
mod approval;
mod audit_offline;
mod booking;
mod booking_access;
mod bounded;
mod calendar;
mod chaos;
mod cli;
mod cluster;
mod command_path;
mod contract;
mod crash_points;
mod defects;
mod document;
mod double_booking;
mod duplicates;
mod edited_log;
mod erasure;
mod every_route;
mod faults;
mod fleet;
mod full_database;
mod full_disk;
mod half_open;
mod hang_up;
mod history;
mod hold_expiry;
mod http_rfcs;
mod idempotency;
mod import;
mod in_process;
mod keys;
mod leaving;
mod limits;
mod logins;
mod money;
mod office;
mod operator;
mod overload;
mod parking;
mod permissions;
mod personal_data;
mod power_cut;
mod price;
mod reads;
mod rebuild;
mod redis_servers;
mod redis_users;
mod refold;
mod refused;
mod remote_nats;
mod replay;
mod restored;
mod roles;
mod rollback;
mod row_security;
mod safe_headers;
mod seal;
mod search;
mod service_keys;
mod slow_clients;
mod slow_postgres;
mod tasks;
mod telemetry;
mod time_travel;
mod tokens;
mod topology;
mod transactions;
mod two_releases;
mod values;
mod varied;
mod verify;
mod webhook;
mod workers;
