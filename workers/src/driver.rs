//! Runs workers: one step after another, with back-off, status and metrics.

use crate::{
    status::{Status, Statuses},
    worker::{Next, StepError, Worker},
};
use exodrive_runtime::{error_chain, tasks::Tasks};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The pause after a first failure; it doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
/// The longest pause after failures.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// The time that a step has left when the process stops.
const STEP_GRACE: Duration = Duration::from_secs(3);
/// The time that a worker has to give back what it holds.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Runs workers as tasks of a process. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    tasks: Tasks,
    statuses: Statuses,
}

impl Driver {
    /// Runs workers among `tasks`: one that panics stops the process.
    pub fn new(tasks: Tasks, statuses: Statuses) -> Self {
        Self { tasks, statuses }
    }

    /// Runs a worker until the process stops.
    pub fn start<W: Worker>(&self, worker: W) {
        let status = self.statuses.of::<W>();
        self.tasks.spawn(W::NAME, drive(worker, status, self.tasks.stop().clone()));
    }
}

async fn drive<W: Worker>(mut worker: W, status: Status, stop: CancellationToken) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let outcome = tokio::select! {
            outcome = bounded(&mut worker) => outcome,
            // A step is idempotent: cut off, it is made again.
            () = after(&stop, STEP_GRACE) => break,
        };
        let next = match outcome {
            Ok(next) => {
                if failures > 0 {
                    tracing::info!(worker = W::NAME, failures, "The worker works again");
                }
                failures = 0;
                status.succeeded(next);
                next
            }
            Err(error) => {
                failures += 1;
                let pause = back_off(failures, rand::random());
                report(W::NAME, failures, pause, &error);
                status.failed(&error_chain(error.as_ref()), pause);
                Next::After(pause)
            }
        };
        let pause = async {
            match next {
                Next::Now => tokio::task::yield_now().await,
                Next::After(pause) => tokio::time::sleep(pause).await,
                Next::Never => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = stop.cancelled() => {}
        }
    }
    if tokio::time::timeout(STOP_GRACE, worker.stop()).await.is_err() {
        tracing::warn!(worker = W::NAME, "The worker did not give back what it holds in time");
    }
}

/// A step, cut off when it has taken too long.
async fn bounded<W: Worker>(worker: &mut W) -> Result<Next, StepError> {
    match W::LIMIT {
        None => worker.step().await,
        Some(limit) => tokio::time::timeout(limit, worker.step()).await.unwrap_or_else(|_| {
            Err(format!("the step had not ended after {} s", limit.as_secs()).into())
        }),
    }
}

/// Each failure once while it is new, then ever more rarely.
fn report(worker: &str, failures: u32, pause: Duration, error: &StepError) {
    let error = error_chain(error.as_ref());
    let again_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    if failures.is_power_of_two() {
        tracing::warn!(worker, failures, again_in_ms, error, "A step failed, will try again");
    } else {
        tracing::debug!(worker, failures, again_in_ms, error, "A step failed, will try again");
    }
}

async fn after(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// The pause after so many failures in a row: it doubles up to a bound, less up
/// to a quarter by chance (`chance` of 255), so that processes do not all try at
/// once.
fn back_off(failures: u32, chance: u8) -> Duration {
    let doubled = FIRST_BACK_OFF.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(LONGEST_BACK_OFF);
    pause - pause / 4 * u32::from(chance) / 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{System, status::State};
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    #[test]
    fn the_pause_after_failures_doubles_up_to_a_bound() {
        assert_eq!(back_off(1, 0), FIRST_BACK_OFF);
        assert_eq!(back_off(3, 0), FIRST_BACK_OFF * 4);
        assert_eq!(back_off(40, 0), LONGEST_BACK_OFF);
        assert_eq!(back_off(40, 255), LONGEST_BACK_OFF * 3 / 4);
    }

    /// Fails twice, then works.
    struct Flaky(Arc<AtomicU32>);

    impl Worker for Flaky {
        const NAME: &'static str = "flaky";
        const ABOUT: &'static str = "Fails twice, then works.";

        fn new(_: &System) -> Self {
            Self(Arc::default())
        }

        async fn step(&mut self) -> Result<Next, StepError> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err("not yet".into()),
                _ => Ok(Next::After(Duration::from_secs(60))),
            }
        }
    }

    /// Hangs in its first step.
    struct Hangs(Arc<AtomicU32>);

    impl Worker for Hangs {
        const NAME: &'static str = "hangs";
        const ABOUT: &'static str = "Hangs in its first step.";

        fn new(_: &System) -> Self {
            Self(Arc::default())
        }

        async fn step(&mut self) -> Result<Next, StepError> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(Next::After(Duration::from_secs(60)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_hangs_is_cut_off_and_made_again() {
        let (tasks, statuses) = (Tasks::new(CancellationToken::new()), Statuses::new("here"));
        Driver::new(tasks.clone(), statuses.clone()).start(Hangs(Arc::default()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let seen = statuses.snapshot().remove(0);
        assert_eq!((seen.state, seen.steps), (State::Waiting, 1));
        assert_eq!(seen.last_error.as_deref(), Some("the step had not ended after 20 s"));
        tasks.stop().cancel();
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, Vec::<&str>::new());
    }

    struct Panics;

    impl Worker for Panics {
        const NAME: &'static str = "panics";
        const ABOUT: &'static str = "Panics in its first step.";

        fn new(_: &System) -> Self {
            Self
        }

        async fn step(&mut self) -> Result<Next, StepError> {
            panic!("a defect")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_fails_is_made_again_and_its_failures_show() {
        let (tasks, statuses) = (Tasks::new(CancellationToken::new()), Statuses::new("here"));
        let steps = Arc::new(AtomicU32::new(0));
        Driver::new(tasks.clone(), statuses.clone()).start(Flaky(steps.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let seen = statuses.snapshot().remove(0);
        assert_eq!((seen.state, seen.failures), (State::Failing, 1));
        assert_eq!(seen.last_error.as_deref(), Some("not yet"));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let seen = statuses.snapshot().remove(0);
        assert_eq!((seen.state, seen.failures, seen.steps), (State::Waiting, 0, 1));
        assert_eq!(seen.last_error.as_deref(), Some("not yet"), "the last one is kept");
        tasks.stop().cancel();
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, Vec::<&str>::new());
    }

    #[tokio::test]
    async fn a_worker_that_panics_stops_the_process_and_is_named() {
        let (tasks, statuses) = (Tasks::new(CancellationToken::new()), Statuses::new("here"));
        Driver::new(tasks.clone(), statuses).start(Panics);
        let ended = tasks.run_until_stopped().await.unwrap_err();
        assert_eq!(ended.name, "panics");
    }
}
