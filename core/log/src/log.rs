//! The connection that everything here is done with.

use crate::{answers::Answers, clock::LogClock, error::KeyError, keys::KeyStore};
use async_nats::jetstream::{self, stream::Stream};
use chrono::{DateTime, Utc};
use exodrive_domain::id::ErasureId;
use std::{sync::Arc, time::Duration};
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

    /// True if a data key is destroyed.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn is_key_destroyed(&self, name: &str) -> Result<bool, KeyError> {
        self.keys.is_destroyed(name).await
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
