//! The contract of a worker.

use crate::System;
use std::{future::Future, time::Duration};

/// The error of a step. The driver logs it, shows it, and tries again.
pub type StepError = Box<dyn std::error::Error + Send + Sync>;

/// The time of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: there is more to do, or the step itself waited for work.
    Now,
    /// After this time.
    After(Duration),
    /// Never: its settings switch it off.
    Never,
}

/// Work that goes on as long as the process runs, in steps.
///
/// A step looks at the log or the database, does what is due, and returns. It
/// takes no input, so that it does the same after a restart, and it is
/// idempotent: every process runs it, and it may be cut off anywhere, when the
/// process ends or when it has taken too long.
pub trait Worker: Send + Sized + 'static {
    /// Its name in status, metrics and log lines: lower case, with hyphens.
    const NAME: &'static str;
    /// A sentence for operators about its work.
    const ABOUT: &'static str;

    /// The longest time of a step, which is cut off then and made again: its connection to the
    /// database may be dead. `None`: a step takes as long as the log is, and finds that out itself.
    const LIMIT: Option<Duration> = Some(Duration::from_secs(20));

    /// The worker of a process. Does nothing yet.
    fn new(system: &System) -> Self;

    /// Does what is due, and says when the next step is.
    ///
    /// # Errors
    /// Whatever kept it from that. The driver backs off and tries again.
    fn step(&mut self) -> impl Future<Output = Result<Next, StepError>> + Send;

    /// Gives back what others could take over at once, when the process stops.
    fn stop(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A worker of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// [`Worker::NAME`].
    pub name: &'static str,
    /// [`Worker::ABOUT`].
    pub about: &'static str,
}

impl Description {
    /// Of a worker.
    pub const fn of<W: Worker>() -> Self {
        Self { name: W::NAME, about: W::ABOUT }
    }
}
