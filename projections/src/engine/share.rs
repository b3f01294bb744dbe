//! How a worker's parts are counted against its share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many parts a worker has, and how many are its share while there are
/// other workers.
#[derive(Clone, Default)]
pub(crate) struct Share(Option<Arc<Counts>>);

struct Counts {
    held: AtomicUsize,
    fair: AtomicUsize,
}

impl Share {
    pub(crate) fn among_workers() -> Self {
        Self(Some(Arc::new(Counts {
            held: AtomicUsize::new(0),
            fair: AtomicUsize::new(usize::MAX),
        })))
    }

    /// So many parts are the worker's share now.
    pub(crate) fn set_fair(&self, parts: usize) {
        if let Some(counts) = &self.0 {
            counts.fair.store(parts.max(1), Ordering::Relaxed);
        }
    }

    /// Whether the worker should give a part up.
    pub(crate) fn surplus(&self) -> bool {
        self.0.as_ref().is_some_and(|counts| {
            counts.held.load(Ordering::Relaxed) > counts.fair.load(Ordering::Relaxed)
        })
    }

    /// Counts one more part, unless that is more than the worker's share; an
    /// orphaned part is counted all the same.
    pub(crate) fn claim_slot(&self, orphaned: bool) -> Option<(CountedPartition, Slot)> {
        let Some(counts) = &self.0 else { return Some((CountedPartition(None), Slot::Fair)) };
        let fair = counts.fair.load(Ordering::Relaxed);
        let more = |held: usize| (held < fair || orphaned).then_some(held + 1);
        let held = counts.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let slot = if held < fair { Slot::Fair } else { Slot::BeyondShare };
        Some((CountedPartition(Some(counts.clone())), slot))
    }
}

/// How a part counts against its worker's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// It is given up once the worker has more than its share.
    Fair,
    /// It is kept however many parts the worker has: nobody else takes it.
    BeyondShare,
}

/// A part that counts as held until this is dropped.
pub(crate) struct CountedPartition(Option<Arc<Counts>>);

impl Drop for CountedPartition {
    fn drop(&mut self) {
        if let Some(counts) = &self.0 {
            counts.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
