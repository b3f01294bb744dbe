//! Records which staff read personal data. A read leaves a note in memory; the
//! notes of an interval become one event.

use crate::event::decided_event;
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Envelope, Subject,
    access::{ACCESS_RECORDED, AccessEntry, AccessEvent},
};
use exodrive_log::{AppendError, Log, NewEvent};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Entries of one event. When there are this many notes, they are appended
/// before the interval ends.
const FULL: usize = 256;
/// Notes held in memory while the log does not answer.
const BOUND: usize = 20_000;
/// Characters to which a name or an id is cut.
const LONGEST: usize = 200;
/// Time limit for appending the last notes at shutdown.
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the next attempt after the log has failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A read of personal data.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The reader, for example `admin:ada`.
    pub actor: &'a str,
    /// Kind of resource, for example `email`.
    pub resource: &'a str,
    /// Id of the resource; `None` for a list. Text that does not look like an
    /// id is left out.
    pub key: Option<&'a str>,
    /// Route or command by which it was read.
    pub route: &'a str,
    /// Id of the request that read it.
    pub request_id: Option<&'a str>,
}

/// Notes of reads that are not in the log yet. Cheap to clone.
#[derive(Clone, Default)]
pub struct AccessLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    notes: Mutex<HashMap<Noted, Tally>>,
    full: Notify,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Noted {
    actor: String,
    resource: String,
    key: Option<String>,
    route: String,
}

struct Tally {
    count: u64,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    request_id: Option<String>,
}

impl AccessLog {
    /// Notes a read that happened at `at`.
    pub fn note(&self, access: Access<'_>, at: DateTime<Utc>) {
        let noted = Noted {
            actor: clean(access.actor),
            resource: clean(access.resource),
            key: access.key.filter(|key| is_id(key)).map(str::to_owned),
            route: clean(access.route),
        };
        let request_id = access.request_id.map(str::to_owned);
        let mut notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = notes.get_mut(&noted) {
            tally.count += 1;
            tally.first_at = tally.first_at.min(at);
            tally.last_at = tally.last_at.max(at);
            tally.request_id = request_id;
        } else if notes.len() < BOUND {
            notes.insert(noted, Tally { count: 1, first_at: at, last_at: at, request_id });
            if notes.len() == FULL {
                self.0.full.notify_one();
            }
        } else {
            metrics::counter!("exodrive_access_records_lost_total").increment(1);
        }
    }

