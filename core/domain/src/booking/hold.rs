//! The hold of a booking, event by event: what whoever ends holds needs to know,
//! and nothing else.

use super::{
    event::{BookingChange, BookingEvent},
    evolve::changed,
    status::Status,
};
use crate::id::CarId;
use chrono::{DateTime, Utc};

/// The effect of an event on the hold of its booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldUpdate {
    /// Days of this car are held without payment until `ends_at`.
    Opened {
        /// The car.
        car_id: CarId,
        /// The time at which the hold ends.
        ends_at: DateTime<Utc>,
    },
    /// The booking has no hold: it is paid, ended, or has left this car.
    Over,
    /// The hold is as it was before.
    Unchanged,
}

impl HoldUpdate {
    /// The effect of an event. Of a booking that moves, the event on the other
    /// car opens the hold again.
    pub fn of(event: &BookingEvent) -> Self {
        let leaves = matches!(event.change, BookingChange::MovedOut { .. });
        if leaves || event.status != Status::PendingPayment {
            return Self::Over;
        }
        // Only an event that has the whole booking needs none before it, and
        // only such an event sets the hold.
        match changed(None, event, DateTime::UNIX_EPOCH) {
            Some(booking) => booking
                .hold_expires_at
                .map_or(Self::Over, |ends_at| Self::Opened { car_id: event.car_id, ends_at }),
            None => Self::Unchanged,
        }
    }
}
