//! The domain, without storage and transport: the events, their envelope and
//! subjects, and the folds that turn events into state.
//!
//! **May import** serde, chrono (and its time zones), strum, uuid, bytes,
//! thiserror, and parsers of the values that people give (addresses, URLs,
//! currencies, Unicode). No IO, no clock and no randomness: the manifest holds no crate
//! for them and `clippy.toml` forbids those of the standard library.
//!
//! **Flow.** The log hands over a [`Recorded`] event (envelope and body bytes).
//! [`decode`] lifts old versions on raw JSON and types the body. A fold such as
//! [`email::evolve`] turns state and event into the next state. A decision
//! folds each event as a [`KnownEvent`], so it never skips one that this
//! release cannot read. Live projections, replay and every later rebuild use
//! the same functions, so they cannot disagree. A decision ([`fleet::decide`],
//! [`booking::decide`]) turns state and command into an event or a rejection.
//! The log crate appends the event if the state was the newest.
//!
//! **To add an event**: `docs/recipes.md`.

pub mod access;
pub mod booking;
mod command;
pub mod credential;
pub mod days;
pub mod email;
mod envelope;
pub mod erasure;
mod event;
mod event_type;
pub mod fleet;
pub mod id;
mod json;
mod known;
pub mod operation;
pub mod personal;
pub mod price;
mod subject;
pub mod time;
mod upcast;
pub mod value;

pub use command::{CommandRecord, Meta, Repeat};
pub use envelope::{DECISION_SOURCE, DECISION_VERSION, Envelope, Protection, Recorded};
pub use event::{DecodeError, Delivery, Event, Payload, decode, event_types};
pub use event_type::{EMAIL_IMPORTED, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION};
pub use known::{KnownEvent, NewerRelease, UnreadableEvent, is_known};
pub use subject::{LOG_SUBJECTS, Subject, SubjectError};
