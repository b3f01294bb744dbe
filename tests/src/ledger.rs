//! What a test has had acknowledged while servers and networks fail, and what has become of it.

use crate::{Delivery, Exposed, World, email_body, eventually, fold_by_name};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The time between two deliveries of a poster.
const BREATH: Duration = Duration::from_millis(30);

/// Deliveries that are sent as the provider sends them: each again and again, until it is taken.
pub struct Ledger {
    /// Bytes of a delivery's body, about.
    size: usize,
    next: AtomicUsize,
    taken: Mutex<Vec<(String, Instant)>>,
    done: AtomicBool,
}

/// What has become of what was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The number of deliveries that were acknowledged.
    pub acknowledged: usize,
    /// Of them, those that the log does not hold.
    pub lost: usize,
    /// Those that the log holds twice, and rows that count one twice.
    pub doubled: usize,
    /// Rows that are not what a fresh fold of the log gives, missing ones and those that should
    /// not be there.
    pub wrong: usize,
}

impl Ledger {
    /// A ledger of deliveries with bodies of about so many bytes.
    pub fn of(size: usize) -> Self {
        Self::numbered(size, 0)
    }

    /// The same; its deliveries are numbered from `first` on, apart from those of an earlier one.
    pub fn numbered(size: usize, first: usize) -> Self {
        Self {
            size,
            next: AtomicUsize::new(first),
            taken: Mutex::default(),
            done: AtomicBool::new(false),
        }
    }

    /// Sends deliveries one after the other, until [`Ledger::end`].
    pub async fn post(&self, world: &World) {
        let filling = format!(r#","text":"{}""#, "x".repeat(self.size));
        while !self.done.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", &filling);
            let delivery = Delivery::new(format!("msg_{n}"), body);
            world.post_until_taken(&delivery).await;
            self.taken.lock().unwrap().push((delivery.id, Instant::now()));
            sleep(BREATH).await;
        }
    }

    /// No more is sent.
    pub fn end(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    /// True after [`Ledger::end`].
    pub fn has_ended(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// The number of deliveries that were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    /// Waits until so many more were acknowledged.
    pub async fn flows(&self, more: usize) {
        let before = self.acknowledged();
        eventually("deliveries are accepted again", async || {
            (self.acknowledged() >= before + more).then_some(())
        })
        .await;
    }

    /// The longest time since `began` without an acknowledgement.
    pub fn gap_since(&self, began: Instant) -> Duration {
        let taken = self.taken.lock().unwrap();
        let mut times: Vec<_> = taken.iter().map(|(_, at)| *at).filter(|at| *at > began).collect();
        times.sort_unstable();
        let after = times.iter().copied();
        let before = std::iter::once(began).chain(times.iter().copied());
        after.zip(before).map(|(after, before)| after - before).max().unwrap_or_default()
    }

    /// Compares the log and every view with what was acknowledged, once the views have reached the
    /// log's end.
    pub async fn outcome(&self, world: &World) -> Outcome {
        world.settled().await;
        let events = world.events().await;
        let mut stored: BTreeMap<&str, usize> = BTreeMap::new();
        for event in &events {
            *stored.entry(&event.envelope.id).or_default() += 1;
        }
        let taken = self.taken.lock().unwrap().clone();
        let ids: BTreeSet<_> = taken.iter().map(|(id, _)| id.as_str()).collect();
        let mut outcome = Outcome {
            acknowledged: taken.len(),
            lost: ids.iter().filter(|id| !stored.contains_key(*id)).count(),
            doubled: stored.values().filter(|count| **count > 1).count(),
            wrong: 0,
        };
        for (view, folded) in fold_by_name(&events) {
            let rows = world.rows(view).await;
            let keys: BTreeSet<_> = rows.keys().chain(folded.keys()).collect();
            outcome.wrong += keys.iter().filter(|key| rows.get(**key) != folded.get(**key)).count();
            if view == "inbox" {
                let repeats = |row: &serde_json::Value| row["email"]["repeats"] != 0;
                outcome.doubled += rows.values().filter(|(_, row)| repeats(row)).count();
            }
        }
        outcome
    }
}

impl Outcome {
    /// Nothing is lost, doubled or wrong, and something was acknowledged.
    ///
    /// # Panics
    /// If not.
    pub fn is_clean(self) {
        let Self { acknowledged, .. } = self;
        assert_eq!(self, Self { acknowledged, ..Self::default() });
        assert!(acknowledged > 0, "nothing was acknowledged");
    }
}

/// The seconds for which `/readyz` was not 200, looked at ten times a second until the ledger ends.
pub async fn seconds_not_ready(exposed: &Exposed, ledger: &Ledger) -> f64 {
    let mut not_ready = Duration::ZERO;
    let mut last = Instant::now();
    while !ledger.has_ended() {
        let request = exposed.world.request(reqwest::Method::GET, "/readyz");
        let answer = request.timeout(Duration::from_secs(5)).send().await;
        let ready = answer.is_ok_and(|answer| answer.status().is_success());
        if !ready {
            not_ready += last.elapsed();
        }
        last = Instant::now();
        sleep(Duration::from_millis(100)).await;
    }
    not_ready.as_secs_f64()
}
