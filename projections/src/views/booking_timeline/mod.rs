//! `booking_timeline`: one row for each event of a booking, and one for each email that was tagged
//! with it, in whatever order the two became known.

pub mod read;

use crate::{PersonalData, Projection, Sources};
use chrono::{DateTime, Utc};
use exodrive_domain::{Event, Payload, Subject, time::serde_micros};
use serde::{Deserialize, Serialize};

/// The view of bookings' timelines.
pub struct BookingTimeline;

/// An event of a booking, or an email about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineRow {
    /// The event's type; `email` for an email.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's id; the email's for an email.
    pub id: String,
    /// Its position in the log.
    pub position: u64,
    /// Time that it happened.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The actor.
    pub actor: Option<String>,
    /// Text for people.
    pub summary: String,
    /// The reason, if one was given.
    pub reason: Option<String>,
    /// The booking's status after the event.
    pub status: Option<String>,
    /// Id of the event that caused it.
    pub causation: Option<String>,
    /// Id of the request that it results from.
    pub correlation: Option<String>,
}

impl Projection for BookingTimeline {
    const NAME: &'static str = "booking_timeline";
    const ABOUT: &'static str =
        "An event of a booking, by BOOKING/POSITION (20 digits), or BOOKING/email/EMAIL";
    const KEY_EXAMPLE: &'static str = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4/00000000000000000120";
    const VERSION: u32 = 2;
    const SUBJECTS: &'static [&'static str] = &["exo.booking.", "exo.email."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Row = TimelineRow;

    /// The tag of an email stands before its id, and may hold anything.
    fn personal(key: &str) -> PersonalData<'_> {
        match key.rsplit_once("/email/") {
            Some((_, email_id)) => PersonalData::OfOne("email", email_id),
            None => {
                let booking_id = key.split_once('/').map_or(key, |(booking_id, _)| booking_id);
                PersonalData::OfOne("booking", booking_id)
            }
        }
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        match event.payload {
            Payload::Booking(booking) => {
                vec![format!("{}/{:020}", booking.booking_id, event.recorded.position)]
            }
            Payload::Delivery(delivery) => delivery
                .report
                .iter()
                .filter_map(|report| {
                    let tag = report.mail.tags.get("booking_id")?;
                    Some(format!("{tag}/email/{}", report.email_id))
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn evolve(_key: &str, row: Option<TimelineRow>, event: &Event<'_>) -> Option<TimelineRow> {
        if row.is_some() {
            return row;
        }
        let recorded = event.recorded;
        let envelope = &recorded.envelope;
        match event.payload {
            Payload::Booking(booking) => {
                let (summary, reason) = booking.change.describe();
                Some(TimelineRow {
                    kind: envelope.kind.clone(),
                    id: envelope.id.clone(),
                    position: recorded.position,
                    at: envelope.time,
                    actor: envelope.actor.clone(),
                    summary,
                    reason,
                    status: Some(booking.status.name().to_owned()),
                    causation: envelope.causation.clone(),
                    correlation: envelope.correlation.clone(),
                })
            }
            // The later events of the email are in the inbox.
            Payload::Delivery(delivery) => {
                let report = delivery.report.as_ref()?;
                Some(TimelineRow {
                    kind: "email".to_owned(),
                    id: report.email_id.to_string(),
                    position: recorded.position,
                    at: delivery.happened_at.unwrap_or(envelope.time),
                    actor: envelope.actor.clone(),
                    summary: String::new(),
                    reason: None,
                    status: None,
                    causation: None,
                    correlation: envelope.correlation.clone(),
                })
            }
            _ => None,
        }
    }

    /// An email's row ends with its id, after a tag that may hold anything; a
    /// booking's event has a row of its own, which ends with its position.
    fn sources(key: &str, _row: Option<&TimelineRow>) -> Sources {
        let Some((before, last)) = key.rsplit_once('/') else { return Sources::subject(None) };
        if before.ends_with("/email") {
            return Sources::subject(last.parse().ok().map(Subject::Email));
        }
        last.parse().map_or(Sources::subject(None), Sources::Position)
    }
}
