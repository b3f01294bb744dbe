//! A worker of one projection that sends itself a signal at one step of a
//! batch, once the trigger file is there: for the tests that kill or stop a
//! worker between any two steps.

#![expect(clippy::unwrap_used, clippy::panic, reason = "part of the tests")]

use exodrive_projections::{
    Database,
    engine::{Runner, cache::Cache},
};
use exodrive_runtime::telemetry;
use exodrive_tests::open_log;
use nix::sys::signal::{Signal, raise};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

struct Fate {
    step: String,
    signal: Signal,
    trigger: PathBuf,
}

#[tokio::main]
async fn main() {
    telemetry::init("info", telemetry::Format::Json).unwrap();
    let log = open_log(&setting("EXODRIVE_NATS_URL")).await;
    let database = Database::for_workers(&setting("EXODRIVE_DATABASE_WORKER_URL")).unwrap();
    let cache = Cache::new(&setting("EXODRIVE_REDIS_WORKER_URL")).unwrap();
    let fate = Fate {
        step: setting("WORKER_STEP"),
        signal: setting("WORKER_SIGNAL").parse().unwrap(),
        trigger: setting("WORKER_TRIGGER").into(),
    };
    Runner::named(&setting("WORKER_PROJECTION"), log, database, cache, "worker-that-dies")
        .unwrap()
        .on_step(move |step| {
            if format!("{step:?}") == fate.step && fate.trigger.exists() {
                // Only once: a worker that continues must not be hit again.
                std::fs::remove_file(&fate.trigger).unwrap();
                raise(fate.signal).unwrap();
            }
        })
        .run(&CancellationToken::new())
        .await
        .unwrap();
}
