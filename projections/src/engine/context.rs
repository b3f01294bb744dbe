//! The engine of one projection: everything that its parts work with.

use super::{
    cache::Cache,
    database::Database,
    feed::Feed,
    fold::{self, RouteFn},
    projection::{Definition, Projection},
    share::Share,
};
use exodrive_log::Log;
use std::{sync::Arc, time::Duration};

/// A step of the engine's work on a batch. Passed to the hook of `Runner::on_step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Events were read.
    Read,
    /// Their rows were loaded.
    Loaded,
    /// Changed rows were written, not committed.
    Written,
    /// The checkpoint was moved, not committed.
    Advanced,
    /// Rows and checkpoint are committed.
    Committed,
    /// Redis has the rows.
    Published,
}

pub(crate) type OnStep = Arc<dyn Fn(Step) + Send + Sync>;

/// Settings of rebuilds.
#[derive(Clone, Copy, Debug)]
pub struct RebuildSettings {
    /// Bytes of rows that a rebuild holds in memory at most.
    pub memory: u64,
    /// Time that a read may take before a rebuild yields to readers.
    pub read_limit: Duration,
}

impl Default for RebuildSettings {
    fn default() -> Self {
        Self { memory: 256 << 20, read_limit: Duration::from_millis(25) }
    }
}

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineSettings {
    /// Of rebuilds.
    pub rebuilds: RebuildSettings,
    /// Processor time that the fold of one event may take before the event is parked.
    pub fold_limit: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { rebuilds: RebuildSettings::default(), fold_limit: Duration::from_millis(500) }
    }
}

/// One projection, with its log, its database and its cache. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) definition: Definition,
    /// A projection's own code, behind a pointer: code that uses it is compiled once for all
    /// projections.
    pub(crate) route: RouteFn,
    pub(crate) log: Log,
    pub(crate) feed: Feed,
    pub(crate) database: Database,
    pub(crate) cache: Cache,
    pub(crate) worker: String,
    pub(crate) share: Share,
    pub(crate) settings: EngineSettings,
    pub(crate) on_step: Option<OnStep>,
}

impl Engine {
    /// An engine that shares nothing with others.
    pub(crate) fn new<P: Projection>(
        log: Log,
        database: Database,
        cache: Cache,
        worker: &str,
    ) -> Self {
        Self {
            definition: Definition::of::<P>(),
            route: fold::route::<P>,
            feed: Feed::new(log.clone()),
            log,
            database,
            cache,
            worker: worker.to_owned(),
            share: Share::default(),
            settings: EngineSettings::default(),
            on_step: None,
        }
    }

    pub(crate) fn step(&self, step: Step) {
        if let Some(hook) = &self.on_step {
            hook(step);
        }
    }
}
