//! Makes a rebuild wait while reads are slow.

use crate::engine::{
    RebuildSettings, alive,
    cache::Cache,
    projection::Definition,
    store::{LEASE, generations},
};
use sqlx::PgPool;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Time between two reads that measure how long readers wait.
const PROBE: Duration = Duration::from_millis(100);
/// Number of reads that are measured.
const READS: usize = 10;
/// Pauses grow from the first to the second while reads are slow.
const DELAY_RANGE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(500)];

/// Makes a rebuild pause while reads take longer than its limit.
pub(crate) struct Governor {
    shared: Arc<Shared>,
    _probe: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    pause_us: AtomicU64,
    yielded_us: AtomicU64,
}

impl Governor {
    /// Begins to measure how long readers of a generation wait.
    pub(crate) fn watch(
        definition: Definition,
        pool: PgPool,
        cache: Cache,
        generation: i32,
        settings: RebuildSettings,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        let probe = tokio::spawn(async move {
            let mut reads = VecDeque::with_capacity(READS);
            loop {
                tokio::time::sleep(PROBE).await;
                let began = Instant::now();
                let somewhere = Uuid::now_v7().to_string().split_off(24);
                let probe = generations::probe(definition, &pool, generation, &somewhere);
                let _ = alive::within(LEASE, probe).await;
                let _ = cache.generation(definition.name, definition.version.unsigned_abs()).await;
                reads.push_back(began.elapsed());
                if reads.len() > READS {
                    reads.pop_front();
                }
                let mut sorted: Vec<_> = reads.iter().copied().collect();
                sorted.sort_unstable();
                let slow = sorted[sorted.len() * 8 / 10];
                let pause = Duration::from_micros(own.pause_us.load(Ordering::Relaxed));
                let pause = next(pause, slow > settings.read_limit);
                own.pause_us.store(micros(pause), Ordering::Relaxed);
            }
        });
        Self { shared, _probe: AbortOnDropHandle::new(probe) }
    }

    /// Waits for as long as slow reads require.
    pub(crate) async fn yield_to_readers(&self) {
        let pause = self.shared.pause_us.load(Ordering::Relaxed);
        if pause > 0 {
            tokio::time::sleep(Duration::from_micros(pause)).await;
            self.shared.yielded_us.fetch_add(pause, Ordering::Relaxed);
        }
    }

    /// Total of the pauses.
    pub(crate) fn yielded(&self) -> Duration {
        Duration::from_micros(self.shared.yielded_us.load(Ordering::Relaxed))
    }
}

/// The pause after this one.
fn next(pause: Duration, slow: bool) -> Duration {
    match (slow, pause > DELAY_RANGE[0]) {
        (true, _) => (pause * 2).clamp(DELAY_RANGE[0], DELAY_RANGE[1]),
        (false, true) => pause / 2,
        (false, false) => Duration::ZERO,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_reads_are_slow_and_go_when_they_are_not() {
        let mut pause = Duration::ZERO;
        for _ in 0..20 {
            let longer = next(pause, true);
            assert!(longer > pause || longer == DELAY_RANGE[1]);
            pause = longer;
        }
        assert_eq!(pause, DELAY_RANGE[1]);
        for _ in 0..20 {
            pause = next(pause, false);
        }
        assert_eq!(pause, Duration::ZERO);
    }
}
