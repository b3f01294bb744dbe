//! The connection that everything here is done with.

use crate::{
    answers::Answers,
    clock::LogClock,
    error::KeyError,
    keys::{KeyStore, KeyStoreMark, Rewrapped},
    store::Store,
    storing::Storing,
};
use async_nats::jetstream::{self, stream::Stream};
use chrono::{DateTime, Utc};
use exodrive_domain::id::{CustomerId, ErasureId, HoldId};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// The greatest number of refusals that are being sent at once.
const IN_FLIGHT: usize = 64;

/// Permits for the refusals that are being sent at once.
#[derive(Clone)]
pub(crate) struct RejectionSlots(pub(crate) Arc<Semaphore>);

impl Default for RejectionSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(IN_FLIGHT)))
    }
}

/// A connection to the log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    pub(crate) context: jetstream::Context,
    pub(crate) stream: Stream,
    pub(crate) keys: KeyStore,
    pub(crate) ack_timeout: Duration,
    pub(crate) duplicate_window: Duration,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) clock: LogClock,
    pub(crate) answers: Answers,
    pub(crate) storing: Storing,
    pub(crate) store: Store,
    pub(crate) refusing: RejectionSlots,
    /// The settings of server and streams were checked: it may be appended to.
    pub(crate) checked: bool,
}

impl Log {
    /// The time for which the server remembers an event's id, and answers a
    /// repeat with the first position.
    pub fn duplicate_window(&self) -> Duration {
        self.duplicate_window
    }

    /// The time at which the stream was made: with its name, the identity of
    /// the log. A projection of another log must not be continued from this
    /// one.
    pub fn created_at(&self) -> DateTime<Utc> {
        self.created_at
    }

    /// The time by the log server's clock, on which all processes agree. Cheap;
    /// never earlier than what this or a clone has given before.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Destroys a data key by name: data that it encrypted cannot be read any
    /// more. May be repeated. Other processes use a copy for at most
    /// [`KEY_CACHE`](crate::KEY_CACHE).
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn destroy_key(&self, name: &str, erasure: ErasureId) -> Result<(), KeyError> {
        if !self.checked {
            return Err(KeyError::OpenedForReading);
        }
        self.keys.destroy(name, erasure, self.now()).await
    }

    /// Of some data keys, by name, those that are not destroyed.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn keys_not_destroyed(&self, names: &[&str]) -> Result<Vec<String>, KeyError> {
        self.keys.not_destroyed(names).await
    }

    /// How far the key store has come.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn key_store_mark(&self) -> Result<KeyStoreMark, KeyError> {
        self.keys.mark().await
    }

    /// Wraps every data key by the newest wrapping key, for the operator's user. May be
    /// interrupted and repeated. Calls `progress` with the number of keys that are done, and of
    /// all.
    ///
    /// # Errors
    /// When the key store does not answer, or a key cannot be opened.
    pub async fn rewrap_keys(&self, progress: impl FnMut(u64, u64)) -> Result<Rewrapped, KeyError> {
        if !self.checked {
            return Err(KeyError::OpenedForReading);
        }
        self.keys.rewrap(progress).await
    }

    /// The id of the customer with this email address, which must be an
    /// [`address_key`](exodrive_domain::value::address_key); `None` if there is none yet.
    /// `earlier`: the ids that earlier releases may have given them.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn find_customer(
        &self,
        address: &str,
        earlier: &[CustomerId],
    ) -> Result<Option<CustomerId>, KeyError> {
        self.keys.find_customer(address, earlier).await
    }

    /// As [`Log::find_customer`]; gives the address a new id if there is none.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn find_or_make_customer(
        &self,
        address: &str,
        earlier: &[CustomerId],
    ) -> Result<CustomerId, KeyError> {
        if !self.checked {
            return Err(KeyError::OpenedForReading);
        }
        self.keys.find_or_make_customer(address, earlier).await
    }

    /// Forgets which addresses the erased customers had: who comes back is a new one. Looks at
    /// every customer.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn forget_erased_customers(&self) -> Result<(), KeyError> {
        if !self.checked {
            return Err(KeyError::OpenedForReading);
        }
        self.keys.forget_erased_customers().await
    }

    /// The id of the hold on this email address, which must be an
    /// [`address_key`](exodrive_domain::value::address_key); `None` if it has none yet. The id says
    /// nothing of the address.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn find_hold(&self, address: &str) -> Result<Option<HoldId>, KeyError> {
        self.keys.find_hold(address).await
    }

    /// As [`Log::find_hold`]; gives the address an id if there is none.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn find_or_make_hold(&self, address: &str) -> Result<HoldId, KeyError> {
        if !self.checked {
            return Err(KeyError::OpenedForReading);
        }
        self.keys.find_or_make_hold(address).await
    }

    /// Forgets which addresses these holds are about, those of people who are erased. Looks at
    /// every hold.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn forget_holds(&self, holds: &HashSet<HoldId>) -> Result<(), KeyError> {
        if !self.checked {
            return Err(KeyError::OpenedForReading);
        }
        self.keys.forget_holds(holds).await
    }

    /// A copy of something that the log holds, to be kept where others might change it, such as in
    /// Redis: with a MAC by a key of the log before it. `name` says where it is kept; it holds no
    /// zero byte.
    pub fn seal_copy(&self, name: &str, copy: &str) -> String {
        self.keys.seal_copy(name, copy)
    }

    /// What [`Log::seal_copy`] was given, if it was of this log and this name, and nobody has changed
    /// it.
    pub fn open_copy<'a>(&self, name: &str, sealed: &'a str) -> Option<&'a str> {
        self.keys.open_copy(name, sealed)
    }

    /// A keyed MAC of a text about a person, which identifies the text without
    /// storing it: 32 hexadecimal digits.
    pub fn mac(&self, about: &str, text: &[u8]) -> String {
        self.keys.mac(about, text)
    }

    /// The same MAC as [`Log::mac`], as 16 bytes.
    pub fn mac_bytes(&self, about: &str, text: &[u8]) -> [u8; 16] {
        self.keys.mac_bytes(about, text)
    }
}
