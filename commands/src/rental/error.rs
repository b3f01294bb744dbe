use exodrive_domain::{
    DecodeError, NewerRelease, UnreadableEvent,
    booking::{Action, BookingRejection},
    fleet::FleetRejection,
};
use exodrive_log::{AppendError, CommandError, ReadError};
use std::convert::Infallible;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RentalError {
    /// Refused for the state of the car.
    #[error("refused: {0:?}")]
    Fleet(FleetRejection),
    /// Refused for the state of the calendar.
    #[error("refused: {0:?}")]
    Booking(BookingRejection),
    /// The slug belongs to another car.
    #[error("the slug is taken")]
    SlugTaken,
    /// There is such a booking, and it is somebody else's.
    #[error("the booking is somebody else's")]
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
    /// Too many decided about the same thing at once.
    #[error("too many decide about the same thing at once")]
    Busy,
    /// An event of a newer release, which this release cannot read.
    #[error(transparent)]
    NewerRelease(#[from] NewerRelease),
    /// A malformed event.
    #[error("an event cannot be read")]
    Decode(#[from] DecodeError),
    /// The view that says which car a booking is of.
    #[error("the view of bookings failed")]
    View(#[from] exodrive_projections::Error),
    /// The view does not know the booking, and has not reached the log's end:
    /// it cannot be told whether there is such a booking.
    #[error("the view of bookings is at {reached}, the log at {end}")]
    ViewBehind {
        /// How far the view is.
        reached: u64,
        /// How far the log is.
        end: u64,
    },
    /// An event that cannot be written down.
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

/// Why a decision came to no event.
pub(super) enum Rejected {
    Booking(BookingRejection),
    Fleet(FleetRejection),
    NotTheirs,
    OnlyStaff(Action),
    Encode(serde_json::Error),
}

impl From<Rejected> for RentalError {
    fn from(refused: Rejected) -> Self {
        match refused {
            Rejected::Booking(refusal) => Self::Booking(refusal),
            Rejected::Fleet(refusal) => Self::Fleet(refusal),
            Rejected::NotTheirs => Self::NotTheirs,
            Rejected::OnlyStaff(action) => Self::OnlyStaff(action),
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
