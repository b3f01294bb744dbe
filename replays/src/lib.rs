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
//! retaining the state after every event. [`row_history`] and [`compare`] fold for a view by its
//! name while they read, and retain a page of the events, or what differs; so does
//! [`select_of_email`] for the evidence about an email, in either order. [`verify`] folds many rows again and compares them with the rows in Postgres and Redis.
//! [`person`] finds the events that are about a person, so that they can be erased.

mod diff;
mod email;
mod folding;
mod history;
pub mod person;
mod points;
mod reading;
mod received;
mod row;
pub mod verify;

pub use diff::{Change, diff};
pub use email::{Candidate, Selection, select_of_email};
pub use history::{Frame, history};
pub use points::{Order, Until};
pub use reading::Progress;
pub use received::{deliveries, first_stored_at};
pub use row::{
    Compared, FieldChange, HistoryEvent, MOST_CHANGED, MOST_FIELDS, RowHistory, RowState, Window,
    compare, events_of, reads_all, row_history,
};

use exodrive_domain::{Subject, email::EmailId};
use exodrive_log::{Log, ReadError};
use exodrive_projections::views::inbox::{Inbox, InboxRow, read::EmailDetail};

/// The whole history of one email, in either order, with what readers see of it after every event,
/// for the command line: all of it is in memory. (Its position there is 0: an event that changes
/// nothing leaves it equal.)
///
/// # Errors
/// When the log cannot be read.
pub async fn email(
    log: &Log,
    id: &EmailId,
    until: Until,
    order: Order,
) -> Result<Vec<Frame<EmailDetail>>, ReadError> {
    let history = log.history(&Subject::Email(id.clone())).await?;
    let id = id.clone();
    let fold = move || {
        let shown = |row: &InboxRow| EmailDetail::of(row, 0);
        history::frames::<Inbox, _>(id.as_str(), history, until, order, shown)
    };
    let frames = tokio::task::spawn_blocking(fold).await;
    frames.map_err(|error| ReadError::Unavailable(Box::new(error)))
}
