//! The event log: one JetStream stream that is only ever appended to.
//!
//! **May import** the domain, async-nats, Redis for snapshots, and an HTTP
//! client for the server's monitoring endpoint. Knows nothing of Postgres or
//! HTTP handlers.
//!
//! **Flow.** [`Log::prepare`] makes the streams, as the operator;
//! [`Log::connect`] refuses a server or stream that could lose or change an
//! event ([`topology`]); [`permissions`] proves what each user may do. A
//! webhook becomes a [`NewEvent`] and goes in by [`Log::append_fact`]
//! (unconditional, counted once by its id). A command goes in by [`Commands`]:
//! load the subject's state, decide, append guarded by the subject's last
//! sequence ([`Log::append_decision`], [`Log::append_batch`] for two subjects),
//! and again if somebody was first.
//! Projections and replays take events out as
//! [`Recorded`](exodrive_domain::Recorded): [`Log::reader`] in log order from
//! a position, [`Log::reader_of`] some subjects only, [`Log::history`] for one
//! subject, [`Log::read`] for one event. All of them are [`StoredMessage`]s
//! first, as the server holds them; seals and proofs take those
//! ([`Log::stored_reader`], [`Log::read_stored`]).
//! What was refused at the door is kept beside the log ([`Log::refuse`],
//! [`Log::refusals`]).

mod append;
mod clock;
mod codec;
pub mod command;
mod keys;
pub mod permissions;
mod read;
pub mod redis;
mod refusals;
mod seals;
mod stored;
pub mod topology;
mod wire;

pub use append::{AppendError, Appended, NewEvent};
pub use command::{CarState, ClaimError, CommandError, Commands, DecisionState, Executed, Loaded};
pub use keys::{KEY_CACHE, KeyError, WrappingKeys, WrappingKeysError};
pub use read::{Batch, ReadError, Reader};
pub use refusals::{DUPLICATE, Refusal};
pub use stored::{StoredBatch, StoredMessage, StoredReader};
pub use topology::{ConnectError, LogConfig};

use async_nats::jetstream::{self, stream::Stream};
use chrono::{DateTime, Utc};
use exodrive_domain::id::ErasureId;
use keys::KeyStore;
use std::time::Duration;

/// A connection to the log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    context: jetstream::Context,
    stream: Stream,
    keys: KeyStore,
    ack_timeout: Duration,
    duplicate_window: Duration,
    created_at: DateTime<Utc>,
    clock: clock::LogClock,
    refusing: refusals::Refusing,
}

impl Log {
    /// Connects as the operator, makes the streams that are missing, checks
    /// what is there, and changes none of it.
    ///
    /// # Errors
    /// As [`Log::connect`], and when this user may not make streams.
    pub async fn prepare(config: &LogConfig) -> Result<Self, ConnectError> {
        topology::prepare(config).await
    }

    /// Connects and checks what is there. Waits up to [`LogConfig::patience`]
    /// for the streams to be made ([`Log::prepare`]).
    ///
    /// # Errors
    /// When the server cannot be reached within that time, is too old, has no
    /// streams, or runs with a setting that could lose or change an event; the
    /// error names the setting.
    pub async fn connect(config: &LogConfig) -> Result<Self, ConnectError> {
        topology::connect(config).await
    }

    /// Connects to read: makes nothing and checks no setting but the server's
    /// version. Waits up to [`LogConfig::patience`] for the stream to be made.
    ///
    /// # Errors
    /// When the server cannot be reached, is too old, or has no log.
    pub async fn open(config: &LogConfig) -> Result<Self, ConnectError> {
        topology::open(config).await
    }

    /// How long the server remembers an event's id, and answers a repeat with
    /// the first position.
    pub fn duplicate_window(&self) -> Duration {
        self.duplicate_window
    }

    /// When the stream was made: with its name, the identity of the log. What
    /// was projected from another log must not be continued from this one.
    pub fn created_at(&self) -> DateTime<Utc> {
        self.created_at
    }

    /// The time by the log server's clock, on which all processes agree. Cheap;
    /// never earlier than what this or a clone has given before.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The position of the newest event; 0 when there is none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn last_position(&self) -> Result<u64, ReadError> {
        let info = self.stream.get_info().await.map_err(ReadError::unavailable)?;
        Ok(info.state.last_sequence)
    }

    /// Destroys a data key by name: nobody can read any more what was encrypted
    /// with it. May be repeated. Other processes use a copy for at most
    /// [`KEY_CACHE`].
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn destroy_key(&self, name: &str, erasure: ErasureId) -> Result<(), KeyError> {
        self.keys.destroy(name, erasure, self.now()).await
    }

    /// Whether a data key is destroyed.
    ///
    /// # Errors
    /// When the key store does not answer.
    pub async fn is_key_destroyed(&self, name: &str) -> Result<bool, KeyError> {
        self.keys.is_destroyed(name).await
    }

    /// A keyed MAC of something about a person, by which it is recognised
    /// without being kept: 32 hexadecimal digits.
    pub fn mac(&self, about: &str, text: &[u8]) -> String {
        self.keys.mac(about, text)
    }

    /// Writes to a small stream beside the log, to prove that the server can
    /// store; gives the time it took.
    ///
    /// # Errors
    /// When the write is not acknowledged in the time an append has.
    pub async fn probe(&self) -> Result<Duration, AppendError> {
        append::probe(&self.context, self.ack_timeout).await
    }
}
