//! The records of the key store, and how they are read and written.
//!
//! The records of a key are a family: subjects of three kinds that end with the key's name. Each
//! subject takes one record, ever. What is appended to a family is appended only if the family's
//! last record is still the one that the writer has seen, so a family has one history: a key that
//! is destroyed meanwhile is not made again.

use crate::{
    error::KeyError,
    names::{KEYS_PREFIX, KEYS_STREAM, TOMBSTONES_PREFIX, WRAPPED_PREFIXES},
};
use async_nats::{
    HeaderMap, header,
    jetstream::{
        Context,
        context::PublishErrorKind,
        message::PublishMessage,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use exodrive_domain::id::ErasureId;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    error::Error,
    time::Duration,
};
use tokio::time::timeout;

/// The number of families in one request; the server gives 1,024 records.
pub(super) const AT_ONCE: usize = 250;
/// The timeout of an answer of the server.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Names the subjects that [`header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE`] is about.
const EXPECTED_LAST_OF: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// A record, as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stored {
    Key {
        wrapped_by: u32,
        wrapped: String,
    },
    Erased {
        erasure: ErasureId,
        at: String,
        /// Keyed MAC of the key's name and the erasure. Earlier releases stored none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
    },
}

/// The kind of a record: who may write it, and which one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The key as it was made. Earlier releases stored tombstones here.
    Made,
    /// The key, wrapped again, in one of two places in turn: the operator's.
    Wrapped(usize),
    /// That it was destroyed: the worker's.
    Tombstone,
}

impl Place {
    pub(super) const ALL: [Self; 4] =
        [Self::Made, Self::Wrapped(0), Self::Wrapped(1), Self::Tombstone];

    /// Where a key can be.
    pub(super) const OF_KEYS: [Self; 3] = [Self::Made, Self::Wrapped(0), Self::Wrapped(1)];

    fn prefix(self) -> &'static str {
        match self {
            Self::Made => KEYS_PREFIX,
            Self::Wrapped(n) => WRAPPED_PREFIXES[n],
            Self::Tombstone => TOMBSTONES_PREFIX,
        }
    }

    pub(super) fn subject(self, name: &str) -> String {
        format!("{}.{name}", self.prefix())
    }
}

/// The place and the name that a subject stands for.
fn place_of(subject: &str) -> Option<(Place, &str)> {
    let (prefix, name) = subject.split_once('.')?;
    let place = Place::ALL.into_iter().find(|place| place.prefix() == prefix)?;
    Some((place, name))
}

/// Every subject of a key's family.
fn family_of(name: &str) -> String {
    format!("*.{name}")
}

/// A record, its place and its number in the stream.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) sequence: u64,
    body: Bytes,
}

impl Record {
    /// What it says.
    pub(super) fn read(&self, name: &str) -> Result<Stored, KeyError> {
        serde_json::from_slice(&self.body)
            .map_err(|_| KeyError::Malformed { name: name.to_owned(), sequence: self.sequence })
    }
}

/// The records of a key, in the order in which they were stored.
#[derive(Clone, Default)]
pub(super) struct Family(Vec<Record>);

impl Family {
    /// The number of its last record in the stream; 0 if it has none.
    pub(super) fn last(&self) -> u64 {
        self.0.last().map_or(0, |record| record.sequence)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn at(&self, place: Place) -> Option<&Record> {
        self.0.iter().find(|record| record.place == place)
    }

    /// The record that says what the key is, if it is not destroyed: the newest
    /// wrapping, or else the key as it was made.
    pub(super) fn newest(&self) -> Option<&Record> {
        let is_wrapped = |record: &&Record| matches!(record.place, Place::Wrapped(_));
        self.0.iter().rev().find(is_wrapped).or_else(|| self.at(Place::Made))
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.0
    }

    fn add(&mut self, record: Record) {
        self.0.push(record);
        self.0.sort_by_key(|record| record.sequence);
    }
}

/// How far a key store has come. It never goes back, but by a restore from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStoreMark {
    created: i64,
    last: u64,
}

impl KeyStoreMark {
    /// True if this is of an older state than `before`, or of another stream.
    pub fn is_older_than(self, before: Self) -> bool {
        self.created != before.created || self.last < before.last
    }
}

/// The stream with the records. Cheap to clone.
#[derive(Clone)]
pub(super) struct Records {
    context: Context,
    stream: Stream,
}

impl Records {
    pub(super) fn new(context: Context, stream: Stream) -> Self {
        Self { context, stream }
    }

