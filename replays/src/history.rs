//! The history of one row of any view, with the state after every event.

use crate::{
    Progress,
    folding::{Touching, describe, evolve, folded},
    points::{Order, Until},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{Recorded, decode};
use exodrive_log::{Log, ReadError};
use exodrive_projections::Projection;

/// One event, and the state after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame<R> {
    /// The event as the log holds it.
    pub recorded: Recorded,
    /// The provider's type, or ours; empty if a delivery's body names none.
    pub kind: String,
    /// Time that it happened, if the event has one.
    pub happened_at: Option<DateTime<Utc>>,
    /// The state after it; `None` if there is none yet.
    pub state: Option<R>,
    /// The error, if it could not be folded; the state is then as before.
    pub error: Option<String>,
}

/// The history of one row of a view: every event that touches the key, up to
/// `until`, each with the state after it.
///
/// # Errors
/// When the log cannot be read.
pub async fn history<P: Projection>(
    log: &Log,
    key: &str,
    until: Until,
    progress: Progress<'_>,
) -> Result<Vec<Frame<P::Row>>, ReadError> {
    let of = key.to_owned();
    let fold = move |touching: Touching| {
        let events = touching.map(|touch| touch.recorded).collect();
        frames::<P, _>(&of, events, until, Order::Received, P::Row::clone)
    };
    folded::<P, _>(log, key, until, progress, fold).await
}

/// Folds a history of one key, and retains what `shown` makes of the state after every event.
pub(crate) fn frames<P: Projection, S>(
    key: &str,
    history: Vec<Recorded>,
    until: Until,
    order: Order,
    shown: impl Fn(&P::Row) -> S,
) -> Vec<Frame<S>> {
    let mut dated: Vec<_> = history
        .into_iter()
        .map(|recorded| {
            let payload = decode(&recorded);
            let (kind, happened_at) = describe(&recorded, payload.as_ref().ok());
            let happened = happened_at.unwrap_or(recorded.envelope.time);
            (happened, Frame { recorded, kind, happened_at, state: None, error: None }, payload)
        })
        .filter(|(happened, Frame { recorded, .. }, _)| match (until, order) {
            (Until::Time(last), Order::Happened) => *happened <= last,
            _ => until.includes(recorded),
        })
        .collect();
    if order == Order::Happened {
        dated.sort_by_key(|(happened, frame, _)| (*happened, frame.recorded.position));
    }
    let mut row = None;
    let mut frames = Vec::with_capacity(dated.len());
    for (_, mut frame, payload) in dated {
        (row, frame.error) = evolve::<P>(key, row.as_ref(), &frame.recorded, &payload);
        frame.state = row.as_ref().map(&shown);
        frames.push(frame);
    }
    frames
}
