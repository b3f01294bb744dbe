//! The time by the log server's clock, so that machines with wrong clocks agree
//! on the time.

use crate::names::STREAM;
use async_nats::jetstream::Context;
use chrono::{DateTime, Utc};
use exodrive_domain::time;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

/// The time for which an answer of the server is relied on.
const REFRESH: Duration = Duration::from_secs(30);
/// The longest round trip of an answer whose time is exact enough.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);

/// The log server's clock, continued by this machine's monotonic one. Cheap to
/// clone; clones agree.
#[derive(Clone)]
pub(crate) struct LogClock {
    context: Context,
    shared: Arc<Shared>,
}

/// Times are nanoseconds: since `started`, or by the Unix clock.
struct Shared {
    started: Instant,
    /// The server's time when the process started.
    offset: AtomicI64,
    /// The latest time given, behind which none may fall.
    given: AtomicI64,
    refresh_due: AtomicI64,
}

impl LogClock {
    /// Asks the server once. Until the server answers, this machine's clock is
    /// used.
    pub(crate) async fn start(context: Context) -> Self {
        let started = Instant::now();
        let clock = Self {
            context,
            shared: Arc::new(Shared {
                started,
                offset: AtomicI64::new(unix(Utc::now())),
                given: AtomicI64::new(i64::MIN),
                refresh_due: AtomicI64::new(0),
            }),
        };
        clock.shared.is_due();
        clock.refresh().await;
        clock
    }

    /// The time now. Never earlier than one that was given before. Asks the
    /// server again in the background when its last answer has aged.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        if self.shared.is_due()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let clock = self.clone();
            runtime.spawn(async move { clock.refresh().await });
        }
        self.shared.now()
    }

    async fn refresh(&self) {
        let sent = Instant::now();
        let answer = self.context.request(format!("STREAM.INFO.{STREAM}"), &json!({})).await;
        let round_trip = sent.elapsed();
        let said = answer
            .map(|answer: Value| answer.get("ts").and_then(Value::as_str).and_then(time::parse));
        match said {
            Ok(Some(said)) if round_trip <= LONGEST_ROUND_TRIP => {
                self.shared.set(said, sent + round_trip / 2);
            }
            Ok(_) => tracing::debug!(?round_trip, "The log server did not report its time"),
            Err(error) => tracing::debug!(%error, "The log server did not report its time"),
        }
    }
}

impl Shared {
    /// True if the server must be asked; true for one caller at a time.
    fn is_due(&self) -> bool {
        let now = nanoseconds(self.started.elapsed());
        let due = self.refresh_due.load(Ordering::Relaxed);
        let next = now.saturating_add(nanoseconds(REFRESH));
        now >= due
            && self
                .refresh_due
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn set(&self, said: DateTime<Utc>, at: Instant) {
        let passed = nanoseconds(at.duration_since(self.started));
        self.offset.store(unix(said).saturating_sub(passed), Ordering::Relaxed);
    }

    fn now(&self) -> DateTime<Utc> {
        let passed = nanoseconds(self.started.elapsed());
        let now = self.offset.load(Ordering::Relaxed).saturating_add(passed);
        let given = self.given.fetch_max(now, Ordering::Relaxed);
        DateTime::from_timestamp_nanos(now.max(given))
    }
}

fn nanoseconds(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// Nanoseconds since 1970.
pub(crate) fn unix(time: DateTime<Utc>) -> i64 {
    time.timestamp_nanos_opt().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_corrected_clock_does_not_go_backwards() {
        let shared = Shared {
            started: Instant::now(),
            offset: AtomicI64::new(unix(Utc::now())),
            given: AtomicI64::new(i64::MIN),
            refresh_due: AtomicI64::new(0),
        };
        let before = shared.now();
        assert!((Utc::now() - before).abs() < TimeDelta::seconds(1));
        shared.set(Utc::now() - TimeDelta::hours(1), Instant::now());
        assert_eq!(shared.now(), before);
        let ahead = Utc::now() + TimeDelta::hours(1);
        shared.set(ahead, Instant::now());
        let after = shared.now();
        assert!(after >= ahead && after - ahead < TimeDelta::seconds(1), "{after}");
    }

    #[test]
    fn one_caller_asks_at_a_time() {
        let shared = Shared {
            started: Instant::now(),
            offset: AtomicI64::new(0),
            given: AtomicI64::new(i64::MIN),
            refresh_due: AtomicI64::new(0),
        };
        assert!(shared.is_due());
        assert!(!shared.is_due());
    }
}
