//! `payments`: one row for each payment or refund, with its time. The dashboard counts revenue by
//! it.

pub mod read;

use crate::{PersonalData, Projection, Sources};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Event, Payload,
    booking::{BookingChange, BookingEvent},
    time::serde_micros,
};
use serde::{Deserialize, Serialize};

/// The view of payments.
pub struct Payments;

/// A payment or a refund.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PaymentRow {
    /// The booking.
    pub booking_id: String,
    /// The car.
    pub car_id: String,
    /// Time of the payment or refund.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// In cents; negative for a refund.
    pub amount_cents: i64,
    /// ISO 4217.
    pub currency: String,
}

impl Projection for Payments {
    const NAME: &'static str = "payments";
    const ABOUT: &'static str = "An amount taken or given back, by its position (20 digits)";
    const KEY_EXAMPLE: &'static str = "00000000000000000120";
    const VERSION: u32 = 1;
    const SUBJECTS: &'static [&'static str] = &["exo.booking."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Row = PaymentRow;

    fn personal(key: &str) -> PersonalData<'_> {
        PersonalData::OfOne("payment", key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        amount(event).map(|_| format!("{:020}", event.recorded.position)).into_iter().collect()
    }

    fn evolve(_key: &str, row: Option<PaymentRow>, event: &Event<'_>) -> Option<PaymentRow> {
        let Payload::Booking(booking) = event.payload else { return row };
        let (amount_cents, currency) = amount(event)?;
        Some(PaymentRow {
            booking_id: booking.booking_id.to_string(),
            car_id: booking.car_id.to_string(),
            at: paid_at(booking).unwrap_or(event.recorded.envelope.time),
            amount_cents,
            currency: currency.to_owned(),
        })
    }

    /// Each amount has its own row, whose key is the event's position.
    fn sources(key: &str, _row: Option<&PaymentRow>) -> Sources {
        key.parse().map_or(Sources::subject(None), Sources::Position)
    }
}

/// Time of the payment, if that was before the event.
fn paid_at(booking: &BookingEvent) -> Option<DateTime<Utc>> {
    match &booking.change {
        BookingChange::Imported { paid_at, .. } => *paid_at,
        _ => None,
    }
}

/// The amount of all payers together: a row is one payment or refund.
fn amount<'a>(event: &Event<'a>) -> Option<(i64, &'a str)> {
    let Payload::Booking(booking) = event.payload else { return None };
    let (shares, currency) = booking.paid()?;
    Some((shares.iter().map(|share| share.amount_cents).sum(), currency))
}
