//! The harness of the end-to-end tests and the benchmark: a whole system of
//! real servers and real processes.
//!
//! **May import** every room. Nothing imports it.
//!
//! **Flow.** [`World::start`] starts private NATS, Postgres and Redis, migrates,
//! and runs `exodrive serve` and `exodrive work` as a user would. A test posts
//! what it has signed with [`sign`], an implementation apart from the one it
//! tests; reads answers ([`Answer`]), the log itself ([`World::events`]) and
//! the rows of the views ([`World::rows`]); and compares them with a fresh fold
//! ([`fold`]).
//!
//! The programs are found beside the test's own: `make test` builds them first.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod client;
mod fixtures;
mod model;
mod process;
mod rental;
mod views;
mod world;

pub use client::{Answer, Delivery, sign, token};
pub use fixtures::{Fixture, email_body, fixtures, reported_status, status_by_rank};
pub use model::{Holders, bookings_in};
pub use process::{Process, free_address, program};
pub use rental::{Door, booking_body, car_body, day, key, rounds};
pub use views::{Rows, fold, fold_by_name};
pub use world::{
    API, DATA_KEYS, Refusals, SEAL_KEY, TOKEN_SECRET, WORKER, World, jetstream_as, open_log, run,
    wrapping_keys,
};

use std::time::{Duration, Instant};

/// How long anything may take that a test waits for. Reached only by failures.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` gives a value, for at most [`PATIENCE`].
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe).await
}

/// Waits until `probe` gives a value, for at most `limit`.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(began.elapsed() < limit, "did not happen within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