    /// Appends the notes every `interval` until `stop`, and then once more.
    pub async fn run(self, log: Log, interval: Duration, stop: CancellationToken) {
        let mut unsent = None;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.0.full.notified() => {}
                () = stop.cancelled() => break,
            }
            if let Err(error) = self.append(&log, &mut unsent).await {
                let cause = exodrive_runtime::error_chain(&error);
                tracing::warn!(
                    cause,
                    "Cannot record reads of personal data; they stay in memory, will retry"
                );
                tokio::select! {
                    () = tokio::time::sleep(RETRY_DELAY) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        let last = tokio::time::timeout(FINAL_FLUSH_TIMEOUT, self.append(&log, &mut unsent)).await;
        if !matches!(last, Ok(Ok(()))) {
            tracing::warn!(
                "The log did not take the last records of reads of personal data: they are lost"
            );
        }
    }

    /// Appends the notes. `unsent` is an event that the log may or may not have
    /// stored: it is sent again under its id before any other.
    async fn append(&self, log: &Log, unsent: &mut Option<NewEvent>) -> Result<(), AppendError> {
        loop {
            if unsent.is_none() {
                *unsent = self.take().and_then(|entries| event(entries, log.now()));
            }
            let Some(event) = unsent.as_ref() else { return Ok(()) };
            match log.append_fact(event).await {
                Ok(_) => {}
                Err(error) if error.outage().is_none() => {
                    let cause = exodrive_runtime::error_chain(&error);
                    tracing::error!(
                        cause,
                        "The log rejects a record of reads of personal data: it is lost"
                    );
                    metrics::counter!("exodrive_access_records_lost_total").increment(1);
                }
                Err(error) => return Err(error),
            }
            *unsent = None;
        }
    }

    /// Takes up to [`FULL`] notes, as entries in order of time.
    fn take(&self) -> Option<Vec<AccessEntry>> {
        let mut notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let some: Vec<_> = notes.keys().take(FULL).cloned().collect();
        let entry = |noted: Noted| {
            let tally = notes.remove(&noted)?;
            let Noted { actor, resource, key, route } = noted;
            let Tally { count, first_at, last_at, request_id } = tally;
            Some(AccessEntry { actor, resource, key, route, count, first_at, last_at, request_id })
        };
        let mut entries: Vec<_> = some.into_iter().filter_map(entry).collect();
        entries.sort_by_key(|entry| entry.first_at);
        (!entries.is_empty()).then_some(entries)
    }

    /// True if there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Appends the notes now, for programs that end.
    ///
    /// # Errors
    /// When the log does not take them.
    pub async fn append_now(&self, log: &Log) -> Result<(), AppendError> {
        self.append(log, &mut None).await
    }
}

fn event(entries: Vec<AccessEntry>, now: DateTime<Utc>) -> Option<NewEvent> {
    let id = Uuid::now_v7().to_string();
    let envelope = Envelope::decision(ACCESS_RECORDED, id, now).by("system:accesses");
    match decided_event(Subject::Access, envelope, &AccessEvent { entries }) {
        Ok(event) => Some(event),
        Err(error) => {
            let cause = exodrive_runtime::error_chain(&error);
            tracing::error!(cause, "A record of who read what cannot be written: it is lost");
            metrics::counter!("exodrive_access_records_lost_total").increment(1);
            None
        }
    }
}

/// Cleans a name: Postgres stores no NUL, and an issuer may put anything into a
/// user's id.
fn clean(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(LONGEST).map(clean).collect()
}

/// True if the text looks like an id of ours or of a provider; an address does
/// not.
fn is_id(text: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b);
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access<'a>(actor: &'a str, key: Option<&'a str>) -> Access<'a> {
        let route = "GET /v1/inbox/{email_id}";
        Access { actor, resource: "email", key, route, request_id: Some("req_1") }
    }

    #[test]
    fn reads_of_one_thing_by_one_reader_become_one_entry() {
        let accesses = AccessLog::default();
        let at = |seconds: i64| DateTime::from_timestamp(1_795_900_000 + seconds, 0).unwrap();
        accesses.note(access("auditor:ada", Some("em-1")), at(2));
        accesses.note(access("auditor:ada", Some("em-1")), at(1));
        accesses.note(access("admin:ben", Some("em-1")), at(3));
        accesses.note(access("admin:ben\0", Some("dana@example.com")), at(4));
        let entries = accesses.take().unwrap();
        let reported: Vec<_> =
            entries.iter().map(|it| (it.actor.as_str(), it.key.as_deref(), it.count)).collect();
        assert_eq!(
            reported,
            [
                ("auditor:ada", Some("em-1"), 2),
                ("admin:ben", Some("em-1"), 1),
                ("admin:ben\u{fffd}", None, 1),
            ]
        );
        assert_eq!((entries[0].first_at, entries[0].last_at), (at(1), at(2)));
        assert_eq!(accesses.take(), None);
    }

    #[test]
    fn notes_are_bounded_and_taken_in_parts() {
        let accesses = AccessLog::default();
        for n in 0..BOUND + 10 {
            accesses.note(access("auditor:ada", Some(&n.to_string())), Utc::now());
        }
        let mut taken = Vec::new();
        while let Some(entries) = accesses.take() {
            assert!(entries.len() <= FULL);
            taken.extend(entries);
        }
        assert_eq!(taken.len(), BOUND);
    }
}
