//! Rebuilds as they come on, for those who follow them: each is read once for all of them.

use exodrive_commands::operations::{Job, Operator, OperatorError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// Interval at which a rebuild that is followed is read.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The rebuilds that are followed. Cheap to clone.
#[derive(Clone)]
pub struct RebuildFeeds {
    operator: Operator,
    feeds: Arc<Mutex<HashMap<Uuid, watch::Receiver<Job>>>>,
}

impl RebuildFeeds {
    /// None is followed yet.
    pub fn new(operator: Operator) -> Self {
        Self { operator, feeds: Arc::default() }
    }

    /// A rebuild as it is, and as it will be. The feed ends when the rebuild is over.
    ///
    /// # Errors
    /// When there is none with this id, or it cannot be read.
    pub(crate) async fn follow(&self, id: Uuid) -> Result<watch::Receiver<Job>, OperatorError> {
        if let Some(feed) = live(&self.feeds(), id) {
            return Ok(feed);
        }
        let first = self.operator.find_job(id).await?;
        let mut feeds = self.feeds();
        if let Some(feed) = live(&feeds, id) {
            return Ok(feed);
        }
        let (sender, feed) = watch::channel(first);
        feeds.insert(id, feed.clone());
        drop(feeds);
        tokio::spawn(self.clone().poll(id, sender));
        Ok(feed)
    }

    /// Reads a rebuild until it is over, or nobody follows it any more.
    async fn poll(self, id: Uuid, sender: watch::Sender<Job>) {
        while !sender.borrow().is_over() {
            tokio::time::sleep(POLL_INTERVAL).await;
            {
                let mut feeds = self.feeds();
                // The one in the map is nobody's.
                if sender.receiver_count() <= 1 {
                    feeds.remove(&id);
                    return;
                }
            }
            match self.operator.find_job(id).await {
                Ok(now) => {
                    sender.send_if_modified(|last| {
                        let changed = *last != now;
                        *last = now;
                        changed
                    });
                }
                Err(OperatorError::NoSuchRebuild) => break,
                // The database is away. It goes on when that answers again.
                Err(_) => {}
            }
        }
        self.feeds().remove(&id);
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Receiver<Job>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The feed of a rebuild, if there is one that has not ended.
fn live(feeds: &HashMap<Uuid, watch::Receiver<Job>>, id: Uuid) -> Option<watch::Receiver<Job>> {
    feeds.get(&id).filter(|feed| feed.has_changed().is_ok()).cloned()
}
