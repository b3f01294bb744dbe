//! Events that a decision may rest on: those that this release can read.
//!
//! A view skips an event of an unknown type: the newer release that appended it
//! has views of its own. A decision must not. The event may have taken the days
//! that the decision is about to give away.

use crate::{
    DecodeError, Envelope, Event, Payload, Recorded,
    event::{decode, newest_version},
};

/// An event whose type and version this release knows. Only
/// [`KnownEvent::read`] makes one, so code that takes a `KnownEvent` never gets
/// an event that this release would skip.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownEvent<'a> {
    recorded: &'a Recorded,
    payload: Payload,
}

/// A newer release appends to the log: this release cannot read one of its
/// events, and makes no decision about the subject of that event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a newer release is writing: this release cannot read event {kind} v{version} at position {position}"
)]
pub struct NewerRelease {
    /// The event's type.
    pub kind: String,
    /// The version of its body's shape.
    pub version: u32,
    /// Its position in the log.
    pub position: u64,
}

/// Reason why no decision can rest on an event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableEvent {
    /// Its type is unknown to this release, or its version is newer. A newer
    /// release can read it.
    #[error(transparent)]
    NewerRelease(#[from] NewerRelease),
    /// Its body or version is wrong. No release can read it.
    #[error(transparent)]
    Decode(DecodeError),
}

impl<'a> KnownEvent<'a> {
    /// Reads the body of a recorded event, as [`decode`] does, and rejects an
    /// event that this release does not know.
    ///
    /// # Errors
    /// [`UnreadableEvent::NewerRelease`] for an unknown type and for a newer
    /// version of a known type; [`UnreadableEvent::Decode`] for a body that is
    /// not of its type's shape.
    pub fn read(recorded: &'a Recorded) -> Result<Self, UnreadableEvent> {
        let newer = || {
            let Envelope { kind, version, .. } = &recorded.envelope;
            NewerRelease { kind: kind.clone(), version: *version, position: recorded.position }
        };
        match decode(recorded) {
            Ok(Payload::Unknown) | Err(DecodeError::NewerVersion { .. }) => Err(newer().into()),
            Ok(payload) => Ok(Self { recorded, payload }),
            Err(error) => Err(UnreadableEvent::Decode(error)),
        }
    }

    /// The event and its payload, for a fold.
    pub fn event(&self) -> Event<'_> {
        Event { recorded: self.recorded, payload: &self.payload }
    }
}

/// True if this release reads events of a type at a version.
pub fn is_known(kind: &str, version: u32) -> bool {
    newest_version(kind).is_some_and(|newest| (1..=newest).contains(&version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DECISION_VERSION;
    use serde_json::json;

    /// A block on a car's calendar, of a type and version.
    fn given(kind: &str, version: u32) -> Recorded {
        let id = uuid::Uuid::from_u128(7);
        let body = json!({
            "car_id": id, "block_id": id, "type": "blocked", "reason": "tyres",
            "days": {"from": "2026-11-20", "until": "2026-11-22"},
        });
        let now = crate::time::parse("2026-11-20T09:00:00Z").unwrap();
        Recorded {
            position: 42,
            subject: format!("exo.booking.{id}"),
            stored_at: now,
            envelope: Envelope { version, ..Envelope::decision(kind, "a", now) },
            provider_headers: Vec::new(),
            body: serde_json::to_vec(&body).unwrap().into(),
            protection: None,
        }
    }

    fn newer(kind: &str, version: u32) -> UnreadableEvent {
        NewerRelease { kind: kind.to_owned(), version, position: 42 }.into()
    }

    #[test]
    fn given_a_known_event_then_it_is_read() {
        let recorded = given("exodrive.calendar.blocked", DECISION_VERSION);
        let known = KnownEvent::read(&recorded).unwrap();
        assert!(matches!(known.event().payload, Payload::Block(_)));
    }

    #[test]
    fn given_an_unknown_type_then_no_decision_rests_on_it() {
        let recorded = given("exodrive.booking.swapped", 1);
        assert_eq!(decode(&recorded), Ok(Payload::Unknown), "views skip it");
        let refused = KnownEvent::read(&recorded);
        assert_eq!(refused, Err(newer("exodrive.booking.swapped", 1)));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "a newer release is writing: this release cannot read event \
             exodrive.booking.swapped v1 at position 42"
        );
    }

    #[test]
    fn given_a_newer_version_then_no_decision_rests_on_it() {
        let recorded = given("exodrive.calendar.blocked", DECISION_VERSION + 1);
        let refused = KnownEvent::read(&recorded);
        assert_eq!(refused, Err(newer("exodrive.calendar.blocked", DECISION_VERSION + 1)));
    }

    #[test]
    fn given_a_malformed_body_then_the_error_is_not_newer_release() {
        let mut recorded = given("exodrive.calendar.blocked", DECISION_VERSION);
        recorded.body = "{}".into();
        let refused = KnownEvent::read(&recorded);
        assert!(
            matches!(refused, Err(UnreadableEvent::Decode(DecodeError::Body { .. }))),
            "{refused:?}"
        );
        let nothing = given("exodrive.calendar.blocked", 0);
        assert!(matches!(KnownEvent::read(&nothing), Err(UnreadableEvent::Decode(_))));
    }

    #[test]
    fn known_is_what_can_be_read() {
        assert!(is_known("exodrive.booking.held", 1));
        assert!(!is_known("exodrive.booking.held", 0));
        assert!(!is_known("exodrive.booking.held", 2));
        assert!(!is_known("exodrive.booking.swapped", 1));
    }
}
