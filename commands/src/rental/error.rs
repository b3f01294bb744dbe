use exodrive_domain::{
    booking::{Action, BookingRefusal},
    fleet::FleetRefusal,
};
use exodrive_log::{AppendError, CommandError, ReadError};
use std::convert::Infallible;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// Refused for the state of the car.
    #[error("refused: {0:?}")]
    Fleet(FleetRefusal),
    /// Refused for the state of the calendar.
    #[error("refused: {0:?}")]
    Booking(BookingRefusal),
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
    /// An event that this release cannot read.
    #[error("an event cannot be read")]
    Decode(#[from] exodrive_domain::DecodeError),
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

/// Why a decision came to no event.
pub(super) enum Refused {
    Booking(BookingRefusal),
    Fleet(FleetRefusal),
    NotTheirs,
    OnlyStaff(Action),
    Encode(serde_json::Error),
}

impl From<Refused> for DeskError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Booking(refusal) => Self::Booking(refusal),
            Refused::Fleet(refusal) => Self::Fleet(refusal),
            Refused::NotTheirs => Self::NotTheirs,
            Refused::OnlyStaff(action) => Self::OnlyStaff(action),
            Refused::Encode(error) => Self::Encode(error),
        }
    }
}

impl From<BookingRefusal> for Refused {
    fn from(refusal: BookingRefusal) -> Self {
        Self::Booking(refusal)
    }
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Self {
        Self::Encode(error)
    }
}

pub(super) fn failure<R: Into<DeskError>>(error: CommandError<R>) -> DeskError {
    match error {
        CommandError::Refused(refused) => refused.into(),
        CommandError::Read(error) => DeskError::Read(error),
        CommandError::Append(error) => DeskError::Append(error),
        CommandError::Decode(error) => DeskError::Decode(error),
        CommandError::Contended => DeskError::Busy,
    }
}

pub(super) fn load_failure(error: CommandError<Infallible>) -> DeskError {
    failure(error.map(|never| -> Refused { match never {} }))
}
