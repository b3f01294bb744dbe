//! The envelope of an event (its CloudEvents attributes), and an event as the
//! log stores it.

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
    /// `ce-source`: the origin of the event.
    pub source: String,
    /// `ce-time`: the time at which we learned of it (for a delivery: its
    /// arrival).
    pub time: DateTime<Utc>,
    /// W3C trace context of the request that appended it.
    pub traceparent: Option<String>,
    /// Id of the event or request that caused it.
    pub causation: Option<String>,
    /// Id shared by all events that one request caused.
    pub correlation: Option<String>,
    /// The actor: a user id or a system's name.
    pub actor: Option<String>,
}

/// The newest version of every event that comes from a decision.
pub const DECISION_VERSION: u32 = 1;
/// `ce-source` of every event that one of our decisions made.
pub const DECISION_SOURCE: &str = "exodrive";

impl Envelope {
    /// The attributes of an event that a decision made: type `kind` at
    /// [`DECISION_VERSION`], unique by `id`, at time `now`, from
    /// [`DECISION_SOURCE`]. Its cause and actor are not set yet: set `actor`,
    /// `correlation`, `causation` and `traceparent` with [`Envelope::by`],
    /// [`Envelope::within`], [`Envelope::because_of`] and [`Envelope::traced`].
    pub fn decision(kind: impl Into<String>, id: impl Into<String>, now: DateTime<Utc>) -> Self {
        Self::received(DECISION_SOURCE, kind, DECISION_VERSION, id, now)
    }

    /// The attributes of an event that somebody else's system reports: from
    /// `source`, type `kind` in `version`, unique by `id` within the source,
    /// arrived at `now`. The rest as with [`Envelope::decision`].
    pub fn received(
        source: impl Into<String>,
        kind: impl Into<String>,
        version: u32,
        id: impl Into<String>,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id: id.into(),
            kind: kind.into(),
            version,
            source: source.into(),
            time: now,
            traceparent: None,
            causation: None,
            correlation: None,
            actor: None,
        }
    }

    /// The same, done by a user (by id) or a system (by name).
    #[must_use]
    pub fn by(self, actor: impl Into<String>) -> Self {
        Self { actor: Some(actor.into()), ..self }
    }

    /// The same, with the correlation id of the request that caused it.
    #[must_use]
    pub fn within(self, correlation: Option<String>) -> Self {
        Self { correlation, ..self }
    }

    /// The same, caused by the event or request of this id.
    #[must_use]
    pub fn because_of(self, causation: Option<String>) -> Self {
        Self { causation, ..self }
    }

    /// The same, within a W3C trace context.
    #[must_use]
    pub fn traced(self, traceparent: Option<String>) -> Self {
        Self { traceparent, ..self }
    }

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
    /// The time at which the log's server stored it.
    pub stored_at: DateTime<Utc>,
    /// The event's attributes.
    pub envelope: Envelope,
    /// The provider's own headers of a delivery (`svix-id`, …), as received.
    pub provider_headers: Vec<(String, String)>,
    /// The event's JSON; for a delivery the received bytes, verbatim. If
    /// personal data was erased, the JSON marks it, and a delivery has no bytes.
    pub body: Bytes,
    /// Protection of its personal data in the log; `None` if it has no personal
    /// data.
    pub protection: Option<Protection>,
}

impl Recorded {
    /// True if its personal data is erased.
    pub fn is_erased(&self) -> bool {
        self.protection.as_ref().is_some_and(|protection| protection.erased)
    }
}

/// Protection of an event's personal data in the log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Protection {
    /// The name of the data key that encrypts it.
    pub key: String,
    /// A keyed MAC of id and body as received. It identifies a repeat after the
    /// body has become unreadable.
    pub mac: String,
    /// The data key was destroyed: the data cannot be read any more.
    pub erased: bool,
    /// Of a delivery: its type, which is no personal datum.
    pub provider_type: Option<String>,
    /// Of a delivery: when the provider made the event.
    pub happened_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_of_a_decision_has_only_the_given_attributes() {
        let now = crate::time::parse("2026-11-20T09:00:00Z").unwrap();
        let plain = Envelope::decision("exodrive.booking.held", "a", now);
        let expected = Envelope {
            id: "a".to_owned(),
            kind: "exodrive.booking.held".to_owned(),
            version: DECISION_VERSION,
            source: "exodrive".to_owned(),
            time: now,
            traceparent: None,
            causation: None,
            correlation: None,
            actor: None,
        };
        assert_eq!(plain, expected);
        let full = plain
            .by("admin:1")
            .within(Some("req_1".to_owned()))
            .because_of(Some("b".to_owned()))
            .traced(Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()));
        assert_eq!(full.actor.as_deref(), Some("admin:1"));
        assert_eq!(full.correlation.as_deref(), Some("req_1"));
        assert_eq!(full.causation.as_deref(), Some("b"));
        assert_eq!(full.trace_id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(Envelope::decision("exodrive.booking.held", "a", now).within(None), expected);
    }
}
