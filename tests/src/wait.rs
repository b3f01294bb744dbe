//! Waits: every wait of the tests goes through [`within`]. It has a limit. A
//! wait that times out reports the expectation, the last observation, and the
//! state of the system.

use crate::standing::ObservedSystem;
use std::{
    cell::RefCell,
    fmt::Display,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// The longest time that a test waits for anything. Reached only by failures.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The time beyond the limit that the last probe may take.
const FINAL_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of the report on a system's state.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// The result of one probe.
pub trait Probe {
    /// The awaited value.
    type Value;

    /// The value, or the probe's last observation if it gives one.
    fn outcome(self) -> Result<Self::Value, Option<String>>;
}

impl<T> Probe for Option<T> {
    type Value = T;

    fn outcome(self) -> Result<T, Option<String>> {
        self.ok_or(None)
    }
}

impl<T, S: Display> Probe for Result<T, S> {
    type Value = T;

    fn outcome(self) -> Result<T, Option<String>> {
        self.map_err(|seen| Some(seen.to_string()))
    }
}

/// Waits until `probe` gives a value, for at most [`WAIT_TIMEOUT`].
pub async fn eventually<P: Probe>(what: &str, probe: impl AsyncFnMut() -> P) -> P::Value {
    within(WAIT_TIMEOUT, what, probe).await
}

/// Waits until `probe` gives a value, for at most `limit`. A probe that gives
/// `Err` describes its observation.
///
/// # Panics
/// When the limit is over: with the expectation, the last observation, and the
/// state of this test's systems.
pub async fn within<P: Probe>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> P,
) -> P::Value {
    let began = Instant::now();
    let mut seen = None;
    loop {
        let left = (limit + FINAL_PROBE_TIMEOUT).saturating_sub(began.elapsed());
        let Ok(probed) = tokio::time::timeout(left, probe()).await else {
            timed_out(what, began.elapsed(), Some("the last probe did not end")).await
        };
        match probed.outcome() {
            Ok(value) => return value,
            Err(now) => seen = now.or(seen),
        }
        if began.elapsed() >= limit {
            timed_out(what, began.elapsed(), seen.as_deref()).await
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends the test: the expectation was not met in time.
pub(crate) async fn timed_out(what: &str, waited: Duration, seen: Option<&str>) -> ! {
    let mut reported = String::new();
    for system in systems() {
        let standing = tokio::time::timeout(REPORT_TIMEOUT, system.report()).await;
        reported +=
            &standing.unwrap_or_else(|_| "the state of the system could not be read".to_owned());
    }
    let seen = seen.unwrap_or("the probe gives no observation");
    panic!("did not happen within {waited:.1?}: {what}\nseen last: {seen}\n{reported}")
}

thread_local! {
    // A test and its waits are on one thread; several tests run in one process.
    static SYSTEMS: RefCell<Vec<Weak<ObservedSystem>>> = const { RefCell::new(Vec::new()) };
}

/// Remembers a system of this thread's test, to report its state.
pub(crate) fn remember(system: &Arc<ObservedSystem>) {
    SYSTEMS.with_borrow_mut(|systems| {
        systems.retain(|it| it.strong_count() > 0);
        systems.push(Arc::downgrade(system));
    });
}

fn systems() -> Vec<Arc<ObservedSystem>> {
    SYSTEMS.with_borrow(|systems| systems.iter().filter_map(Weak::upgrade).collect())
}
