//! Replays: the state of a row after each of its events, folded again from the log, and the proof
//! that the live views equal what the log gives.
//!
//! **May import** the domain, the log and the projections. A history needs
//! only the log: no database, no Redis.
//!
//! **Flow.** [`history`] finds the events that touch one row of a view (by
//! [`Projection::sources`](exodrive_projections::Projection::sources): a subject, or all the log
//! that the view is made of), ends them at a point ([`Until`]), and folds them with the same
//! [`Projection::evolve`](exodrive_projections::Projection::evolve) that makes the live view,
//! retaining the state after every event. [`row_history`] and [`compare`] do so for a view by its
//! name. [`verify`] folds many rows again and compares them with the rows in Postgres and Redis.
//! [`person`] finds the events that are about a person, so that they can be erased.

mod diff;
mod history;
pub mod person;
mod reading;
mod received;
pub mod verify;

pub use diff::{Change, diff};
pub use history::{
    Compared, FieldChange, Frame, HistoryEvent, Order, RowHistory, Until, compare, history,
    reads_all, row_history,
};
pub use reading::Progress;
pub use received::{deliveries, first_stored_at};

use exodrive_domain::{Subject, email::EmailId};
use exodrive_log::{Log, ReadError};
use exodrive_projections::views::inbox::{Inbox, InboxRow};

/// The history of one email, in either order.
///
/// # Errors
/// When the log cannot be read.
pub async fn email(
    log: &Log,
    id: &EmailId,
    until: Until,
    order: Order,
) -> Result<Vec<Frame<InboxRow>>, ReadError> {
    let history = log.history(&Subject::Email(id.clone())).await?;
    Ok(history::frames::<Inbox>(id.as_str(), history, until, order))
}

/// The history of one email as it was known at a point: every event that had been received by then,
/// in either order.
///
/// # Errors
/// When the log cannot be read.
pub async fn email_as_known(
    log: &Log,
    id: &EmailId,
    until: Until,
    order: Order,
) -> Result<Vec<Frame<InboxRow>>, ReadError> {
    let mut history = log.history(&Subject::Email(id.clone())).await?;
    history.retain(|event| until.includes(event));
    Ok(history::frames::<Inbox>(id.as_str(), history, Until::Now, order))
}
