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
    KeyStore,
    records::{Family, Place, Stored, unavailable},
};
use crate::{error::KeyError, stored::of_leader, wire};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use chrono::{DateTime, Utc};
use exodrive_domain::{Payload, Subject, decode, erasure::ErasureChange, id::ErasureId, time};
use std::{collections::HashSet, sync::Arc};

/// Attempts to store a tombstone while others write to the key's records.
const ATTEMPTS: u32 = 20;
/// What a tombstone's MAC is about.
const ABOUT: &str = "tombstone";

impl KeyStore {
    /// True if a key is destroyed: its family has a tombstone that is believed.
    pub(super) async fn is_erased(&self, name: &str, family: &Family) -> Result<bool, KeyError> {
        if let Some(record) = family.at(Place::Tombstone) {
            match record.read(name) {
                Ok(Stored::Erased { erasure, mac: Some(mac), .. })
                    if mac == self.tombstone_mac(name, erasure) =>
                {
                    if self.log_tells_of(name, erasure).await? {
                        return Ok(true);
                    }
                    doubt(name, "the log holds no event of its erasure");
                }
                _ => doubt(name, "it was not made with the wrapping keys"),
            }
        }
        self.is_erased_by_earlier_release(name, family)
    }

    fn is_erased_by_earlier_release(&self, name: &str, family: &Family) -> Result<bool, KeyError> {
        let Some(record) = family.at(Place::Made) else { return Ok(false) };
        // A key that was wrapped again was not destroyed then.
        if family.newest().is_some_and(|newest| newest.place != Place::Made) {
            return Ok(false);
        }
        match record.read(name)? {
            Stored::Key { .. } => Ok(false),
            Stored::Erased { .. } if record.sequence <= self.earlier_tombstones => Ok(true),
            Stored::Erased { .. } => {
                doubt(name, "it is where only earlier releases have stored one");
                Ok(false)
            }
        }
    }

    fn tombstone_mac(&self, name: &str, erasure: ErasureId) -> String {
        self.mac(ABOUT, format!("{name}\0{erasure}").as_bytes())
    }

    /// A tombstone.
    pub(super) fn tombstone(&self, name: &str, erasure: ErasureId, at: DateTime<Utc>) -> Stored {
        let mac = Some(self.tombstone_mac(name, erasure));
        Stored::Erased { erasure, at: time::format(&at), mac }
    }

    /// True if the log holds the event with which this erasure names the key. The
    /// key of the erasure's own event is named by being asked for.
    async fn log_tells_of(&self, name: &str, erasure: ErasureId) -> Result<bool, KeyError> {
        if let Some(keys) = self.erasures.get(&erasure)
            && keys.contains(name)
        {
            return Ok(true);
        }
        let keys = Arc::new(self.keys_of(erasure).await?);
        let told = keys.contains(name);
        if told {
            self.erasures.insert(erasure, keys);
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
            let recorded = wire::recorded(of_leader(message).map_err(unavailable)?);
            if let Ok(Payload::Erasure(event)) = decode(&recorded)
                && let ErasureChange::Started { keys: named, .. } = event.change
            {
                keys.extend(named);
            }
        }
    }

    /// Destroys a key: leaves a tombstone, then makes the server overwrite
    /// the key on disk. May be repeated: a destroyed key is not made again.
    pub(crate) async fn destroy(
        &self,
        name: &str,
        erasure: ErasureId,
        at: DateTime<Utc>,
    ) -> Result<(), KeyError> {
        let mut family = self.read_of_leader(name).await?;
        let mut attempts = 0;
        while !self.is_erased(name, &family).await? {
            attempts += 1;
            if attempts > ATTEMPTS {
                return Err(KeyError::Doubtful(name.to_owned()));
            }
            if family.at(Place::Tombstone).is_some() {
                // One that nobody believes is in the way.
                self.delete(name, &[Place::Tombstone]).await?;
                family = self.read_of_leader(name).await?;
            }
            let tombstone = self.tombstone(name, erasure, at);
            self.publish(Place::Tombstone, name, &tombstone, family.last()).await?;
            family = self.read_of_leader(name).await?;
        }
        self.cache.insert(name.to_owned(), super::KeyState::Erased);
        let mut places = vec![Place::Wrapped(0), Place::Wrapped(1)];
        if !self.is_erased_by_earlier_release(name, &family).unwrap_or(false) {
            places.push(Place::Made);
        }
        self.delete(name, &places).await
    }

    /// Of some keys, those that are not destroyed: there is no tombstone, or a key beside it.
    pub(crate) async fn not_destroyed(&self, names: &[&str]) -> Result<Vec<String>, KeyError> {
        let families = self.read_families(names).await?;
        let mut left = Vec::new();
        for name in names {
            let family = families.get(*name).cloned().unwrap_or_default();
            let is_key = |it: &super::records::Record| {
                it.place != Place::Tombstone && !matches!(it.read(name), Ok(Stored::Erased { .. }))
            };
            if family.records().iter().any(is_key) || !self.is_erased(name, &family).await? {
                left.push((*name).to_owned());
            }
        }
        Ok(left)
    }
}

fn doubt(name: &str, reason: &str) {
    tracing::error!(key = name, reason, "A tombstone of a data key is not believed");
}
