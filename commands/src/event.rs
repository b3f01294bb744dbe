//! The events that decisions come to, ready to be appended.

use crate::context::CommandContext;
use exodrive_domain::{Envelope, Meta, Subject, booking::BookingEvent, fleet::FleetEvent};
use exodrive_log::NewEvent;
use serde::Serialize;

pub(crate) fn fleet_event(
    event: &FleetEvent,
    subject: Subject,
    meta: &Meta,
    context: &CommandContext,
    suffix: &str,
) -> Result<NewEvent, serde_json::Error> {
    command_event(subject, event.change.kind(), event, meta, context, suffix)
}

pub(crate) fn booking_event(
    event: &BookingEvent,
    meta: &Meta,
    context: &CommandContext,
    suffix: &str,
) -> Result<NewEvent, serde_json::Error> {
    let subject = Subject::Booking(event.car_id);
    command_event(subject, event.change.kind(), event, meta, context, suffix)
}

/// The event of a command: its id is the command's, with `suffix`, which tells
/// the second event of a command from the first.
pub(crate) fn command_event(
    subject: Subject,
    kind: &str,
    body: &impl Serialize,
    meta: &Meta,
    context: &CommandContext,
    suffix: &str,
) -> Result<NewEvent, serde_json::Error> {
    let id = format!("{}{suffix}", meta.command_id);
    decided_event(subject, context.envelope(kind, id, meta.now), body)
}

/// The one place that makes an event of a decision: `body` as JSON, under
/// `envelope`.
///
/// # Errors
/// When `body` cannot be written as JSON.
pub fn decided_event(
    subject: Subject,
    envelope: Envelope,
    body: &impl Serialize,
) -> Result<NewEvent, serde_json::Error> {
    let body = serde_json::to_vec(body)?.into();
    Ok(NewEvent { subject, envelope, provider_headers: Vec::new(), body })
}
