//! The data keys of a log: made, found, and destroyed.

use super::{
    records::{Family, KeyStoreMark, Place, Record, Records, Stored},
    tombstones::Tombstones,
    wrapping::{DataKey, OpenKey, WrappingKeys, mac, random_key},
};
use crate::error::{AppendError, KeyError};
use async_nats::jetstream::{Context, stream::Stream};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use chrono::{DateTime, Utc};
use exodrive_domain::{id::ErasureId, personal::KeyScope};
use moka::sync::Cache;
use ring::{digest, hmac};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// The longest time for which a process may use a key after its destruction.
pub const KEY_CACHE: Duration = Duration::from_secs(10);
const CACHED_KEYS: u64 = 100_000;
/// Attempts to store a tombstone while others write to the key's records.
const ATTEMPTS: u32 = 20;
/// Name of the key for MACs. It is never destroyed: it decrypts no data.
const MAC_KEY: &str = "mac";

/// A data key, or the fact that it was erased.
#[derive(Clone)]
pub(crate) enum KeyState {
    Key(OpenKey),
    Erased,
}

/// The data keys of a log, with a cache of those in use. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KeyStore {
    pub(super) records: Records,
    tombstones: Tombstones,
    pub(super) wrapping: WrappingKeys,
    cache: Cache<String, KeyState>,
    mac: hmac::Key,
    /// Made of `mac`, so that no MAC of an event is one of a copy.
    copies: hmac::Key,
}

/// What the key for the MACs of copies is derived for.
const COPIES: &[u8] = b"copies outside of the log";

/// What the MAC of a copy is made of. A name holds no zero byte.
fn named(name: &str, copy: &str) -> Vec<u8> {
    [name.as_bytes(), &[0], copy.as_bytes()].concat()
}

/// The first name of a scope's keys.
pub(super) fn name_of(scope: &KeyScope) -> String {
    match scope {
        KeyScope::Email(id) => format!("email.{id}"),
        // A provider's id may contain any character; its digest is valid in a
        // subject.
        KeyScope::Delivery(id) => {
            let digest = digest::digest(&digest::SHA256, id.as_bytes());
            format!("delivery.{}", hex::encode(&digest.as_ref()[..16]))
        }
        KeyScope::Customer(id) => format!("customer.{id}"),
        KeyScope::Erasure(id) => format!("erasure.{id}"),
    }
}

/// The streams that a key store is made of, and what is known about them.
pub(crate) struct KeyStreams {
    pub(crate) keys: Stream,
    pub(crate) log: Stream,
    /// The last record that an earlier release may have stored a tombstone at.
    pub(crate) earlier_tombstones: u64,
}

impl KeyStore {
    /// Opens the key store and the key that makes MACs, which proves that the
    /// wrapping keys are the right ones. `may_make`: makes that key if it is
    /// missing, which only the operator's user may.
    pub(crate) async fn open(
        context: Context,
        streams: KeyStreams,
        wrapping: WrappingKeys,
        may_make: bool,
    ) -> Result<Self, KeyError> {
        let records = Records::new(context, streams.keys);
        let mut family = records.read_of_leader(MAC_KEY).await?;
        if family.is_empty() && may_make {
            let made = wrapped(&wrapping, MAC_KEY, &random_key())?;
            records.publish(Place::Made, MAC_KEY, &made, 0).await?;
            family = records.read_of_leader(MAC_KEY).await?;
        }
        let record = family.newest().ok_or(KeyError::NoMacKey)?;
        let damaged = || KeyError::MacKey { sequence: record.sequence };
        let stored = record.read(MAC_KEY).map_err(|_| damaged())?;
        let key = unwrap(&wrapping, MAC_KEY, &stored)?.ok_or_else(damaged)?;
        let mac = hmac::Key::new(hmac::HMAC_SHA256, key.as_slice());
        let derived = hmac::sign(&mac, COPIES);
        Ok(Self {
            records,
            tombstones: Tombstones::new(streams.log, mac.clone(), streams.earlier_tombstones),
            wrapping,
            cache: Cache::builder().max_capacity(CACHED_KEYS).time_to_live(KEY_CACHE).build(),
            copies: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
            mac,
        })
    }

    /// A copy with its MAC before it: 64 hexadecimal digits and a line feed.
    pub(crate) fn seal_copy(&self, name: &str, copy: &str) -> String {
        let tag = hmac::sign(&self.copies, &named(name, copy));
        format!("{}\n{copy}", hex::encode(tag))
    }

