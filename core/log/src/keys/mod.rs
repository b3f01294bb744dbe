//! The keys that encrypt personal data in the log. They are in a stream of
//! their own beside it, so that one can be destroyed while the log does not
//! change.
//!
//! | subject | what it holds | who writes it |
//! | --- | --- | --- |
//! | `exo-keys.<name>` | the key, wrapped, as it was made | API, worker; `mac` only the operator |
//! | `exo-wrapped-a.<name>`, `exo-wrapped-b.<name>` | the same key, wrapped again | operator |
//! | `exo-tombstones.<name>` | that it was destroyed | worker |
//!
//! Each is wrapped (encrypted) by a key from configuration. Three cases are
//! kept apart. A key that was destroyed leaves a tombstone. A key that is
//! missing without a tombstone is an error, and no fold skips it. A stream that
//! does not answer is tried again.

mod customers;
mod records;
mod rewrap;
mod tombstones;
mod wrapping;

use crate::error::{AppendError, KeyError};
use async_nats::jetstream::{Context, stream::Stream};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use exodrive_domain::{id::ErasureId, personal::KeyScope};
use moka::sync::Cache;
use records::{Family, Place, Stored};
pub use rewrap::Rewrapped;
use ring::{digest, hmac};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use wrapping::{DataKey, random_key};
pub(crate) use wrapping::{OpenKey, decrypt, encrypt};
pub use wrapping::{WrappingKeys, WrappingKeysError};

/// The longest time for which a process may use a key after its destruction.
pub const KEY_CACHE: Duration = Duration::from_secs(10);
const CACHED_KEYS: u64 = 100_000;
/// Erasures whose keys are remembered.
const CACHED_ERASURES: u64 = 1_000;
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
    context: Context,
    stream: Stream,
    /// The log's stream, which says what was erased.
    log: Stream,
    wrapping: WrappingKeys,
    cache: Cache<String, KeyState>,
    erasures: Cache<ErasureId, Arc<HashSet<String>>>,
    /// The last record that an earlier release may have stored a tombstone at.
    earlier_tombstones: u64,
    mac: hmac::Key,
}

/// The first name of a scope's keys.
fn name_of(scope: &KeyScope) -> String {
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
        let mut store = Self {
            context,
            stream: streams.keys,
            log: streams.log,
            wrapping,
            cache: Cache::builder().max_capacity(CACHED_KEYS).time_to_live(KEY_CACHE).build(),
            erasures: Cache::builder().max_capacity(CACHED_ERASURES).build(),
            earlier_tombstones: streams.earlier_tombstones,
            mac: hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]),
        };
        let mut family = store.read_of_leader(MAC_KEY).await?;
        if family.is_empty() && may_make {
            store.put(MAC_KEY, &random_key()).await?;
            family = store.read_of_leader(MAC_KEY).await?;
        }
        let record = family.newest().ok_or(KeyError::NoMacKey)?;
        let damaged = || KeyError::MacKey { sequence: record.sequence };
        let stored = record.read(MAC_KEY).map_err(|_| damaged())?;
        let key = store.unwrap(MAC_KEY, &stored).map_err(|error| match error {
            KeyError::Malformed { .. } => damaged(),
            error => error,
        })?;
        let key = key.ok_or_else(damaged)?;
        store.mac = hmac::Key::new(hmac::HMAC_SHA256, key.as_slice());
        Ok(store)
    }

    /// A keyed MAC, 32 hexadecimal digits.
    pub(crate) fn mac(&self, about: &str, body: &[u8]) -> String {
        hex::encode(self.mac_bytes(about, body))
    }

    /// The same, as 16 bytes.
    pub(crate) fn mac_bytes(&self, about: &str, body: &[u8]) -> [u8; 16] {
        wrapping::mac(&self.mac, about, body)
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
        for (name, family) in self.read_families(&missing).await? {
            if let Some(held) = self.held(&name, &family).await? {
                self.cache.insert(name.clone(), held.clone());
                all.insert(name, held);
            }
        }
        Ok(all)
    }

    /// What a key's records say; `None` if there is neither a key nor a tombstone that is
    /// believed.
    async fn held(&self, name: &str, family: &Family) -> Result<Option<KeyState>, KeyError> {
        if self.is_erased(name, family).await? {
            return Ok(Some(KeyState::Erased));
        }
        let Some(record) = family.newest() else { return Ok(None) };
        let key = self.unwrap(name, &record.read(name)?)?;
        Ok(key.map(|key| KeyState::Key(OpenKey::new(&key))))
    }

    /// The key of a record; `None` if the record is a tombstone.
    fn unwrap(&self, name: &str, stored: &Stored) -> Result<Option<DataKey>, KeyError> {
        match stored {
            Stored::Erased { .. } => Ok(None),
            Stored::Key { wrapped_by, wrapped } => {
                let wrapping =
                    || KeyError::Wrapping { name: name.to_owned(), version: *wrapped_by };
                let wrapped = BASE64.decode(wrapped).map_err(|_| wrapping())?;
                self.wrapping.unwrap(name, *wrapped_by, &wrapped).map(Some)
            }
        }
    }

    /// A record of a key, wrapped by the newest wrapping key.
    fn wrapped(&self, name: &str, key: &DataKey) -> Result<Stored, KeyError> {
        let (wrapped_by, wrapped) =
            self.wrapping.wrap(name, key).ok_or_else(|| KeyError::Encode(name.to_owned()))?;
        Ok(Stored::Key { wrapped_by, wrapped: BASE64.encode(wrapped) })
    }

    /// Stores a new key; `false` if there is one, or a tombstone.
    async fn put(&self, name: &str, key: &DataKey) -> Result<bool, KeyError> {
        self.publish(Place::Made, name, &self.wrapped(name, key)?, 0).await
    }
}
