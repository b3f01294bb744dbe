//! `booking_timeline`: one row for each event of a booking, and one for each email that was tagged
//! with it, in whatever order the two became known.

pub mod read;

use crate::{Projection, Sources};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Event, Payload, Subject,
    booking::{BookingChange, BookingEvent},
    time::serde_micros,
};
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
    const VERSION: u32 = 1;
    const SUBJECTS: &'static [&'static str] = &["exo.booking.", "exo.email."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Row = TimelineRow;

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
                let (summary, reason) = describe_event(booking);
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

fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

/// A text for people, and the reason that the event names.
fn describe_event(event: &BookingEvent) -> (String, Option<String>) {
    let mut because = None;
    let mut because_of = |reason: &Option<String>| because.clone_from(reason);
    let summary = match &event.change {
        BookingChange::Held { days, quote, hold_expires_at, .. } => {
            let until =
                hold_expires_at.map(|at| format!(", held until {} UTC", at.format("%d %b %H:%M")));
            let total = money(quote.total_cents);
            format!("Booked {days} for {total} {}{}", quote.currency, until.unwrap_or_default())
        }
        BookingChange::Expired {} => "Hold ended unpaid; the days are free".to_owned(),
        BookingChange::Cancelled { reason } => {
            because_of(reason);
            "Cancelled; the days are free".to_owned()
        }
        BookingChange::NotShown { reason } => {
            because_of(reason);
            "Nobody came for the car; the days are free".to_owned()
        }
        BookingChange::Rescheduled { days, quote, .. } => {
            format!("Rescheduled to {days} for {} {}", money(quote.total_cents), quote.currency)
        }
        BookingChange::Extended { days, quote } => {
            format!("Extended to {days} for {} {}", money(quote.total_cents), quote.currency)
        }
        BookingChange::MovedOut { to_car_id } => format!("Left this car for {to_car_id}"),
        BookingChange::MovedIn { from_car_id, booking, reason } => {
            because_of(reason);
            let quote = &booking.quote;
            let total = money(quote.total_cents);
            format!("Moved here from car {from_car_id} for {total} {}", quote.currency)
        }
        BookingChange::PaymentAuthorized { amount_cents, .. } => {
            format!("Payment of {} authorized", money(*amount_cents))
        }
        BookingChange::PaymentCaptured { amount_cents, currency, .. } => {
            format!("Payment of {} {currency} captured", money(*amount_cents))
        }
        BookingChange::PaymentFailed { reason } => {
            because_of(reason);
            "Payment failed".to_owned()
        }
        BookingChange::PaymentVoided { amount_cents, reason } => {
            because_of(reason);
            format!("Authorization of {} voided", money(*amount_cents))
        }
        BookingChange::PaymentRefunded { amount_cents, currency, reason } => {
            because_of(reason);
            format!("{} {currency} refunded", money(*amount_cents))
        }
        BookingChange::ContractSent { .. } => "Contract sent".to_owned(),
        BookingChange::ContractViewed {} => "Contract viewed".to_owned(),
        BookingChange::ContractSigned {} => "Contract signed".to_owned(),
        BookingChange::ContractDeclined { reason } => {
            because_of(reason);
            "Contract declined".to_owned()
        }
        BookingChange::PickedUp {} => "Car picked up".to_owned(),
        BookingChange::Returned { on } => format!("Car returned on {on}"),
        BookingChange::Completed {} => "Completed".to_owned(),
        BookingChange::Disputed { reason } => {
            because_of(reason);
            "Disputed".to_owned()
        }
        BookingChange::DisputeResolved { outcome, reason } => {
            because_of(reason);
            format!("Dispute resolved: {outcome}")
        }
        BookingChange::NoteAdded { text } => format!("Note: {}", text.0),
        BookingChange::CustomerChanged { .. } => "Customer details changed".to_owned(),
        BookingChange::LinkIssued { .. } => "Access link issued".to_owned(),
        BookingChange::Imported { booking, .. } => {
            let total = money(booking.quote.total_cents);
            format!("Imported: {} for {total} {}", booking.days, booking.quote.currency)
        }
        BookingChange::HistoryImported { name, summary } => format!("{name}: {}", summary.0),
    };
    (summary, because)
}
