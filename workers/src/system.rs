//! The parts of the system that workers use.

use exodrive_audit::seal::SealKeys;
use exodrive_log::Log;
use exodrive_projections::{Database, engine::cache::Cache};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The parts of the system that workers use. Cheap to clone.
#[derive(Clone)]
pub struct System {
    /// The log.
    pub log: Log,
    /// The database, as its owner.
    pub database: Database,
    /// The database, as a role that reads.
    pub readers: Database,
    /// Redis.
    pub cache: Cache,
    /// The name of this process.
    pub process: String,
    /// The keys that sign checkpoints.
    pub seal_keys: Arc<SealKeys>,
    /// An event waits no longer than this for its checkpoint.
    pub seal_interval: Duration,
    /// The interval at which views are compared with the log; zero: never.
    pub check_interval: Duration,
    /// Cancelled by the erasure worker once what was erased is known to be gone:
    /// projections fold nothing before.
    pub erased_is_gone: CancellationToken,
}
