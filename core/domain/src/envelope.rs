use bytes::Bytes;
use chrono::{DateTime, Utc};

/// The CloudEvents 1.0 attributes of an event, and who caused it. Carried as
/// message headers (binary mode), never inside the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `ce-id`: unique within the source. For a delivery it is the provider's
    /// message id, so a repeat carries the same one.
    pub id: String,
    /// `ce-type`, for example `exodrive.webhook.received`.
    pub kind: String,
    /// `ce-dataschema`: the version of the body's shape, from 1.
    pub version: u32,
    /// `ce-source`: where the event came from.
    pub source: String,
    /// `ce-time`: when we learnt of it (for a delivery: its arrival).
    pub time: DateTime<Utc>,
    /// W3C trace context of the request that appended it.
    pub traceparent: Option<String>,
    /// Id of the event or request that caused it.
    pub causation: Option<String>,
    /// Id shared by all that one request set off.
    pub correlation: Option<String>,
    /// Who did it: a user id or a system's name.
    pub actor: Option<String>,
}

impl Envelope {
    /// The trace that the event belongs to, 32 hexadecimal digits.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }
}

/// An event as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The stream's sequence: the one global position, from 1.
    pub position: u64,
    /// The subject it was appended to, as spelt by [`crate::Subject`].
    pub subject: String,
    /// When the log's server stored it.
    pub stored_at: DateTime<Utc>,
    /// The event's attributes.
    pub envelope: Envelope,
    /// The provider's own headers of a delivery (`svix-id`, …), as received.
    pub provider_headers: Vec<(String, String)>,
    /// The event's JSON; for a delivery the received bytes, verbatim. Where
    /// personal data was erased, JSON says so, and a delivery has no bytes.
    pub body: Bytes,
    /// How its personal data is protected in the log; none if it has none.
    pub protection: Option<Protection>,
}

impl Recorded {
    /// Whether its personal data is erased.
    pub fn is_erased(&self) -> bool {
        self.protection.as_ref().is_some_and(|protection| protection.erased)
    }
}

/// How an event's personal data is protected in the log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Protection {
    /// The name of the data key that encrypts it.
    pub key: String,
    /// A keyed MAC of id and body as they were received, by which a repeat is
    /// recognised when the body cannot be read any more.
    pub mac: String,
    /// The data key was destroyed: nobody can read it.
    pub erased: bool,
    /// Of a delivery: its type, which is no personal datum.
    pub provider_type: Option<String>,
    /// Of a delivery: when the provider made the event.
    pub happened_at: Option<DateTime<Utc>>,
}
