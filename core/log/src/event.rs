//! An event on its way into the log, and as the log's server holds it.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use exodrive_domain::{Envelope, Subject};

/// An event to be appended.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The entity that it is about.
    pub subject: Subject,
    /// Its attributes.
    pub envelope: Envelope,
    /// A delivery's own headers, stored beside the envelope.
    pub provider_headers: Vec<(String, String)>,
    /// The body; it is stored unchanged.
    pub body: Bytes,
}

/// An event that is durably in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its position.
    pub position: u64,
    /// True if it was stored already: an event of this id was appended before.
    pub duplicate: bool,
}

/// A message of the log as the server holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredMessage {
    /// Its sequence in the stream.
    pub position: u64,
    /// The time at which the server stored it, in nanoseconds since 1970.
    pub stored_at_nanos: i64,
    /// Its subject.
    pub subject: String,
    /// Every header, sorted by name; the values of one name in stored order.
    pub headers: Vec<(String, String)>,
    /// The stored bytes.
    pub body: Bytes,
}

impl StoredMessage {
    /// The time at which the server stored it.
    pub fn stored_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_nanos(self.stored_at_nanos)
    }
}
