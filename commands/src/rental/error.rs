//! Errors of rental commands.

use exodrive_domain::{
    DecodeError, NewerRelease, UnreadableEvent,
    booking::{Action, BookingRejection},
    fleet::FleetRejection,
};
use exodrive_log::{AppendError, CommandError, KeyError, ReadError};
use std::convert::Infallible;

/// An error of a rental command; it was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RentalError {
    /// The domain rejects the command in the state of the car.
    #[error("rejected: {0:?}")]
    Fleet(FleetRejection),
    /// The domain rejects the command in the state of the calendar.
    #[error("rejected: {0:?}")]
    Booking(BookingRejection),
    /// The slug belongs to another car.
    #[error("the slug is taken")]
    SlugTaken,
    /// The booking exists, but it belongs to another customer.
    #[error("the booking belongs to another customer")]
    NotTheirs,
    /// Only staff may do that.
    #[error("only staff may do {}", .0.name())]
    OnlyStaff(Action),
    /// The log could not be read.
    #[error("the event log could not be read")]
    Read(#[from] ReadError),
    /// The log did not take the event.
    #[error("the event log did not take the event")]
    Append(#[from] AppendError),
    /// No customer has the address of the command yet.
    #[error("no customer has this address yet")]
    NoCustomer,
    /// The key store that knows the customers failed.
    #[error(transparent)]
    Customers(#[from] KeyError),
    /// Too many commands decide about the same car at once.
    #[error("too many commands decide about the same car at once")]
    Busy,
    /// An event of a newer release, which this release cannot read.
    #[error(transparent)]
    NewerRelease(#[from] NewerRelease),
    /// A malformed event.
    #[error("an event cannot be read")]
    Decode(#[from] DecodeError),
    /// The view that has the car of a booking failed.
    #[error("the view of bookings failed")]
    View(#[from] exodrive_projections::Error),
    /// The view does not have the booking and is behind the log, so it is
    /// unknown whether the booking exists.
    #[error("the view of bookings is at {reached}, the log at {end}")]
    ViewBehind {
        /// Position that the view has reached.
        reached: u64,
        /// Position of the end of the log.
        end: u64,
    },
    /// An event cannot be written as JSON.
    #[error("an event cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}

impl From<UnreadableEvent> for RentalError {
    fn from(error: UnreadableEvent) -> Self {
        match error {
            UnreadableEvent::NewerRelease(error) => Self::NewerRelease(error),
            UnreadableEvent::Decode(error) => Self::Decode(error),
        }
    }
}

/// Reason why a decision gave no event.
pub(super) enum Rejected {
    Booking(BookingRejection),
    Fleet(FleetRejection),
    NotTheirs,
    OnlyStaff(Action),
    NoCustomer,
    Encode(serde_json::Error),
}

impl From<Rejected> for RentalError {
    fn from(refused: Rejected) -> Self {
        match refused {
            Rejected::Booking(refusal) => Self::Booking(refusal),
            Rejected::Fleet(refusal) => Self::Fleet(refusal),
            Rejected::NotTheirs => Self::NotTheirs,
            Rejected::OnlyStaff(action) => Self::OnlyStaff(action),
            Rejected::NoCustomer => Self::NoCustomer,
            Rejected::Encode(error) => Self::Encode(error),
        }
    }
}

impl From<BookingRejection> for Rejected {
    fn from(refusal: BookingRejection) -> Self {
        Self::Booking(refusal)
    }
}

impl From<serde_json::Error> for Rejected {
    fn from(error: serde_json::Error) -> Self {
        Self::Encode(error)
    }
}

pub(super) fn failure<R: Into<RentalError>>(error: CommandError<R>) -> RentalError {
    match error {
        CommandError::Rejected(refused) => refused.into(),
        CommandError::Read(error) => RentalError::Read(error),
        CommandError::Append(error) => RentalError::Append(error),
        CommandError::NewerRelease(error) => RentalError::NewerRelease(error),
        CommandError::Decode(error) => RentalError::Decode(error),
        CommandError::Contended => RentalError::Busy,
    }
}

pub(super) fn load_failure(error: CommandError<Infallible>) -> RentalError {
    failure(error.map(|never| -> Rejected { match never {} }))
}
