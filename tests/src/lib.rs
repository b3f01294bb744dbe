//! The harness of the end-to-end tests and the benchmark: a whole system on
//! real servers.
//!
//! **May import** every crate. Nothing imports it.
//!
//! **Flow.** [`World::start`] starts private NATS, Postgres and Redis, migrates,
//! and runs `exodrive serve` and `exodrive work` as a user would. Most tests
//! need no process of their own: their API and workers are tasks of the test,
//! on servers that `test-servers` has started (`tests/e2e/in_process.rs`). Both
//! give a [`System`]. A test posts deliveries signed with [`sign`], an
//! implementation apart from the one it tests; reads answers ([`Answer`]), the
//! log itself ([`System::events`]) and the rows of the views
//! ([`System::rows`]); and compares them with a fresh fold ([`fold`]).
//!
//! The programs are found beside the test's own: `make test` builds them first.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod authority;
mod client;
mod complaints;
mod contract;
mod exposed;
mod fixtures;
mod ledger;
mod model;
mod namespaces;
mod power;
mod process;
mod proxy;
mod rental;
mod small_disk;
mod standing;
mod system;
mod views;
mod wait;
mod world;

pub use authority::{Authority, write_secret};
pub use client::{Answer, Delivery, sign, token};
pub use complaints::complaints_of_postgres;
pub use exposed::{Exposed, Ways};
pub use fixtures::{Fixture, email_body, fixtures, reported_status, reports, status_by_rank};
pub use ledger::{Ledger, Outcome, seconds_not_ready};
pub use model::{Holders, bookings_in};
pub use namespaces::{Namespaces, Network};
pub use power::{TRACED, TracedFiles};
pub use process::{Process, free_address, program};
pub use proxy::Proxy;
pub use rental::{Client, booking_body, car_body, day, key, rounds};
pub use small_disk::SmallDisk;
pub use system::{
    API, DATA_KEYS, PermissionErrors, SEAL_KEY, Servers, System, TOKEN_SECRET, WORKER,
    jetstream_as, open_log, run, wrapping_keys,
};
pub use views::{Rows, fold, fold_by_name};

pub use wait::{Probe, WAIT_TIMEOUT, eventually, within};
pub use world::World;
