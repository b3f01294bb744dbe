//! The API and the workers in the test's own process, against real NATS, Postgres and Redis that
//! are started once for all tests of this program. Each test has a system of its own
//! ([`system::InProcess`]). Here stands what needs no process of its own: tests of kills,
//! restarts, several releases, metrics and the command line are in `e2e`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]

mod booking;
mod system;
