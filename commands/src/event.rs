//! Events of decisions, and the ids and hashes that make retries the same.

use crate::context::CommandContext;
use chrono::{DateTime, Utc};
use exodrive_domain::{
    DECISION_VERSION, Envelope, Meta, Subject, booking::BookingEvent, fleet::FleetEvent,
    operation::OperationEvent,
};
use exodrive_log::{Log, NewEvent};
use ring::digest;
use serde::Serialize;

pub(crate) fn fleet_event(
    event: &FleetEvent,
    subject: Subject,
    meta: &Meta,
    context: &CommandContext,
    suffix: &str,
) -> Result<NewEvent, serde_json::Error> {
    let (body, kind) = (serde_json::to_vec(event)?, event.change.kind());
    Ok(new_event(subject, kind, body, meta, context, suffix))
}

pub(crate) fn booking_event(
    event: &BookingEvent,
    meta: &Meta,
    context: &CommandContext,
    suffix: &str,
) -> Result<NewEvent, serde_json::Error> {
    let (body, kind) = (serde_json::to_vec(event)?, event.change.kind());
    Ok(new_event(Subject::Booking(event.car_id), kind, body, meta, context, suffix))
}

/// Builds an event of a command. `suffix` distinguishes the second event of a
/// command from the first.
pub(crate) fn new_event(
    subject: Subject,
    kind: &str,
    body: Vec<u8>,
    meta: &Meta,
    context: &CommandContext,
    suffix: &str,
) -> NewEvent {
    NewEvent {
        subject,
        envelope: Envelope {
            id: format!("{}{suffix}", meta.command_id),
            kind: kind.to_owned(),
            version: DECISION_VERSION,
            source: "exodrive".to_owned(),
            time: meta.now,
            traceparent: context.traceparent.clone(),
            causation: None,
            correlation: context.correlation.clone(),
            actor: context.acted_by.clone().or_else(|| Some(context.actor.audit_name())),
        },
        provider_headers: Vec::new(),
        body: body.into(),
    }
}

/// Derives an id from `parts`: the same parts give the same id.
pub fn derived_uuid(parts: &[&str]) -> uuid::Uuid {
    uuid_of(digest::digest(&digest::SHA256, parts.join("\n").as_bytes()).as_ref())
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// A keyed hash of a request: equal requests have equal hashes. It is keyed
/// because it goes into the log and a request may hold personal data.
pub fn request_hash(log: &Log, request: &impl Serialize) -> String {
    log.mac("request", &serde_json::to_vec(request).unwrap_or_default())
}

/// A UUID (version 8, RFC 9562) of the first 16 bytes of a digest.
pub fn uuid_of(digest: &[u8]) -> uuid::Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// An operator's event, ready to be appended.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn operation_event(
    event: &OperationEvent,
    id: String,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<NewEvent, serde_json::Error> {
    Ok(NewEvent {
        subject: Subject::Projection(event.projection.clone()),
        envelope: Envelope {
            id,
            kind: event.operation.kind().to_owned(),
            version: DECISION_VERSION,
            source: "exodrive".to_owned(),
            time: now,
            traceparent: None,
            causation: None,
            correlation: None,
            actor: Some(actor.to_owned()),
        },
        provider_headers: Vec::new(),
        body: serde_json::to_vec(event)?.into(),
    })
}
