//! The event log: one JetStream stream that is only ever appended to.
//!
//! **May import** the domain, async-nats, Redis for snapshots, and an HTTP
//! client for the server's monitoring endpoint. Knows nothing of Postgres or
//! HTTP handlers.
//!
//! **Flow.** [`Log::prepare`] makes the streams, as the operator.
//! [`Log::connect`] rejects a server or stream that could lose or change an
//! event ([`topology`]). An [`address`] says where the servers are and who connects. [`permissions`] proves what each user may do. A
//! webhook becomes a [`NewEvent`] and is appended by [`Log::append_fact`]
//! (unconditional, counted once by its id). A command goes through
//! [`Commands`]: load the subject's state, decide, append guarded by the
//! subject's last sequence ([`Log::append_decision`], [`Log::append_batch`] for
//! two subjects), and repeat if another event was appended first. Projections
//! and replays read events as [`Recorded`](exodrive_domain::Recorded):
//! [`Log::reader`] in log order from a position, [`Log::reader_of`] some
//! subjects only, [`Log::history`] for one subject, [`Log::read_event`] for one
//! event. All of them are [`StoredMessage`]s first, as the server holds them;
//! seals and proofs use those ([`Log::stored_reader`], [`Log::read_stored`]).
//! Nobody says that an event is missing before the stream's leader has said so
//! twice ([`Log::read_expected`], [`Log::last_position_expecting`]). A webhook that the API refuses is recorded beside the log ([`Log::refuse`],
//! [`Log::refusals`]). [`Log::health`] says whether the log takes events now.

pub mod address;
mod answers;
mod append;
mod carry_over;
mod clock;
mod codec;
pub mod command;
mod error;
mod event;
mod expected;
mod followed;
mod health;
mod keys;
mod log;
pub mod names;
pub mod permissions;
mod read;
pub mod redis;
mod refusals;
mod seals;
mod store;
mod stored;
mod storing;
mod streams;
pub mod topology;
mod wire;

pub use command::{
    CarState, ClaimError, CommandError, Commands, DecisionState, Executed, KeyState, Loaded,
};
pub use error::{AppendError, ConnectError, KeyError, Outage, ReadError};
pub use event::{Appended, NewEvent, StoredMessage};
pub use health::{LogHealth, WriteFault};
pub use keys::{KEY_CACHE, KeyStoreMark, Rewrapped, WrappingKeys, WrappingKeysError};
pub use log::Log;
pub use read::{Batch, Reader, SubjectReader};
pub use refusals::{DUPLICATE, RejectedDelivery};
pub use store::StoreReport;
pub use stored::{FEW_BYTES, StoredBatch, StoredReader};
pub use topology::LogConfig;
