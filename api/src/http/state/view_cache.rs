//! Cache of views in this process, in front of Redis. It is used only while
//! Redis sends notices of changes, so no old answer is served.

use bytes::Bytes;
use exodrive_projections::{
    engine::cache::{Cache, Notice, REDIS_TIMEOUT, View},
    version,
};
use futures::{Stream, StreamExt};
use moka::sync::Cache as Local;
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Bytes of cached answers.
const CAPACITY: u64 = 64 << 20;
/// Time without a notice after which notices count as lost: the publisher sends
/// one every second.
const NOTICE_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Counters of changes, which keys share. More counters mean fewer needless
/// misses.
const COUNTERS: usize = 1_024;

/// Level of the cache that an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// This process.
    L1,
    /// Redis.
    L2,
}

impl Level {
    /// Name of the level in `X-Cache`.
    pub fn name(self) -> &'static str {
        match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
        }
    }
}

/// Cached answers of one view. Cheap to clone.
#[derive(Clone)]
pub struct ViewCache {
    view: &'static str,
    version: u32,
    redis: Cache,
    shared: Arc<Shared>,
}

struct Shared {
    local: Local<String, (u64, Bytes)>,
    /// The generation that was read last; 0 if none was read.
    read: AtomicI32,
    /// The generation of the cached answers, if every notice since it was read
    /// has arrived; else 0.
    trusted: AtomicI32,
    /// Number of changes of the keys that share each counter.
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
            read: AtomicI32::new(0),
            trusted: AtomicI32::new(0),
            changes: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        };
        let version = version(view).unsigned_abs();
        Self { view, version, redis, shared: Arc::new(shared) }
    }

    /// The answer for a key, with the position that last changed it; `None` if
    /// neither this process nor Redis has it.
    pub async fn get(&self, key: &str) -> Option<(u64, Bytes, Level)> {
        let Shared { local, read, trusted, .. } = &*self.shared;
        if trusted.load(Ordering::Acquire) != 0
            && let Some((position, json)) = local.get(key)
        {
            return Some((position, json, Level::L1));
        }
        let changes = self.changes(key);
        let before = changes.load(Ordering::Acquire);
        let guess = read.load(Ordering::Acquire);
        let found = self.redis.view(self.view, self.version, guess, key).await.ok()??;
        let View { generation, position, json } = found;
        if generation != guess {
            read.store(generation, Ordering::Release);
        }
        let json = Bytes::from(json);
        if trusted.load(Ordering::Acquire) == generation {
            local.insert(key.to_owned(), (position, json.clone()));
            // The row may have changed between the answer and now.
            if changes.load(Ordering::Acquire) != before
                || trusted.load(Ordering::Acquire) != generation
            {
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

    /// Listens for changes until `stop`. While it cannot listen, nothing is
    /// cached.
    pub async fn follow(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Ok(notices) = self.redis.changes(self.view).await {
                tokio::select! {
                    () = self.consume_notices(notices) => {}
                    () = stop.cancelled() => {}
                }
                self.mark_unreliable();
            }
            tokio::time::sleep(REDIS_TIMEOUT).await;
        }
    }

    /// Drops the answer that each notice names. Ends when the notices end, or
    /// when another generation is to be read.
    async fn consume_notices(&self, notices: impl Stream<Item = Notice>) {
        let read = self.redis.generation(self.view, self.version).await;
        let Ok(Some(generation)) = read else { return };
        let mut notices = std::pin::pin!(notices.filter_map(async |notice| match notice {
            Notice::Changed(of, keys) => (of == generation).then_some(Some(keys)),
            Notice::Switched => Some(None),
        }));
        while let Ok(Some(Some(keys))) = tokio::time::timeout(NOTICE_TIMEOUT, notices.next()).await
        {
            for key in keys {
                self.changes(&key).fetch_add(1, Ordering::AcqRel);
                self.shared.local.invalidate(&key);
            }
            if self.shared.trusted.load(Ordering::Acquire) != generation {
                // An answer on its way from Redis may have changed before the
                // notices began.
                self.clear_all();
                self.shared.trusted.store(generation, Ordering::Release);
            }
        }
    }

    fn mark_unreliable(&self) {
        self.shared.trusted.store(0, Ordering::Release);
        self.clear_all();
    }

    fn clear_all(&self) {
        for changes in &self.shared.changes {
            changes.fetch_add(1, Ordering::AcqRel);
        }
        self.shared.local.invalidate_all();
    }
}
