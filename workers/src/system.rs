//! What workers work on.

use exodrive_audit::seal::SealKeys;
use exodrive_log::Log;
use exodrive_projections::{Database, engine::cache::Cache};
use std::{sync::Arc, time::Duration};

/// What workers work on. Cheap to clone.
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
    /// This process's name.
    pub process: String,
    /// Who signs checkpoints.
    pub seal_keys: Arc<SealKeys>,
    /// An event waits no longer than this for its checkpoint.
    pub seal_interval: Duration,
    /// How often views are compared with the log; zero: never.
    pub check_interval: Duration,
}
