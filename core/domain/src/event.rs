//! The types of event, their names and versions, and [`decode`], which turns a
//! recorded body into a typed [`Payload`].

use crate::{
    DECISION_VERSION, Envelope, Recorded, Subject,
    access::{ACCESS_RECORDED, AccessEvent},
    booking::{BlockChange, BlockEvent, BookingChange, BookingEvent},
    credential::{KeyChange, KeyEvent, SessionsChange, SessionsEvent},
    email::{EmailId, Report},
    erasure::{ErasureChange, ErasureEvent, HoldChange, HoldEvent},
    event_type::{EMAIL_IMPORTED, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION},
    fleet::{FleetChange, FleetEvent},
    json,
    operation::{Operation, OperationEvent},
    upcast,
};
use serde_json::Value;
use strum::VariantArray;

/// A recorded event whose body has been read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event<'a> {
    /// The event as the log holds it.
    pub recorded: &'a Recorded,
    /// The typed body, from [`decode`].
    pub payload: &'a Payload,
}

/// The body of an event, by type.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// [`WEBHOOK_RECEIVED`], and [`EMAIL_IMPORTED`], which has the same shape.
    Delivery(Delivery),
    /// `exodrive.car.*`.
    Fleet(FleetEvent),
    /// `exodrive.booking.*`.
    Booking(BookingEvent),
    /// `exodrive.calendar.*`.
    Block(BlockEvent),
    /// `exodrive.projection.*`. By rule it changes no view.
    Operation(OperationEvent),
    /// [`ACCESS_RECORDED`].
    Access(AccessEvent),
    /// `exodrive.erasure.*`. Changes no view by itself: the affected rows are
    /// rebuilt from the events that can still be read.
    Erasure(ErasureEvent),
    /// `exodrive.hold.*`. By rule it changes no view.
    Hold(HoldEvent),
    /// `exodrive.service_key.*`. By rule it changes no view.
    ServiceKey(KeyEvent),
    /// `exodrive.sessions.*`. By rule it changes no view.
    Sessions(SessionsEvent),
    /// A type that this release does not know. By rule it changes no view: it
    /// was appended by a newer release, whose own projections fold it. A
    /// decision stops at it: see [`KnownEvent`](crate::KnownEvent).
    Unknown,
}

/// One delivery of a provider's message.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// `type` of the body, if it is JSON and has one.
    pub provider_type: Option<String>,
    /// `created_at` of the body: when the provider made the event.
    pub happened_at: Option<chrono::DateTime<chrono::Utc>>,
    /// The report, if the delivery is about an email.
    pub report: Option<Report>,
}

impl Delivery {
    /// Reads the body of a recorded delivery. Of an erased one, the email, the
    /// kind of report and its time are left.
    fn recorded(recorded: &Recorded, read: impl FnOnce(&[u8]) -> Self) -> Self {
        let Some(protection) = recorded.protection.as_ref().filter(|it| it.erased) else {
            return read(&recorded.body);
        };
        let email_id = match recorded.subject.parse() {
            Ok(Subject::Email(id)) => Some(id),
            _ => None,
        };
        let provider_type = protection.provider_type.clone();
        let report = provider_type
            .as_deref()
            .zip(email_id)
            .and_then(|(kind, email_id)| Report::erased(kind, email_id));
        Self { provider_type, happened_at: protection.happened_at, report }
    }

    /// Reads a body as far as it can be read. Never fails: a body that is not
    /// JSON is a delivery without content.
    pub fn parse(body: &[u8]) -> Self {
        Self::read_version(body, WEBHOOK_RECEIVED_VERSION)
    }

    fn read_version(body: &[u8], version: u32) -> Self {
        match json::parse(body) {
            Some(body) => {
                let lifted = upcast::lift(upcast::UPCASTERS, WEBHOOK_RECEIVED, version, body);
                Self::read_json(&lifted)
            }
            None => Self { provider_type: None, happened_at: None, report: None },
        }
    }

    fn read_json(body: &Value) -> Self {
        let provider_type = json::text(body, "type");
        let report = provider_type
            .as_deref()
            .and_then(|kind| Report::parse(kind, body.get("data").unwrap_or(&Value::Null)));
        let happened_at =
            json::text(body, "created_at").as_deref().and_then(crate::time::parse_any);
        Self { provider_type, happened_at, report }
    }

    /// The email it is about.
    pub fn email_id(&self) -> Option<&EmailId> {
        self.report.as_ref().map(|report| &report.email_id)
    }
}

/// An event that this release cannot read, though it knows the type.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer release wrote the event.
    #[error(
        "{kind} version {version} is newer than this release reads ({newest}): deploy the release that wrote it, then retry"
    )]
    NewerVersion {
        /// The event's type.
        kind: String,
        /// The version found.
        version: u32,
        /// The newest version this release reads.
        newest: u32,
    },
    /// The version is invalid.
    #[error("{kind} has no version {version}")]
    NoSuchVersion {
        /// The event's type.
        kind: String,
        /// The version found.
        version: u32,
    },
    /// The body is not of the type's shape.
    #[error("{kind} cannot be read: {reason}")]
    Body {
        /// The event's type.
        kind: String,
        /// The parser's message.
        reason: String,
    },
}

