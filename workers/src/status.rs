//! The status of this process's workers, for people and for readiness.

use crate::worker::{Description, Next, Worker};
use chrono::{DateTime, TimeDelta, Utc};
use exodrive_projections::{Database, Error, engine::store::WorkerStatus};
use exodrive_runtime::error_chain;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The interval at which the statuses are written to the database: also the sign of life.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time for that.
const PUBLISH_LIMIT: Duration = Duration::from_secs(5);
/// The name of the task that writes them.
pub const PUBLISHER: &str = "worker-status";

pub use exodrive_projections::engine::store::WorkerState as State;

/// The statuses of a process's workers. Cheap to clone.
#[derive(Clone)]
pub struct Statuses(Arc<Shared>);

struct Shared {
    process: String,
    workers: Mutex<Vec<WorkerStatus>>,
    /// Wakes the publisher when a worker's state changes.
    changed: Notify,
}

/// The status of one worker, for its driver.
pub struct Status {
    statuses: Statuses,
    name: &'static str,
}

impl Statuses {
    /// The statuses of the process of this name; it has no workers yet.
    pub fn new(process: &str) -> Self {
        Self(Arc::new(Shared {
            process: process.to_owned(),
            workers: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// The status of a worker that is about to start.
    pub fn of<W: Worker>(&self) -> Status {
        let Description { name, .. } = Description::of::<W>();
        self.workers().push(WorkerStatus {
            name: name.to_owned(),
            process: self.0.process.clone(),
            state: State::Starting,
            steps: 0,
            failures: 0,
            last_step_at: None,
            last_error: None,
            last_error_at: None,
            next_step_at: None,
        });
        Status { statuses: self.clone(), name }
    }

    /// The status of every worker.
    pub fn snapshot(&self) -> Vec<WorkerStatus> {
        self.workers().clone()
    }

    /// Writes the statuses to the database every second, and when one changes,
    /// until `stop`.
    pub async fn publish(self, database: Database, stop: CancellationToken) {
        let mut failed = false;
        while !stop.is_cancelled() {
            let published = self.publish_once(&database);
            let error = match tokio::time::timeout(PUBLISH_LIMIT, published).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error_chain(&error)),
                Err(_) => Some(format!("the database has not answered for {PUBLISH_LIMIT:?}")),
            };
            if let Some(error) = error.as_ref().filter(|_| !failed) {
                tracing::warn!(error, "Cannot show how the workers stand, will try again");
            }
            failed = error.is_some();
            tokio::select! {
                () = tokio::time::sleep(PUBLISH_INTERVAL) => {}
                () = self.0.changed.notified() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Writes that the process ends; `panicked` names the worker that ended it, if
    /// one did.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn publish_end(
        &self,
        database: &Database,
        panicked: Option<&str>,
    ) -> Result<(), Error> {
        for worker in self.workers().iter_mut() {
            let broken = panicked == Some(worker.name.as_str());
            worker.state = if broken { State::Panicked } else { State::Stopped };
            worker.next_step_at = None;
            if broken {
                worker.last_error = Some("panicked; the log of the process says where".to_owned());
                worker.last_error_at = Some(Utc::now());
            }
        }
        self.publish_once(database).await
    }

    async fn publish_once(&self, database: &Database) -> Result<(), Error> {
        let workers = self.snapshot();
        database.record_workers(&self.0.process, &workers).await
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<WorkerStatus>> {
        self.0.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut WorkerStatus)) {
        let mut workers = self.workers();
        let Some(worker) = workers.iter_mut().find(|worker| worker.name == name) else { return };
        let before = worker.state;
        change(worker);
        if worker.state != before {
            self.0.changed.notify_one();
        }
    }
}

impl Status {
    /// A step was made.
    pub(crate) fn succeeded(&self, next: Next) {
        let now = Utc::now();
        metrics::counter!("exodrive_worker_steps_total", "worker" => self.name).increment(1);
        metrics::gauge!("exodrive_worker_failures", "worker" => self.name).set(0.0);
        self.statuses.change(self.name, |worker| {
            worker.steps += 1;
            worker.failures = 0;
            worker.last_step_at = Some(now);
            (worker.state, worker.next_step_at) = match next {
                Next::Now => (State::Waiting, Some(now)),
                Next::After(pause) => (State::Waiting, Some(later(now, pause))),
                Next::Never => (State::Off, None),
            };
        });
    }

    /// A step failed; the next is due after `pause`.
    pub(crate) fn failed(&self, error: &str, pause: Duration) {
        let now = Utc::now();
        metrics::counter!("exodrive_worker_step_failures_total", "worker" => self.name)
            .increment(1);
        self.statuses.change(self.name, |worker| {
            worker.failures = worker.failures.saturating_add(1);
            worker.state = State::Failing;
            worker.last_error = Some(error.to_owned());
            worker.last_error_at = Some(now);
            worker.next_step_at = Some(later(now, pause));
            metrics::gauge!("exodrive_worker_failures", "worker" => self.name)
                .set(f64::from(worker.failures));
        });
    }
}

fn later(now: DateTime<Utc>, pause: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(pause).ok().and_then(|pause| now.checked_add_signed(pause)).unwrap_or(now)
}
