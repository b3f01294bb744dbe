//! The work of a worker process beside projecting: each [`Worker`] is one file and
//! one line in the list below.
//!
//! **May import** the commands, the audit, the replays, the projections, the log,
//! the domain and the runtime; never HTTP.
//!
//! **Flow.** [`start_all`] hands every worker of the list to the [`Driver`],
//! which runs its steps one after another, waits as long as the step says, backs
//! off after failures, and keeps the [`status`] that `exodrive workers`,
//! `/readyz` and the metrics show. Any number of processes may run: a step is
//! idempotent, and takes a lease or a lock where only one may work.
//!
//! **To add a worker**: see docs/recipes.md.

pub mod drift_check;
pub mod driver;
pub mod erasure;
pub mod hold_expiry;
pub mod operations;
pub mod sealing;
pub mod status;
mod system;
mod worker;

pub use driver::Driver;
pub use system::System;
pub use worker::{Description, Next, StepError, Worker};

macro_rules! workers {
    ($($worker:ty),* $(,)?) => {
        /// Every worker, in the order in which they are started.
        pub const WORKERS: &[Description] = &[$(Description::of::<$worker>()),*];

        /// Starts every worker. They run until the driver's process stops.
        pub fn start_all(driver: &Driver, system: &System) {
            $(driver.start(<$worker as Worker>::new(system));)*
        }
    };
}

workers![
    hold_expiry::HoldExpiry,
    operations::ApplyOperations,
    erasure::ErasureExecutor,
    drift_check::DriftCheck,
    sealing::Sealing,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs};

    #[test]
    fn every_worker_is_in_the_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut found = BTreeSet::new();
        for file in fs::read_dir(folder).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            let name = |text: &str| {
                Some(
                    text.split_once("const NAME: &'static str = \"")?
                        .1
                        .split_once('"')?
                        .0
                        .to_owned(),
                )
            };
            found.extend(text.split("\nimpl Worker for ").skip(1).filter_map(name));
        }
        assert_eq!(found, WORKERS.iter().map(|it| it.name.to_owned()).collect());
    }
}