/// Reads the body of a recorded event: lifts it to the newest version on raw
/// JSON, then types it.
///
/// # Errors
/// When the event is of a known type but of a version that this release cannot
/// read; never for the content of a webhook's body.
pub fn decode(recorded: &Recorded) -> Result<Payload, DecodeError> {
    let Some(family) = Family::of(&recorded.envelope.kind) else { return Ok(Payload::Unknown) };
    check_version(recorded, family.newest())?;
    Ok(match family {
        Family::Webhook => {
            let version = recorded.envelope.version;
            Payload::Delivery(Delivery::recorded(recorded, |body| {
                Delivery::read_version(body, version)
            }))
        }
        Family::ImportedEmail => Payload::Delivery(Delivery::recorded(recorded, Delivery::parse)),
        Family::Booking => Payload::Booking(decision(recorded)?),
        Family::Block => Payload::Block(decision(recorded)?),
        Family::Fleet => Payload::Fleet(decision(recorded)?),
        Family::Operation => Payload::Operation(decision(recorded)?),
        Family::Access => Payload::Access(decision(recorded)?),
        Family::Erasure => Payload::Erasure(decision(recorded)?),
        Family::Hold => Payload::Hold(decision(recorded)?),
        Family::ServiceKey => Payload::ServiceKey(decision(recorded)?),
        Family::Sessions => Payload::Sessions(decision(recorded)?),
    })
}

/// Types of events whose bodies are read the same way.
#[derive(Clone, Copy, VariantArray)]
enum Family {
    Webhook,
    ImportedEmail,
    Booking,
    Block,
    Fleet,
    Operation,
    Access,
    Erasure,
    Hold,
    ServiceKey,
    Sessions,
}

impl Family {
    fn of(kind: &str) -> Option<Self> {
        Self::VARIANTS.iter().copied().find(|family| family.kinds().contains(&kind))
    }

    fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Webhook => &[WEBHOOK_RECEIVED],
            Self::ImportedEmail => &[EMAIL_IMPORTED],
            Self::Booking => BookingChange::KINDS,
            Self::Block => BlockChange::KINDS,
            Self::Fleet => FleetChange::KINDS,
            Self::Operation => Operation::KINDS,
            Self::Access => &[ACCESS_RECORDED],
            Self::Erasure => ErasureChange::KINDS,
            Self::Hold => HoldChange::KINDS,
            Self::ServiceKey => KeyChange::KINDS,
            Self::Sessions => SessionsChange::KINDS,
        }
    }

    /// The newest version that this release reads and appends.
    fn newest(self) -> u32 {
        match self {
            Self::Webhook => WEBHOOK_RECEIVED_VERSION,
            Self::ImportedEmail
            | Self::Booking
            | Self::Block
            | Self::Fleet
            | Self::Operation
            | Self::Access
            | Self::Erasure
            | Self::Hold
            | Self::ServiceKey
            | Self::Sessions => DECISION_VERSION,
        }
    }
}

/// Every type of event that this release reads, and the newest version of each.
pub fn event_types() -> impl Iterator<Item = (&'static str, u32)> {
    let types = |family: &Family| {
        let newest = family.newest();
        family.kinds().iter().map(move |kind| (*kind, newest))
    };
    Family::VARIANTS.iter().flat_map(types)
}

/// The newest version of a type that this release reads; `None` if it does not
/// know the type.
pub(crate) fn newest_version(kind: &str) -> Option<u32> {
    Family::of(kind).map(Family::newest)
}

fn decision<T: serde::de::DeserializeOwned>(recorded: &Recorded) -> Result<T, DecodeError> {
    let Envelope { kind, version, .. } = &recorded.envelope;
    let unreadable = |error: serde_json::Error| DecodeError::Body {
        kind: kind.clone(),
        reason: error.to_string(),
    };
    if *version == DECISION_VERSION {
        return serde_json::from_slice(&recorded.body).map_err(unreadable);
    }
    let body = serde_json::from_slice(&recorded.body).map_err(unreadable)?;
    let lifted = upcast::lift(upcast::UPCASTERS, kind, *version, body);
    serde_json::from_value(lifted).map_err(unreadable)
}

fn check_version(recorded: &Recorded, newest: u32) -> Result<(), DecodeError> {
    let kind = || recorded.envelope.kind.clone();
    match recorded.envelope.version {
        0 => Err(DecodeError::NoSuchVersion { kind: kind(), version: 0 }),
        version if version > newest => {
            Err(DecodeError::NewerVersion { kind: kind(), version, newest })
        }
        _ => Ok(()),
    }
}
