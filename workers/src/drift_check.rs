//! Checks, while the system runs, that the views are what the log says: folds
//! the rows of a few random keys from the log and compares. A log line and the
//! metric `exodrive_projection_drift_keys`, whose target is 0, report what
//! differs. Any number of processes may do so.
//!
//! A few keys at a time, of which a subject holds all events. Keys whose events
//! are scattered need a reading of all that the view is made of: rarely while
//! the log is small, once an hour when it is not.

use crate::{Next, StepError, System, Worker};
use exodrive_commands::digest::sha256_hex;
use exodrive_log::Log;
use exodrive_projections::{Database, Projection, engine::cache::Cache, for_each_projection};
use exodrive_replays::verify::{self, Extent, Options, Place, VerifyError};
use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// Rows compared in a round, of each projection; and half as many keys of events.
const KEYS: usize = 2;
/// A log of fewer events is read whole for keys that need it, every so many
/// rounds.
const SMALL: u64 = 200_000;
const ROUNDS: u64 = 30;
/// The same when such a key is known to differ.
const ROUNDS_IN_DOUBT: u64 = 3;
/// The interval at which a larger log is read whole.
const RARELY: Duration = Duration::from_secs(3_600);

/// Keys that differed when they were last compared, by projection.
type Drifting = HashMap<&'static str, BTreeSet<String>>;

/// Compares views with the log.
pub struct DriftCheck {
    log: Log,
    database: Database,
    cache: Cache,
    interval: Duration,
    drifting: Drifting,
    round: u64,
    read_all: Instant,
}

impl Worker for DriftCheck {
    const NAME: &'static str = "drift-check";
    // It may read all of a small log.
    const LIMIT: Option<Duration> = Some(Duration::from_secs(120));
    const ABOUT: &'static str = "Compares rows and Redis views with the log, a few at a time.";

    fn new(system: &System) -> Self {
        Self {
            log: system.log.clone(),
            database: system.database.clone(),
            cache: system.cache.clone(),
            interval: system.check_interval,
            drifting: Drifting::new(),
            round: 0,
            read_all: Instant::now(),
        }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        if self.interval.is_zero() {
            return Ok(Next::Never);
        }
        // The views have a moment to come up first.
        let round = self.round;
        self.round += 1;
        if round > 0 {
            self.check_round(round).await?;
        }
        Ok(Next::After(self.interval))
    }
}

impl DriftCheck {
    async fn check_round(&mut self, round: u64) -> Result<(), StepError> {
        let none_differs = self.drifting.values().all(BTreeSet::is_empty);
        let rounds = if none_differs { ROUNDS } else { ROUNDS_IN_DOUBT };
        let small = self.log.last_position().await.is_ok_and(|end| end < SMALL);
        let all = match small {
            true => round.is_multiple_of(rounds),
            false => self.read_all.elapsed() >= RARELY,
        };
        if all {
            self.read_all = Instant::now();
        }
        let mut failed = None;
        for_each_projection!(P => {
            let mut drifting = std::mem::take(self.drifting.entry(P::NAME).or_default());
            let checked = self.check::<P>(all, &mut drifting).await;
            self.drifting.insert(P::NAME, drifting);
            match checked {
                // Another release folds the rows, or operators work on them.
                Ok(()) | Err(VerifyError::OtherVersion { .. } | VerifyError::Restless(_)) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        });
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn check<P: Projection>(
        &self,
        all: bool,
        drifting: &mut BTreeSet<String>,
    ) -> Result<(), VerifyError> {
        let mut keys = verify::by_sample::<P>(&self.log, &self.database, KEYS).await?;
        keys.extend(drifting.iter().cloned());
        if !all {
            keys = verify::exact::<P>(&self.database, keys).await?;
        }
        let options = Options::new(Extent::Keys(keys.clone()));
        let cache = Some(&self.cache);
        let report =
            verify::verify::<P>(&self.log, &self.database, cache, &options, &|_, _| {}).await?;
        let mut different = BTreeSet::new();
        for finding in &report.findings {
            let place = finding.place;
            if drifting.contains(&finding.key) || !different.insert(&finding.key) {
                continue;
            }
            let key = sha256_hex(finding.key.as_bytes());
            tracing::error!(
                projection = P::NAME,
                key_sha256 = key,
                place = place.to_string(),
                position = report.position,
                "A view is not what the log says: `exodrive projections verify {} --all` shows which rows; a rebuild corrects them",
                P::NAME
            );
        }
        let is_row = |key: &String| {
            let of = |place| place != Place::NotFolded;
            report.findings.iter().any(|finding| finding.key == *key && of(finding.place))
        };
        for key in keys {
            if is_row(&key) {
                drifting.insert(key);
            } else {
                drifting.remove(&key);
            }
        }
        metrics::counter!("exodrive_projection_checked_keys_total", "projection" => P::NAME)
            .increment(report.checked);
        metrics::gauge!("exodrive_projection_drift_keys", "projection" => P::NAME)
            .set(drifting.len() as f64);
        Ok(())
    }
}
