//! Views in this process, in front of those in Redis. Kept only while Redis
//! tells what changes, so that nothing old is served.

use bytes::Bytes;
use exodrive_projections::cache::{Cache, PATIENCE};
use futures::{Stream, StreamExt};
use moka::sync::Cache as Local;
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Bytes of answers kept.
const CAPACITY: u64 = 64 << 20;
/// The publisher gives a sign of life every second.
const SILENCE: Duration = Duration::from_millis(2_500);
/// Keys share counters of changes; more of them, fewer needless misses.
const COUNTERS: usize = 1_024;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// This process.
    L1,
    /// Redis.
    L2,
}

impl Level {
    /// As in `X-Cache`.
    pub fn name(self) -> &'static str {
        match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
        }
    }
}

/// The answers of one view. Cheap to clone.
#[derive(Clone)]
pub struct ViewCache {
    view: &'static str,
    redis: Cache,
    shared: Arc<Shared>,
}

struct Shared {
    local: Local<String, (u64, Bytes)>,
    /// Whether every change since what is kept was read has been heard of.
    trusted: AtomicBool,
    /// How often keys that hash here have changed.
    changes: Vec<AtomicU64>,
    hasher: RandomState,
}

impl ViewCache {
    /// Answers of `view`, from Redis alone until [`ViewCache::follow`] runs.
    pub fn new(view: &'static str, redis: Cache) -> Self {
        let local = Local::builder()
            .max_capacity(CAPACITY)
            .weigher(|key: &String, (_, json): &(u64, Bytes)| {
                u32::try_from(key.len() + json.len() + 64).unwrap_or(u32::MAX)
            })
            .build();
        let shared = Shared {
            local,
            trusted: AtomicBool::new(false),
            changes: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        };
        Self { view, redis, shared: Arc::new(shared) }
    }

    /// The answer for a key, with the position that last changed it; `None` if
    /// neither this process nor Redis has it.
    pub async fn get(&self, key: &str) -> Option<(u64, Bytes, Level)> {
        let Shared { local, trusted, .. } = &*self.shared;
        if trusted.load(Ordering::Acquire)
            && let Some((position, json)) = local.get(key)
        {
            return Some((position, json, Level::L1));
        }
        let changes = self.changes(key);
        let before = changes.load(Ordering::Acquire);
        let (position, json) = self.redis.view(self.view, key).await.ok()??;
        let json = Bytes::from(json);
        if trusted.load(Ordering::Acquire) {
            local.insert(key.to_owned(), (position, json.clone()));
            // It may have changed between the answer and now.
            if changes.load(Ordering::Acquire) != before || !trusted.load(Ordering::Acquire) {
                local.invalidate(key);
            }
        }
        Some((position, json, Level::L2))
    }

    fn changes(&self, key: &str) -> &AtomicU64 {
        let hash = self.shared.hasher.hash_one(key);
        #[expect(clippy::cast_possible_truncation, reason = "less than COUNTERS")]
        let index = (hash % COUNTERS as u64) as usize;
        &self.shared.changes[index]
    }

    /// Listens for changes until `stop`. While it cannot, nothing is kept.
    pub async fn follow(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Ok(notices) = self.redis.changes(self.view).await {
                tokio::select! {
                    () = self.heed(notices) => {}
                    () = stop.cancelled() => {}
                }
                self.distrust();
            }
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Drops what each notice names; ends when notices do.
    async fn heed(&self, notices: impl Stream<Item = Vec<String>>) {
        let mut notices = std::pin::pin!(notices);
        while let Ok(Some(keys)) = tokio::time::timeout(SILENCE, notices.next()).await {
            for key in keys {
                self.changes(&key).fetch_add(1, Ordering::AcqRel);
                self.shared.local.invalidate(&key);
            }
            if !self.shared.trusted.load(Ordering::Acquire) {
                // What is on its way from Redis may have changed before we heard.
                self.forget();
                self.shared.trusted.store(true, Ordering::Release);
            }
        }
    }

    fn distrust(&self) {
        self.shared.trusted.store(false, Ordering::Release);
        self.forget();
    }

    fn forget(&self) {
        for changes in &self.shared.changes {
            changes.fetch_add(1, Ordering::AcqRel);
        }
        self.shared.local.invalidate_all();
    }
}
