//! Tombstones: records that a key was destroyed, and whether they are believed.
//!
//! A tombstone is believed if three things hold. Only the worker's user may store it, so it is on
//! a subject of its own. It carries a MAC, so whoever has that user but not the wrapping keys
//! cannot make one. The log holds the erasure's event with the key's name, so that nobody's data
//! reads `erased` without a sealed record of who asked for it and why.
//!
//! Earlier releases stored tombstones in the place of the key, without a MAC. They count if they
//! were stored before [`exodrive migrate`](crate::Log::prepare) has carried the stream over; it
//! keeps the number of the last record of that time in the stream's metadata, which only the
//! operator may change.

use super::{
    records::{Family, Place, Stored, unavailable},
    wrapping::mac,
};
use crate::{error::KeyError, wire};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use chrono::{DateTime, Utc};
use exodrive_domain::{Payload, Subject, decode, erasure::ErasureChange, id::ErasureId, time};
use moka::sync::Cache;
use ring::hmac;
use std::{collections::HashSet, sync::Arc};

/// Erasures whose keys are remembered.
const CACHED: u64 = 1_000;
/// What a tombstone's MAC is about.
const ABOUT: &str = "tombstone";

/// What tombstones are believed by. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tombstones {
    /// The log's stream, which says what was erased.
    log: Stream,
    mac: hmac::Key,
    /// The last record that an earlier release may have stored a tombstone at.
    earlier: u64,
    /// The keys that erasures name.
    named: Cache<ErasureId, Arc<HashSet<String>>>,
}

impl Tombstones {
    pub(super) fn new(log: Stream, mac: hmac::Key, earlier: u64) -> Self {
        Self { log, mac, earlier, named: Cache::builder().max_capacity(CACHED).build() }
    }

    /// True if a family has a tombstone that is believed.
    pub(super) async fn has_one(&self, name: &str, family: &Family) -> Result<bool, KeyError> {
        if let Some(record) = family.at(Place::Tombstone) {
            match record.read(name) {
                Ok(Stored::Erased { erasure, mac: Some(mac), .. })
                    if mac == self.mac_of(name, erasure) =>
                {
                    if self.log_tells_of(name, erasure).await? {
                        return Ok(true);
                    }
                    doubt(name, "the log holds no event of its erasure");
                }
                _ => doubt(name, "it was not made with the wrapping keys"),
            }
        }
        self.has_earlier_one(name, family)
    }

    /// True if a family has a tombstone of an earlier release.
    pub(super) fn has_earlier_one(&self, name: &str, family: &Family) -> Result<bool, KeyError> {
        let Some(record) = family.at(Place::Made) else { return Ok(false) };
        // A key that was wrapped again was not destroyed then.
        if family.newest().is_some_and(|newest| newest.place != Place::Made) {
            return Ok(false);
        }
        match record.read(name)? {
            Stored::Key { .. } => Ok(false),
            Stored::Erased { .. } if record.sequence <= self.earlier => Ok(true),
            Stored::Erased { .. } => {
                doubt(name, "it is where only earlier releases have stored one");
                Ok(false)
            }
        }
    }

    fn mac_of(&self, name: &str, erasure: ErasureId) -> String {
        hex::encode(mac(&self.mac, ABOUT, format!("{name}\0{erasure}").as_bytes()))
    }

    /// A tombstone.
    pub(super) fn new_one(&self, name: &str, erasure: ErasureId, at: DateTime<Utc>) -> Stored {
        let mac = Some(self.mac_of(name, erasure));
        Stored::Erased { erasure, at: time::format(&at), mac }
    }

    /// True if the log holds the event with which this erasure names the key. The
    /// key of the erasure's own event is named by being asked for.
    async fn log_tells_of(&self, name: &str, erasure: ErasureId) -> Result<bool, KeyError> {
        if let Some(keys) = self.named.get(&erasure)
            && keys.contains(name)
        {
            return Ok(true);
        }
        let keys = Arc::new(self.keys_of(erasure).await?);
        let told = keys.contains(name);
        if told {
            self.named.insert(erasure, keys);
        }
        Ok(told)
    }

    /// The keys that the events of an erasure name, and its own. These events hold no personal
    /// data but the address, so they are read without a key.
    async fn keys_of(&self, erasure: ErasureId) -> Result<HashSet<String>, KeyError> {
        let subject = Subject::Erasure(erasure).to_string();
        let (mut keys, mut from) = (HashSet::new(), 1);
        loop {
            let next = self.log.get_first_raw_message_by_subject(&subject, from).await;
            let message = match next {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return Ok(keys);
                }
                Err(error) => return Err(unavailable(error)),
            };
            from = message.sequence + 1;
            keys.insert(format!("erasure.{erasure}"));
            let stored_at = message.time.timestamp_nanos_opt().unwrap_or_default();
            let (subject, headers) = (&message.subject, &message.headers);
            let stored = wire::stored(
                message.sequence,
                subject,
                stored_at,
                headers,
                message.payload.clone(),
            );
            let recorded = wire::recorded(stored);
            if let Ok(Payload::Erasure(event)) = decode(&recorded)
                && let ErasureChange::Started { keys: named, .. } = event.change
            {
                keys.extend(named);
            }
        }
    }
}

fn doubt(name: &str, reason: &str) {
    tracing::error!(key = name, reason, "A tombstone of a data key is not believed");
}
