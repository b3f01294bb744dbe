//! Whether the server still answers. A client's pings notice a connection that is dead. They do
//! not notice a server that lives and can do nothing, such as one that is cut off from the other
//! servers of its cluster: then another server may answer.

use async_nats::{Client, connection::State};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time without any answer after which the client connects again: two appends wait for as
/// long, one after the other.
const SILENCE: Duration = Duration::from_secs(8);
/// The longest time between two requests of one silence: what was before says nothing about now.
const GAP: Duration = Duration::from_secs(10);

/// Follows the answers to requests of all clones of a log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Answers {
    client: Client,
    silence: Arc<Mutex<Silence>>,
}

/// Requests that were not answered, since the last one that was.
#[derive(Default)]
struct Silence(Option<Unanswered>);

struct Unanswered {
    since: Instant,
    until: Instant,
}

/// A request that waits for its answer. If it is dropped before, there was none.
pub(crate) struct Asked<'a> {
    answers: &'a Answers,
    at: Instant,
    answered: bool,
}

impl Answers {
    pub(crate) fn of(client: Client) -> Self {
        Self { client, silence: Arc::default() }
    }

    pub(crate) fn ask(&self) -> Asked<'_> {
        Asked { answers: self, at: Instant::now(), answered: false }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Silence) -> T) -> T {
        change(&mut self.silence.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn unanswered(&self, asked: Instant) {
        let lasts = self.with(|silence| silence.lasts(asked, Instant::now()));
        // One that is not connected is trying already.
        if !lasts || self.client.connection_state() != State::Connected {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        tracing::warn!("The event log has answered nothing for {SILENCE:?}: connecting again");
        metrics::counter!("exodrive_log_forced_reconnects_total").increment(1);
        let client = self.client.clone();
        runtime.spawn(async move {
            if let Err(error) = client.force_reconnect().await {
                tracing::debug!(%error, "The client of the event log has ended");
            }
        });
    }
}

impl Asked<'_> {
    /// The answer has come.
    pub(crate) fn answered(mut self) {
        self.answered = true;
        self.answers.with(|silence| silence.0 = None);
    }

    /// The same if the server has answered with `outcome`.
    pub(crate) fn ended<T, E>(self, outcome: &Result<T, E>, answered: impl FnOnce(&E) -> bool) {
        if outcome.as_ref().err().is_none_or(answered) {
            self.answered();
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.answers.unanswered(self.at);
        }
    }
}

impl Silence {
    /// Adds a request that was not answered until `now`. True if the silence has lasted for
    /// [`SILENCE`]; then the next one begins.
    fn lasts(&mut self, asked: Instant, now: Instant) -> bool {
        let since = match &self.0 {
            Some(before) if asked <= before.until + GAP => before.since.min(asked),
            _ => asked,
        };
        let lasts = now.duration_since(since) >= SILENCE;
        self.0 = (!lasts).then_some(Unanswered { since, until: now });
        lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_at_once_are_no_longer_silence_than_one() {
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        let mut silence = Silence::default();
        for _ in 0..100 {
            assert!(!silence.lasts(start, start + seconds(4)));
        }
        assert!(silence.lasts(start + seconds(4), start + seconds(8)));
        assert!(
            !silence.lasts(start + seconds(8), start + seconds(12)),
            "the next one has just begun"
        );
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        let mut silence = Silence::default();
        assert!(!silence.lasts(start, start + seconds(4)));
        assert!(!silence.lasts(start + seconds(60), start + seconds(64)));
        assert!(silence.lasts(start + seconds(70), start + seconds(74)));
    }
}
