//! Rows that wait behind an event which cannot be folded, so that whoever
//! reads one of them is told.

use exodrive_projections::Database;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often Postgres is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// For each view the keys (or subjects) with parked events, and where the first
/// of them stands. Cheap to clone.
#[derive(Clone, Default)]
pub struct BlockedKeys(Arc<RwLock<HashMap<String, HashMap<String, u64>>>>);

impl BlockedKeys {
    /// Keeps up with Postgres until `stop`. While that does not answer, what
    /// was known stands.
    pub async fn follow(self, database: Database, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Ok(found) = database.blocked_keys().await {
                let mut blocked: HashMap<String, HashMap<String, u64>> = HashMap::new();
                for (view, key, position) in found {
                    blocked.entry(view).or_default().insert(key, position);
                }
                *self.0.write().unwrap_or_else(PoisonError::into_inner) = blocked;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The position of the event that a row of this key waits behind, if it
    /// does. `keys` are the row's key and the subjects of its events.
    pub fn behind(&self, view: &str, keys: &[&str]) -> Option<u64> {
        let blocked = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of_view = blocked.get(view)?;
        keys.iter().filter_map(|key| of_view.get(*key).copied()).min()
    }
}
