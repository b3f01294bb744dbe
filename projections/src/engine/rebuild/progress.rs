//! Progress of a rebuild, stored for operators twice a second.

use crate::{
    Error,
    engine::{
        alive,
        projection::Definition,
        store::{
            LEASE,
            rebuilds::{self, Job, OperatorInput, RebuildProgress},
        },
    },
};
use sqlx::PgPool;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);

/// Keeps the lease of a rebuild for as long as this value exists.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    pool: PgPool,
    _beating: AbortOnDropHandle<()>,
}

struct Shared {
    reached: Mutex<RebuildProgress>,
    accepted: AtomicBool,
    /// Cancelled when the rebuild must end.
    ended: CancellationToken,
    /// True if an operator cancelled it; otherwise the lease is lost.
    cancelled: AtomicBool,
}

impl Progress {
    pub(crate) fn start(definition: Definition, pool: PgPool, job: Job) -> Self {
        let shared = Arc::new(Shared {
            reached: Mutex::default(),
            accepted: AtomicBool::new(false),
            ended: CancellationToken::new(),
            cancelled: AtomicBool::new(false),
        });
        let (own, beside) = (shared.clone(), pool.clone());
        let beating = tokio::spawn(async move {
            let mut before = (Instant::now(), 0);
            let mut rate: Option<f64> = None;
            loop {
                let mut reached = *own.reached();
                let now = (Instant::now(), reached.done);
                let seconds = now.0.duration_since(before.0).as_secs_f64();
                if seconds > 0.1 {
                    let lately = now.1.saturating_sub(before.1) as f64 / seconds;
                    rate = Some(rate.map_or(lately, |rate| 0.7 * rate + 0.3 * lately));
                    before = now;
                }
                reached.events_per_second = rate.unwrap_or(0.0);
                let beat = rebuilds::heartbeat(definition, &pool, &job, reached);
                match alive::within(LEASE, beat).await {
                    Ok(OperatorInput { accepted, cancel_wanted }) => {
                        own.accepted.store(accepted, Ordering::Relaxed);
                        if cancel_wanted {
                            own.cancelled.store(true, Ordering::Relaxed);
                            own.ended.cancel();
                        }
                    }
                    Err(Error::Fenced(_)) => own.ended.cancel(),
                    // The lease lasts a while; if it is lost, the next heartbeat reports it.
                    Err(_) => {}
                }
                tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            }
        });
        Self { shared, pool: beside, _beating: AbortOnDropHandle::new(beating) }
    }

    /// The connections of what goes on beside the rebuild.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Sets the number of events to fold.
    pub(crate) fn total(&self, events: u64) {
        self.shared.reached().total = events;
    }

    /// Sets the bytes of rows that may be in memory.
    pub(crate) fn limit(&self, bytes: u64) {
        self.shared.reached().resident_limit = bytes;
    }

    /// Records that events have been folded up to a position.
    pub(crate) fn reached(&self, position: u64, resident: usize, yielded: Duration) {
        let mut reached = self.shared.reached();
        reached.done = position;
        reached.resident = resident as u64;
        reached.yielded_seconds = yielded.as_secs_f64();
    }

    /// Records that the rows are loaded and the generation is at a position.
    pub(crate) fn follows(&self, position: u64) {
        let mut reached = self.shared.reached();
        reached.done = position;
        reached.resident = 0;
    }

    /// True if an operator has accepted the differences.
    pub(crate) fn accepted(&self) -> bool {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Waits until the rebuild must end before it is done.
    pub(crate) async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }

    /// True if an operator has cancelled it.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn reached(&self) -> MutexGuard<'_, RebuildProgress> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
