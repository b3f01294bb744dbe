//! Waiting until a view has reached a position: one of those who wait asks, and all hear.

use crate::{Error, views::list};
use std::{collections::HashMap, future::Future, time::Duration};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// The watches of all views.
pub(crate) struct Watches(HashMap<&'static str, Watch>);

impl Default for Watches {
    fn default() -> Self {
        Self(list::names().into_iter().map(|view| (view, Watch::default())).collect())
    }
}

impl Watches {
    /// The watch of a view; `None` if there is no such view.
    pub(crate) fn of(&self, view: &str) -> Option<&Watch> {
        self.0.get(view)
    }
}

/// Those who wait for a view.
pub(crate) struct Watch {
    /// Whoever has it asks, from that time on.
    turn: Mutex<Instant>,
    /// The position that was heard last; `None` if the question failed.
    heard: watch::Sender<Option<u64>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { turn: Mutex::new(Instant::now()), heard: watch::Sender::new(None) }
    }
}

impl Watch {
    /// Waits until the view has reached a position, at most `timeout`, and for one answer at least;
    /// returns the position reached. `ask` asks how far it is.
    ///
    /// # Errors
    /// When a question fails, whoever has asked it.
    pub(crate) async fn wait<A: Future<Output = Result<u64, Error>>>(
        &self,
        position: u64,
        timeout: Duration,
        ask: impl Fn() -> A,
    ) -> Result<u64, Error> {
        let deadline = Instant::now() + timeout;
        let mut heard = self.heard.subscribe();
        loop {
            let reached = tokio::select! {
                biased;
                // It does not end: its sender is borrowed here.
                _ = heard.changed() => {
                    let failed = || Error::Database(sqlx::Error::PoolTimedOut);
                    heard.borrow_and_update().ok_or_else(failed)?
                }
                mut turn = self.turn.lock() => {
                    sleep_until(*turn).await;
                    let answer = ask().await;
                    *turn = Instant::now() + PAUSE;
                    self.heard.send_replace(answer.as_ref().ok().copied());
                    heard.mark_unchanged();
                    answer?
                }
            };
            if reached >= position || Instant::now() >= deadline {
                return Ok(reached);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const WAIT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn however_many_wait_one_asks_at_a_time() {
        let (watch, asked) = (Watch::default(), AtomicU64::new(0));
        // Each answer takes a millisecond, and each is one further.
        let ask = || async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(asked.fetch_add(1, Ordering::Relaxed) + 1)
        };
        let waiting = (0..100).map(|n| watch.wait(n % 10, WAIT, ask));
        for (n, reached) in (0..100).zip(futures::future::join_all(waiting).await) {
            assert!((1..=10).contains(&reached.unwrap()), "{n}");
        }
        assert!(asked.load(Ordering::Relaxed) <= 10, "{asked:?}");
        // What is never reached costs no more for many than for one.
        let waiting = (0..100).map(|_| watch.wait(1_000_000, WAIT, ask));
        for reached in futures::future::join_all(waiting).await {
            assert!(reached.unwrap() < 500);
        }
        assert!(asked.load(Ordering::Relaxed) < 450, "{asked:?}");
        let one = watch.wait(u64::MAX, Duration::ZERO, ask).await;
        assert_eq!(one.unwrap(), asked.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn all_hear_that_a_question_failed_and_one_who_gives_up_holds_nobody_up() {
        let watch = Watch::default();
        let hangs = || std::future::pending::<Result<u64, Error>>();
        let given_up = tokio::time::timeout(WAIT, watch.wait(1, WAIT, hangs)).await;
        assert!(given_up.is_err());
        let asked = AtomicU64::new(0);
        let fails = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(WAIT).await;
            Err(Error::Database(sqlx::Error::PoolClosed))
        };
        let began = Instant::now();
        let waiting = (0..10).map(|_| watch.wait(1, WAIT, fails));
        for outcome in futures::future::join_all(waiting).await {
            assert!(outcome.unwrap_err().is_outage());
        }
        assert_eq!((asked.load(Ordering::Relaxed), began.elapsed()), (1, WAIT));
    }
}
