//! Whether the log stores what is appended, by what became of the last appends.
//!
//! A server that could not write to a stream once, such as to a full disk, takes nothing for that
//! stream until it is restarted, also when there is space again. Meanwhile it answers every request,
//! and takes writes to other streams.

use async_nats::jetstream::stream::Info;
use chrono::{DateTime, Utc};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The time without a failure after which the log is trusted again: nobody may append to a log that
/// is said to store nothing.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);

/// What became of the last appends through all clones of a log. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Storing {
    failure: Arc<Mutex<Option<Failure>>>,
    asking: Arc<AtomicBool>,
}

/// An append that was not stored by a server that answers; no later one was stored.
#[derive(Debug)]
struct Failure {
    at: Instant,
    server: Server,
}

/// One life of a server that leads the log's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    leader: Option<String>,
    leads_since: Option<DateTime<Utc>>,
    /// The server's id, new at each start; none if the client may be connected to another server.
    id: Option<String>,
}

impl Server {
    pub(crate) fn of(info: &Info, id: String) -> Self {
        let cluster = info.cluster.as_ref();
        Self {
            leader: cluster.and_then(|it| it.leader.clone()),
            leads_since: cluster.and_then(|it| it.leader_since),
            id: cluster.is_none_or(|it| it.replicas.is_empty()).then_some(id),
        }
    }

    /// True if what was sent at `time` was not sent to another leader.
    pub(crate) fn has_led_since(&self, time: DateTime<Utc>) -> bool {
        self.leads_since.is_none_or(|since| since < time)
    }
}

impl Storing {
    /// An event was stored.
    pub(crate) fn succeeded(&self) {
        *self.lock() = None;
    }

    /// A server that answers has not stored an event.
    pub(crate) fn failed(&self, server: Server) {
        let failure = self.lock().replace(Failure { at: Instant::now(), server });
        if failure.is_none() {
            tracing::error!(
                "The event log stores nothing, though its server answers. If its disk was full, \
                 the server must be restarted when there is space again"
            );
        }
    }

    /// True if the last append has failed, and it is the same server that answers now.
    pub(crate) fn fails(&self, server: &Server) -> bool {
        fails(&mut self.lock(), server, Instant::now())
    }

    /// Leave to ask whether the server answers; one append at a time has it.
    pub(crate) fn ask(&self) -> Option<Question<'_>> {
        (!self.asking.swap(true, Ordering::Relaxed)).then(|| Question(&self.asking))
    }

    /// True if [`Storing::fails`] may be.
    pub(crate) fn is_doubted(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fails(failure: &mut Option<Failure>, server: &Server, now: Instant) -> bool {
    let lasts = failure.as_ref().is_some_and(|failure| {
        failure.server == *server && now.duration_since(failure.at) < TRUSTED_AFTER
    });
    if !lasts {
        *failure = None;
    }
    lasts
}

/// The question whether the server answers, while it is asked.
pub(crate) struct Question<'a>(&'a AtomicBool);

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str) -> Server {
        Server { leader: None, leads_since: None, id: Some(id.to_owned()) }
    }

    #[test]
    fn a_server_that_stores_nothing_is_not_trusted_until_it_is_restarted() {
        let now = Instant::now();
        let mut failure = Some(Failure { at: now, server: server("a") });
        assert!(fails(&mut failure, &server("a"), now + Duration::from_secs(59)));
        assert!(!fails(&mut failure, &server("b"), now), "it was restarted");
        assert!(!fails(&mut failure, &server("a"), now), "and that is remembered");
    }

    #[test]
    fn a_log_is_not_said_to_store_nothing_for_ever_while_nobody_appends() {
        let now = Instant::now();
        let mut failure = Some(Failure { at: now, server: server("a") });
        assert!(!fails(&mut failure, &server("a"), now + TRUSTED_AFTER));
    }

    #[test]
    fn an_event_that_is_stored_restores_the_trust() {
        let storing = Storing::default();
        storing.failed(server("a"));
        assert!(storing.is_doubted() && storing.fails(&server("a")));
        storing.succeeded();
        assert!(!storing.is_doubted() && !storing.fails(&server("a")));
    }

    #[test]
    fn what_was_sent_to_an_earlier_leader_says_nothing_of_this_one() {
        let since = Utc::now();
        let leads = Server { leader: Some("n1".to_owned()), leads_since: Some(since), id: None };
        assert!(!leads.has_led_since(since - chrono::TimeDelta::seconds(1)));
        assert!(leads.has_led_since(since + chrono::TimeDelta::seconds(1)));
        assert!(server("a").has_led_since(since), "it stands alone");
    }
}