    /// The copy, if its MAC is of these keys and of this name.
    pub(crate) fn open_copy<'a>(&self, name: &str, sealed: &'a str) -> Option<&'a str> {
        let (tag, copy) = sealed.split_once('\n')?;
        let tag = hex::decode(tag).ok()?;
        hmac::verify(&self.copies, &named(name, copy), &tag).ok()?;
        Some(copy)
    }

    /// How far the key store has come.
    pub(crate) async fn mark(&self) -> Result<KeyStoreMark, KeyError> {
        self.records.mark().await
    }

    /// A keyed MAC, 32 hexadecimal digits.
    pub(crate) fn mac(&self, about: &str, body: &[u8]) -> String {
        hex::encode(self.mac_bytes(about, body))
    }

    /// The same, as 16 bytes.
    pub(crate) fn mac_bytes(&self, about: &str, body: &[u8]) -> [u8; 16] {
        mac(&self.mac, about, body)
    }

    /// The key to encrypt with, and its name; makes a key if there is no key
    /// yet. An erased customer gets a new key: staff may go on with their bookings. An event that
    /// `introduces` them does not, since who comes back is a new customer. Any other erased
    /// scope gets a key that is not stored, so that late data is erased at once.
    pub(crate) async fn for_append(
        &self,
        scope: &KeyScope,
        introduces: bool,
    ) -> Result<(String, OpenKey), AppendError> {
        let first = name_of(scope);
        if introduces && self.is_gone(&first).await? {
            return Err(AppendError::Erased);
        }
        let mut name = first.clone();
        for again in 2.. {
            match self.find_or_make(&name).await? {
                KeyState::Key(key) => return Ok((name, key)),
                KeyState::Erased if matches!(scope, KeyScope::Customer(_)) => {
                    name = format!("{first}.{again}");
                }
                KeyState::Erased => break,
            }
        }
        Ok((name, OpenKey::new(&random_key())))
    }

    async fn find_or_make(&self, name: &str) -> Result<KeyState, KeyError> {
        if let Some(held) = self.cache.get(name) {
            return Ok(held);
        }
        // Most keys that are not cached do not exist yet.
        let key = random_key();
        if self.put(name, &key).await? {
            let held = KeyState::Key(OpenKey::new(&key));
            self.cache.insert(name.to_owned(), held.clone());
            return Ok(held);
        }
        let held = self.find_all(HashSet::from([name])).await?.remove(name);
        held.ok_or_else(|| KeyError::Doubtful(name.to_owned()))
    }

    /// Keys by name; a name that is not in the answer is missing.
    pub(crate) async fn find_all(
        &self,
        names: HashSet<&str>,
    ) -> Result<HashMap<String, KeyState>, KeyError> {
        let mut all = HashMap::with_capacity(names.len());
        let mut missing = Vec::new();
        for name in names {
            match self.cache.get(name) {
                Some(held) => drop(all.insert(name.to_owned(), held)),
                None => missing.push(name),
            }
        }
        if missing.is_empty() {
            return Ok(all);
        }
        for (name, family) in self.records.read(&missing).await? {
            if let Some(held) = self.held(&name, &family).await? {
                self.cache.insert(name.clone(), held.clone());
                all.insert(name, held);
            }
        }
        Ok(all)
    }

    /// What a key's records say; `None` if there is neither a key nor a tombstone that is
    /// believed.
    pub(super) async fn held(
        &self,
        name: &str,
        family: &Family,
    ) -> Result<Option<KeyState>, KeyError> {
        if self.is_erased(name, family).await? {
            return Ok(Some(KeyState::Erased));
        }
        let Some(record) = family.newest() else { return Ok(None) };
        let key = unwrap(&self.wrapping, name, &record.read(name)?)?;
        Ok(key.map(|key| KeyState::Key(OpenKey::new(&key))))
    }

    /// True if a key is destroyed: its family has a tombstone that is believed.
    pub(super) async fn is_erased(&self, name: &str, family: &Family) -> Result<bool, KeyError> {
        self.tombstones.has_one(name, family).await
    }

    /// Stores a new key; `false` if there is one, or a tombstone.
    pub(super) async fn put(&self, name: &str, key: &DataKey) -> Result<bool, KeyError> {
        let made = wrapped(&self.wrapping, name, key)?;
        self.records.publish(Place::Made, name, &made, 0).await
    }

    /// What the store says of some keys now, whatever this process has cached. A key that a lagging
    /// replica does not have is not in the answer.
    pub(super) async fn read_now(
        &self,
        names: &[String],
    ) -> Result<HashMap<String, KeyState>, KeyError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut states = HashMap::new();
        for (name, family) in self.records.read_anywhere(&names).await? {
            if let Some(state) = self.held(&name, &family).await? {
                states.insert(name, state);
            }
        }
        Ok(states)
    }

    /// What the store says of a key, by the word of the stream's leader.
    pub(super) async fn read_of_leader(&self, name: &str) -> Result<Option<KeyState>, KeyError> {
        let family = self.records.read_of_leader(name).await?;
        self.held(name, &family).await
    }

    /// True if a customer was erased, and has no later key.
    async fn is_gone(&self, first: &str) -> Result<bool, KeyError> {
        // Most are not: what is cached is enough.
        if let Some(KeyState::Key(_)) = self.cache.get(first) {
            return Ok(false);
        }
        let state = self.find_all(HashSet::from([first])).await?.remove(first);
        Ok(matches!(state, Some(KeyState::Erased)) && !self.has_key(first).await?)
    }

    /// True if a customer has a key: the first one, or one after an erasure.
    pub(super) async fn has_key(&self, first: &str) -> Result<bool, KeyError> {
        let mut name = first.to_owned();
        for again in 2.. {
            match self.read_now(std::slice::from_ref(&name)).await?.remove(&name) {
                Some(KeyState::Key(_)) => return Ok(true),
                Some(KeyState::Erased) => name = format!("{first}.{again}"),
                None => break,
            }
        }
        Ok(false)
    }

    /// Destroys a key: leaves a tombstone, then makes the server overwrite
    /// the key on disk. May be repeated: a destroyed key is not made again.
    pub(crate) async fn destroy(
        &self,
        name: &str,
        erasure: ErasureId,
        at: DateTime<Utc>,
    ) -> Result<(), KeyError> {
        let mut family = self.records.read_of_leader(name).await?;
        let mut attempts = 0;
        while !self.is_erased(name, &family).await? {
            attempts += 1;
            if attempts > ATTEMPTS {
                return Err(KeyError::Doubtful(name.to_owned()));
            }
            if family.at(Place::Tombstone).is_some() {
                // One that nobody believes is in the way.
                self.records.delete(name, &[Place::Tombstone]).await?;
                family = self.records.read_of_leader(name).await?;
            }
            let tombstone = self.tombstones.new_one(name, erasure, at);
            self.records.publish(Place::Tombstone, name, &tombstone, family.last()).await?;
            family = self.records.read_of_leader(name).await?;
        }
        self.cache.insert(name.to_owned(), KeyState::Erased);
        let mut places = vec![Place::Wrapped(0), Place::Wrapped(1)];
        if !self.tombstones.has_earlier_one(name, &family).unwrap_or(false) {
            places.push(Place::Made);
        }
        self.records.delete(name, &places).await
    }

    /// Of some keys, those that are not destroyed: there is no tombstone, or a key beside it.
    pub(crate) async fn not_destroyed(&self, names: &[&str]) -> Result<Vec<String>, KeyError> {
        let families = self.records.read(names).await?;
        let mut left = Vec::new();
        for name in names {
            let family = families.get(*name).cloned().unwrap_or_default();
            let is_key = |it: &Record| {
                it.place != Place::Tombstone && !matches!(it.read(name), Ok(Stored::Erased { .. }))
            };
            if family.records().iter().any(is_key) || !self.is_erased(name, &family).await? {
                left.push((*name).to_owned());
            }
        }
        Ok(left)
    }
}

/// The key of a record; `None` if the record is a tombstone.
pub(super) fn unwrap(
    wrapping: &WrappingKeys,
    name: &str,
    stored: &Stored,
) -> Result<Option<DataKey>, KeyError> {
    match stored {
        Stored::Erased { .. } => Ok(None),
        Stored::Key { wrapped_by, wrapped } => {
            let wrong = || KeyError::Wrapping { name: name.to_owned(), version: *wrapped_by };
            let wrapped = BASE64.decode(wrapped).map_err(|_| wrong())?;
            wrapping.unwrap(name, *wrapped_by, &wrapped).map(Some)
        }
    }
}

/// A record of a key, wrapped by the newest wrapping key.
pub(super) fn wrapped(
    wrapping: &WrappingKeys,
    name: &str,
    key: &DataKey,
) -> Result<Stored, KeyError> {
    let (wrapped_by, wrapped) =
        wrapping.wrap(name, key).ok_or_else(|| KeyError::Encode(name.to_owned()))?;
    Ok(Stored::Key { wrapped_by, wrapped: BASE64.encode(wrapped) })
}
