//! A booking after an event: the fold.

use super::{
    event::{BookingChange, BookingEvent},
    payment::Payment,
    state::{Booking, Contract},
    status::Status,
};
use crate::{Recorded, command::remember};
use chrono::{DateTime, Utc};

/// The booking after an event of its.
pub fn evolve(
    booking: Option<Booking>,
    event: &BookingEvent,
    recorded: &Recorded,
) -> Option<Booking> {
    let at = recorded.envelope.time;
    let mut booking = changed(booking, event, at)?;
    booking.status = event.status;
    if event.status != Status::PendingPayment {
        booking.hold_expires_at = None;
    }
    booking.customer_id = event.customer_id;
    booking.updated_at = booking.updated_at.max(at);
    booking.position = recorded.position;
    remember(&mut booking.commands, event.request_hash.as_deref(), recorded);
    Some(booking)
}

/// The booking with every change of an event except its status.
pub(super) fn changed(
    booking: Option<Booking>,
    event: &BookingEvent,
    at: DateTime<Utc>,
) -> Option<Booking> {
    let mut booking = match &event.change {
        BookingChange::Held {
            customer,
            days,
            choices,
            quote,
            time_zone,
            hold_expires_at,
            link,
            ..
        } => Booking {
            id: event.booking_id,
            car_id: event.car_id,
            customer_id: event.customer_id,
            user_id: customer.user_id.clone(),
            days: *days,
            returned_on: None,
            status: Status::PendingPayment,
            payment: Payment::none(),
            contract: Contract::default(),
            choices: choices.clone(),
            quote: quote.clone(),
            time_zone: time_zone.clone(),
            hold_expires_at: *hold_expires_at,
            links: link.iter().cloned().collect(),
            created_at: at,
            updated_at: at,
            position: 0,
            commands: Vec::new(),
        },
        BookingChange::Imported { booking, .. } | BookingChange::MovedIn { booking, .. } => {
            Booking::clone(booking)
        }
        _ => booking?,
    };
    booking.payment.attribute(booking.customer_id);
    booking.apply(&event.change);
    Some(booking)
}
