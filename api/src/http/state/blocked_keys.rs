//! Keys whose rows wait behind an event that cannot be folded, so that the API
//! can say so to a reader.

use exodrive_projections::Database;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Interval at which Postgres is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Longest time of a poll.
const POLL_LIMIT: Duration = Duration::from_secs(5);

/// Keys (or subjects) of each view with parked events, and the position of the
/// first one. Cheap to clone.
#[derive(Clone, Default)]
pub struct BlockedKeys(Arc<RwLock<HashMap<String, HashMap<String, u64>>>>);

impl BlockedKeys {
    /// Polls Postgres until `stop`. While Postgres does not answer, the last
    /// answer stays in use.
    pub async fn follow(self, database: Database, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Ok(Ok(found)) = timeout(POLL_LIMIT, database.blocked_keys()).await {
                let mut blocked: HashMap<String, HashMap<String, u64>> = HashMap::new();
                for (view, key, position) in found {
                    blocked.entry(view).or_default().insert(key, position);
                }
                *self.0.write().unwrap_or_else(PoisonError::into_inner) = blocked;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Position of the event that a row of this key waits behind, if it waits.
    /// `keys` are the row's key and the subjects of its events.
    pub fn behind(&self, view: &str, keys: &[&str]) -> Option<u64> {
        let blocked = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of_view = blocked.get(view)?;
        keys.iter().filter_map(|key| of_view.get(*key).copied()).min()
    }

    /// Number of keys (or subjects) of a view that wait.
    pub fn number(&self, view: &str) -> usize {
        let blocked = self.0.read().unwrap_or_else(PoisonError::into_inner);
        blocked.get(view).map_or(0, HashMap::len)
    }
}
