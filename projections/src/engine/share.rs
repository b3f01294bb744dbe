//! Counts a worker's partitions against its share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The number of partitions that a worker has, and the number that is its share while there are
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

    /// Sets the worker's share to this many partitions.
    pub(crate) fn set_fair(&self, parts: usize) {
        if let Some(counts) = &self.0 {
            counts.fair.store(parts.max(1), Ordering::Relaxed);
        }
    }

    /// True if the worker should give a partition up.
    pub(crate) fn surplus(&self) -> bool {
        self.0.as_ref().is_some_and(|counts| {
            counts.held.load(Ordering::Relaxed) > counts.fair.load(Ordering::Relaxed)
        })
    }

    /// Counts one more partition, unless it exceeds the worker's share and is not orphaned.
    pub(crate) fn claim_slot(&self, orphaned: bool) -> Option<(CountedPartition, Slot)> {
        let Some(counts) = &self.0 else { return Some((CountedPartition(None), Slot::Fair)) };
        let fair = counts.fair.load(Ordering::Relaxed);
        let more = |held: usize| (held < fair || orphaned).then_some(held + 1);
        let held = counts.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let slot = if held < fair { Slot::Fair } else { Slot::BeyondShare };
        Some((CountedPartition(Some(counts.clone())), slot))
    }
}

/// The way in which a partition counts against its worker's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The worker gives it up once it has more than its share.
    Fair,
    /// The worker keeps it however many it has: no other worker takes it.
    BeyondShare,
}

/// A partition that counts as held until this is dropped.
pub(crate) struct CountedPartition(Option<Arc<Counts>>);

impl Drop for CountedPartition {
    fn drop(&mut self) {
        if let Some(counts) = &self.0 {
            counts.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