    /// How far the stream has come.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub(super) async fn mark(&self) -> Result<KeyStoreMark, KeyError> {
        let info = self.stream.get_info().await.map_err(unavailable)?;
        let created = info.created.timestamp_micros();
        Ok(KeyStoreMark { created, last: info.state.last_sequence })
    }

    /// The name of every key that has a record whose subject the filter covers.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub(super) async fn names(&self, filter: &str) -> Result<BTreeSet<String>, KeyError> {
        let mut subjects = self.stream.info_with_subjects(filter).await.map_err(unavailable)?;
        let mut names = BTreeSet::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(unavailable)?;
            names.extend(place_of(&subject).map(|(_, name)| name.to_owned()));
        }
        Ok(names)
    }

    /// The families of some keys; one that has no record is not in the answer.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub(super) async fn read(&self, names: &[&str]) -> Result<HashMap<String, Family>, KeyError> {
        let mut found = self.read_anywhere(names).await?;
        for name in names {
            // A replica that is behind gives no record either; only the leader's word counts.
            if !found.contains_key(*name) {
                let family = self.read_of_leader(name).await?;
                if !family.is_empty() {
                    found.insert((*name).to_owned(), family);
                }
            }
        }
        Ok(found)
    }

    /// The same, by the word of whatever replica answers.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub(super) async fn read_anywhere(
        &self,
        names: &[&str],
    ) -> Result<HashMap<String, Family>, KeyError> {
        let mut found = HashMap::with_capacity(names.len());
        for names in names.chunks(AT_ONCE) {
            self.read_many(names, &mut found).await?;
        }
        Ok(found)
    }

    /// The records of many families by one request, which the client has no call
    /// for (`multi_last`,
    /// <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md>).
    async fn read_many(
        &self,
        names: &[&str],
        found: &mut HashMap<String, Family>,
    ) -> Result<(), KeyError> {
        let asked_for: HashSet<&str> = names.iter().copied().collect();
        let client = self.context.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        let subjects: Vec<_> = names.iter().map(|name| family_of(name)).collect();
        let request = serde_json::json!({ "multi_last": subjects }).to_string();
        let asked = format!("$JS.API.DIRECT.GET.{KEYS_STREAM}");
        client.publish_with_reply(asked, inbox, request.into()).await.map_err(unavailable)?;
        loop {
            let answer = timeout(READ_TIMEOUT, answers.next()).await.map_err(unavailable)?;
            let answer = answer.ok_or(KeyError::Unavailable(None))?;
            match answer.status.map(|status| status.as_u16()) {
                None => {}
                // The end, or the answer that there is no match.
                Some(204 | 404) => return Ok(()),
                Some(_) => return Err(KeyError::Unavailable(None)),
            }
            let headers = answer.headers.as_ref();
            let sequence = headers.and_then(|headers| headers.get(header::NATS_SEQUENCE));
            let sequence = sequence.and_then(|sequence| sequence.as_str().parse().ok());
            let subject = headers.and_then(|headers| headers.get(header::NATS_SUBJECT));
            let subject = subject.and_then(|subject| place_of(subject.as_str()));
            let (Some(sequence), Some((place, name))) = (sequence, subject) else {
                return Err(KeyError::Unavailable(None));
            };
            if asked_for.contains(name) {
                let record = Record { place, sequence, body: answer.payload.clone() };
                found.entry(name.to_owned()).or_default().add(record);
            }
        }
    }

    /// A key's family, as the stream's leader has it.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub(super) async fn read_of_leader(&self, name: &str) -> Result<Family, KeyError> {
        let mut family = Family::default();
        if self.last_of_leader(&family_of(name)).await?.is_none() {
            return Ok(family);
        }
        for place in Place::ALL {
            if let Some((sequence, body)) = self.last_of_leader(&place.subject(name)).await? {
                family.add(Record { place, sequence, body });
            }
        }
        Ok(family)
    }

    async fn last_of_leader(&self, subject: &str) -> Result<Option<(u64, Bytes)>, KeyError> {
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some((message.sequence, message.payload))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Stores a record if the last one of the key's family is at `last`; `false`
    /// if another one came first.
    ///
    /// # Errors
    /// When the key store does not answer, or does not let this user.
    pub(super) async fn publish(
        &self,
        place: Place,
        name: &str,
        stored: &Stored,
        last: u64,
    ) -> Result<bool, KeyError> {
        let body = serde_json::to_vec(stored);
        let body = body.map_err(|_| KeyError::Encode(name.to_owned()))?;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST_OF, family_of(name));
        let message = PublishMessage::build()
            .headers(headers)
            .payload(body.into())
            .expected_stream(KEYS_STREAM)
            .expected_last_subject_sequence(last);
        let sent = self.context.send_publish(place.subject(name), message).await;
        match async { sent?.await }.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Has the server overwrite the records at some places on disk, which a purge would not.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub(super) async fn delete(&self, name: &str, places: &[Place]) -> Result<(), KeyError> {
        for place in places {
            while let Some((sequence, _)) = self.last_of_leader(&place.subject(name)).await? {
                self.stream.delete_message(sequence).await.map_err(unavailable)?;
            }
        }
        Ok(())
    }
}

pub(super) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> KeyError {
    KeyError::Unavailable(Some(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_tells_the_place_and_the_name() {
        for place in Place::ALL {
            let subject = place.subject("customer.a.2");
            assert_eq!(place_of(&subject), Some((place, "customer.a.2")));
        }
        assert_eq!(place_of("exo.email.a"), None);
    }

    #[test]
    fn the_newest_wrapping_counts_whatever_comes_back_from_a_backup() {
        let record = |place, sequence| Record { place, sequence, body: Bytes::new() };
        let mut family = Family::default();
        for (place, sequence) in [(Place::Wrapped(1), 7), (Place::Made, 9), (Place::Wrapped(0), 5)]
        {
            family.add(record(place, sequence));
        }
        assert_eq!(family.newest().unwrap().sequence, 7);
        assert_eq!(family.last(), 9);
    }
}
