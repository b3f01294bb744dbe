//! The background tasks of a process: none ends unseen.
//!
//! A task that panics, or returns before the process was asked to stop, stops
//! the process: its name is in the log, in [`Tasks::ended`] (for readiness) and
//! in the metric `exodrive_task_ended_total`, and [`Tasks::run_until_stopped`]
//! gives an error, so that the exit code is not 0 and a supervisor starts the
//! process again.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinError;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Makes the task of this name panic as soon as it begins, so that operators and
/// tests can see that its end is noticed.
pub const PANIC_DRILL: &str = "EXODRIVE_PANIC_DRILL";

/// The background tasks of a process. Cheap to clone.
#[derive(Clone)]
pub struct Tasks(Arc<Shared>);

struct Shared {
    stop: CancellationToken,
    tracker: TaskTracker,
    /// The name of each task that runs, and whether its end is waited for.
    running: Mutex<Vec<(&'static str, bool)>>,
    ended: Mutex<Option<TaskEnded>>,
    drill: Option<String>,
}

/// A task that ended though nobody had asked the process to stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the background task `{name}` {how}; see the lines above")]
pub struct TaskEnded {
    /// The task's name.
    pub name: &'static str,
    /// The way in which it ended.
    pub how: HowEnded,
}

/// The way in which a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowEnded {
    /// It panicked.
    Panicked,
    /// It returned, and should not have.
    Returned,
}

impl std::fmt::Display for HowEnded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Panicked => "panicked",
            Self::Returned => "ended by itself",
        })
    }
}

impl Tasks {
    /// The tasks of a process that runs until `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            stop,
            tracker: TaskTracker::new(),
            running: Mutex::default(),
            ended: Mutex::default(),
            drill: std::env::var(PANIC_DRILL).ok().filter(|name| !name.is_empty()),
        }))
    }

    /// Cancelled when the process is asked to stop, or when a task has ended.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Runs a task in the background. It must run until [`Tasks::stop`] is
    /// cancelled.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tracker.spawn(self.supervise(name, true, task));
    }

    /// Runs a task in the background for as long as the process lives:
    /// [`Tasks::finish`] does not wait for it.
    pub fn spawn_to_the_last(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        tokio::spawn(self.supervise(name, false, task));
    }

    /// Begins a task; the future ends with it, and records how it ended.
    fn supervise(
        &self,
        name: &'static str,
        waited_for: bool,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let drill = self.0.drill.as_deref() == Some(name);
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).push((name, waited_for));
        let tasks = self.clone();
        let task = tokio::spawn(async move {
            if drill {
                panic_for_the_drill();
            }
            task.await;
        });
        async move {
            let outcome = task.await;
            tasks.record_end(name, outcome);
        }
    }

    /// Runs work that somebody waits for to its end, even if they stop waiting:
    /// [`Tasks::finish`] waits for it. Its panic is given to who waits.
    ///
    /// # Errors
    /// When the work panicked.
    pub async fn run_detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        self.0.tracker.spawn(work).await
    }

    /// The names of the tasks that run.
    pub fn running(&self) -> Vec<&'static str> {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|(name, _)| *name).collect()
    }

    /// The first task that ended though it should not have.
    pub fn ended(&self) -> Option<TaskEnded> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the process is asked to stop.
    ///
    /// # Errors
    /// When a task ended instead.
    pub async fn run_until_stopped(&self) -> Result<(), TaskEnded> {
        self.0.stop.cancelled().await;
        self.outcome()
    }

    /// Fails if a task ended though it should not have.
    ///
    /// # Errors
    /// The first such task.
    pub fn outcome(&self) -> Result<(), TaskEnded> {
        self.ended().map_or(Ok(()), Err)
    }

    /// Waits until every task has ended, for `limit` at most. Gives the names
    /// of those that have not.
    pub async fn finish(&self, limit: Duration) -> Vec<&'static str> {
        self.0.tracker.close();
        if tokio::time::timeout(limit, self.0.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = running.iter().filter(|(_, waited_for)| *waited_for).map(|(name, _)| *name);
        // What has no name is a request.
        let named = tasks.clone().count();
        let requests = (self.0.tracker.len() > named).then_some("requests");
        tasks.chain(requests).collect()
    }

    fn record_end(&self, name: &'static str, outcome: Result<(), JoinError>) {
        {
            let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = running.iter().position(|(running, _)| *running == name) {
                running.remove(index);
            }
        }
        let how = match outcome {
            Ok(()) if self.0.stop.is_cancelled() => return,
            Ok(()) => HowEnded::Returned,
            Err(_) => HowEnded::Panicked,
        };
        let ended = TaskEnded { name, how };
        tracing::error!(task = name, "The background task `{name}` {how}: the process stops");
        metrics::counter!("exodrive_task_ended_total", "task" => name).increment(1);
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(ended);
        self.0.stop.cancel();
    }
}

#[expect(clippy::panic, reason = "that is what was asked for")]
fn panic_for_the_drill() {
    panic!("{PANIC_DRILL}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Tasks {
        Tasks::new(CancellationToken::new())
    }

    #[tokio::test]
    async fn a_task_that_panics_stops_the_process_and_is_named() {
        let tasks = tasks();
        let stop = tasks.stop().clone();
        tasks.spawn("steady", async move { stop.cancelled().await });
        tasks.spawn("broken", async { panic!("a defect") });
        let ended = TaskEnded { name: "broken", how: HowEnded::Panicked };
        assert_eq!(tasks.run_until_stopped().await, Err(ended.clone()));
        assert_eq!(tasks.ended(), Some(ended));
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, Vec::<&str>::new());
    }

    #[tokio::test]
    async fn a_task_that_returns_too_early_stops_the_process_and_is_named() {
        let tasks = tasks();
        tasks.spawn("early", async {});
        let ended = TaskEnded { name: "early", how: HowEnded::Returned };
        assert_eq!(tasks.run_until_stopped().await, Err(ended));
    }

    #[tokio::test]
    async fn a_process_that_was_asked_to_stop_ends_well() {
        let tasks = tasks();
        let stop = tasks.stop().clone();
        tasks.spawn("steady", async move { stop.cancelled().await });
        assert_eq!(tasks.running(), ["steady"]);
        tasks.stop().cancel();
        assert_eq!(tasks.run_until_stopped().await, Ok(()));
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, Vec::<&str>::new());
    }

    #[tokio::test]
    async fn what_does_not_end_in_time_is_named() {
        let tasks = tasks();
        tasks.spawn("stuck", std::future::pending());
        tasks.stop().cancel();
        assert_eq!(tasks.finish(Duration::from_millis(10)).await, ["stuck"]);
    }

    #[tokio::test]
    async fn detached_work_goes_on_when_nobody_waits() {
        let (tasks, done) = (tasks(), Arc::new(Mutex::new(false)));
        let mark = done.clone();
        let work = async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            *mark.lock().unwrap() = true;
        };
        // Somebody waits for less time than the work takes.
        let waited = tokio::time::timeout(Duration::from_millis(1), tasks.run_detached(work)).await;
        assert!(waited.is_err());
        tasks.stop().cancel();
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, Vec::<&str>::new());
        assert!(*done.lock().unwrap());
    }
}
