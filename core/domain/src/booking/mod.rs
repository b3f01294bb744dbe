//! Bookings: one state machine, and the calendar of a car, on which no day is
//! given twice.

mod action;
mod calendar;
mod decide;
mod event;
mod evolve;
mod hold;
mod payment;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use action::{Action, StatusRejection, allowed, table};
pub use calendar::{Block, Calendar, Taken, TakenDay};
pub use decide::{
    BookingAction, BookingCommand, BookingRejection, Import, NewBooking, decide, decide_block,
    decide_move, decide_move_to_own_car, decide_unblock,
};
pub use event::{
    BOOKING_SUBJECTS, BlockChange, BlockEvent, BookingChange, BookingEvent, Customer,
    CustomerDetails,
};
pub use evolve::evolve;
pub use hold::HoldUpdate;
pub use payment::{Payer, Payment, Share};
pub use state::{AccessLink, Booking, Contract};
pub use status::{ContractStatus, PaymentStatus, Status, StatusError};
