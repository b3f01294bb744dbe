//! The history of one row of any view, a page of its events at a time. The events are folded as
//! they are read: of the states between, none is kept.

use crate::{
    Progress,
    diff::{Change, diff, for_each_change},
    folding::{Touch, Touching, describe, evolve, folded},
    points::Until,
};
use chrono::{DateTime, Utc};
use exodrive_domain::time;
use exodrive_log::{Log, ReadError};
use exodrive_projections::{Projection, Sources, for_each_projection};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, ops::Bound};

/// Most fields that an event is said to have changed.
pub const MOST_CHANGED: usize = 20;
/// Most fields that a comparison shows.
pub const MOST_FIELDS: usize = 1_000;

/// A page of the events of a row.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Only events after this position.
    pub after: u64,
    /// Most of them.
    pub limit: usize,
}

impl Window {
    /// All events on one page.
    pub const ALL: Self = Self { after: 0, limit: usize::MAX };
}

/// A row of a view at a point, and the events that led to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowHistory {
    /// The position that had last changed it; 0 if it had never existed.
    pub position: u64,
    /// The row; `None` if it did not exist (any more).
    pub state: Option<Value>,
    /// Number of all events up to the point that touch the key.
    pub events_count: u64,
    /// Those on the page, in log order.
    pub events: Vec<HistoryEvent>,
    /// True if there are more after the page.
    pub has_more: bool,
}

/// An event in a row's history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryEvent {
    /// Its position in the log.
    pub position: u64,
    /// The provider's type, or ours.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id.
    pub event_id: String,
    /// Time that it reached us.
    #[serde(with = "time::serde_micros")]
    pub at: DateTime<Utc>,
    /// The actor.
    pub actor: Option<String>,
    /// The first fields of the row that it changed, at most [`MOST_CHANGED`], as JSON pointers; an
    /// empty pointer means the whole row.
    pub changed: Vec<String>,
    /// Number of all fields that it changed.
    pub changed_count: u64,
    /// The error, if it could not be folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A row at a point.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowState {
    /// The position that had last changed it; 0 if it had never existed.
    pub position: u64,
    /// The row; `None` if it did not exist (any more).
    pub state: Option<Value>,
}

/// A row of a view at two points, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The row at the first point.
    pub before: RowState,
    /// The row at the second point.
    pub after: RowState,
    /// The first fields that differ, at most [`MOST_FIELDS`].
    pub fields: Vec<FieldChange>,
    /// Number of all fields that differ.
    pub fields_count: u64,
}

/// A field that differs, and the event that changed it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    /// The field, with its values before and after.
    #[serde(flatten)]
    pub change: Change,
    /// The event that last changed it between the two points.
    pub position: Option<u64>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// True if the history of a key is found only by reading every event that the view is made of;
/// `None` if there is no such view.
pub fn reads_all(view: &str, key: &str) -> Option<bool> {
    for_each_projection!(P => if P::NAME == view {
        return Some(P::sources(key, None) == Sources::All);
    });
    None
}

/// Number of events that the history of a key is found in, if it is found without reading every
/// event that the view is made of; 0 if there is no such view.
///
/// # Errors
/// When the log does not answer.
pub async fn events_of(log: &Log, view: &str, key: &str) -> Result<u64, ReadError> {
    for_each_projection!(P => if P::NAME == view {
        let mut events = 0;
        if let Sources::Subjects(subjects) = P::sources(key, None) {
            for subject in subjects {
                events += log.count_of(&subject).await?;
            }
        }
        return Ok(events);
    });
    Ok(0)
}

/// The row of a view under a key at a point, for a view of any name; `None` if there is no such
/// view, or no event about the key up to then.
///
/// # Errors
/// When the log cannot be read.
pub async fn row_history(
    log: &Log,
    view: &str,
    key: &str,
    (until, window): (Until, Window),
    progress: Progress<'_>,
) -> Result<Option<RowHistory>, ReadError> {
    for_each_projection!(P => if P::NAME == view {
        let of = key.to_owned();
        let fold = move |touching| fold_page::<P>(&of, until, window, touching);
        return folded::<P, _>(log, key, until, progress, fold).await;
    });
    Ok(None)
}

/// The row of a view under a key at two points; `None` if there is no such
/// view, or no event about the key up to either.
///
/// # Errors
/// When the log cannot be read.
pub async fn compare(
    log: &Log,
    view: &str,
    key: &str,
    (from, to): (Until, Until),
    progress: Progress<'_>,
) -> Result<Option<Compared>, ReadError> {
    for_each_projection!(P => if P::NAME == view {
        let until = match (from, to) {
            (Until::Position(from), Until::Position(to)) => Until::Position(from.max(to)),
            _ => Until::Now,
        };
        let of = key.to_owned();
        let fold = move |touching| fold_points::<P>(&of, (from, to), touching);
        return folded::<P, _>(log, key, until, progress, fold).await;
    });
    Ok(None)
}

/// A row that cannot be written as JSON could not have been stored.
fn as_json<R: Serialize>(row: Option<&R>) -> Option<Value> {
    row.and_then(|row| serde_json::to_value(row).ok())
}

fn fold_page<P: Projection>(
    key: &str,
    until: Until,
    window: Window,
    touching: Touching,
) -> Option<RowHistory> {
    let mut row: Option<P::Row> = None;
    let mut history = RowHistory {
        position: 0,
        state: None,
        events_count: 0,
        events: Vec::new(),
        has_more: false,
    };
    for Touch { recorded, payload } in touching {
        if !until.includes(&recorded) {
            continue;
        }
        history.events_count += 1;
        let (after, error) = evolve::<P>(key, row.as_ref(), &recorded, &payload);
        if after != row {
            history.position = recorded.position;
        }
        if recorded.position > window.after {
            if history.events.len() < window.limit {
                let (mut changed, mut changed_count) = (Vec::new(), 0);
                let (old, new) = (as_json(row.as_ref()), as_json(after.as_ref()));
                for_each_change(old.as_ref(), new.as_ref(), &mut |pointer, _, _| {
                    changed_count += 1;
                    if changed.len() < MOST_CHANGED {
                        changed.push(pointer);
                    }
                });
                history.events.push(HistoryEvent {
                    position: recorded.position,
                    kind: describe(&recorded, payload.as_ref().ok()).0,
                    event_id: recorded.envelope.id,
                    at: recorded.envelope.time,
                    actor: recorded.envelope.actor,
                    changed,
                    changed_count,
                    error,
                });
            } else {
                history.has_more = true;
            }
        }
        row = after;
    }
    history.state = as_json(row.as_ref());
    (history.events_count > 0).then_some(history)
}

/// A row that is folded up to a point.
struct Point<P: Projection> {
    until: Until,
    row: Option<P::Row>,
    position: u64,
    known: bool,
}

impl<P: Projection> Point<P> {
    fn until(until: Until) -> Self {
        Self { until, row: None, position: 0, known: false }
    }

    /// Folds an event, if it is before the point; gives the row before it then.
    fn fold(&mut self, key: &str, touch: &Touch) -> Option<Option<P::Row>> {
        let Touch { recorded, payload } = touch;
        if !self.until.includes(recorded) {
            return None;
        }
        self.known = true;
        let (after, _) = evolve::<P>(key, self.row.as_ref(), recorded, payload);
        if after != self.row {
            self.position = recorded.position;
        }
        Some(std::mem::replace(&mut self.row, after))
    }

    fn state(&self) -> RowState {
        RowState { position: self.position, state: as_json(self.row.as_ref()) }
    }
}

/// Of each field, the event that last changed it.
type LastChanges = BTreeMap<String, (u64, String)>;

fn fold_points<P: Projection>(
    key: &str,
    (from, to): (Until, Until),
    touching: Touching,
) -> Option<Compared> {
    let (mut before, mut after) = (Point::<P>::until(from), Point::<P>::until(to));
    let mut changes = LastChanges::new();
    for touch in touching {
        // An event that only one point has is between them.
        let (old, new) = match (before.fold(key, &touch), after.fold(key, &touch)) {
            (Some(old), None) => (old, &before.row),
            (None, Some(old)) => (old, &after.row),
            _ => continue,
        };
        if old == *new {
            continue;
        }
        let kind = describe(&touch.recorded, touch.payload.as_ref().ok()).0;
        let (old, new) = (as_json(old.as_ref()), as_json(new.as_ref()));
        for_each_change(old.as_ref(), new.as_ref(), &mut |pointer, _, _| {
            changes.insert(pointer, (touch.recorded.position, kind.clone()));
        });
    }
    let known = before.known || after.known;
    known.then(|| compared(before.state(), after.state(), &changes))
}

fn compared(before: RowState, after: RowState, changes: &LastChanges) -> Compared {
    let all = diff(before.state.as_ref(), after.state.as_ref());
    let fields_count = all.len() as u64;
    let field = |change: Change| {
        let (position, kind) = last_change(changes, &change.pointer).cloned().unzip();
        FieldChange { change, position, kind }
    };
    let fields = all.into_iter().take(MOST_FIELDS).map(field).collect();
    Compared { before, after, fields, fields_count }
}

/// The last event that changed a field, a part of it, or what it is a part of.
fn last_change<'a>(changes: &'a LastChanges, pointer: &str) -> Option<&'a (u64, String)> {
    let steps = pointer.match_indices('/').map(|(end, _)| &pointer[..end]);
    let wholes = steps.chain([pointer]).filter_map(|whole| changes.get(whole));
    let below = format!("{pointer}/");
    let parts = changes.range::<str, _>((Bound::Excluded(below.as_str()), Bound::Unbounded));
    let parts = parts.take_while(|(part, _)| part.starts_with(&below)).map(|(_, event)| event);
    wholes.chain(parts).max_by_key(|(position, _)| *position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_field_is_that_of_it_of_its_parts_and_of_its_whole() {
        let change = |pointer: &str, position| (pointer.to_owned(), (position, String::new()));
        let changes = LastChanges::from([
            change("", 1),
            change("/a", 3),
            change("/a/b", 2),
            change("/ab", 9),
            change("/c/d/0", 7),
            change("/c/d/1", 5),
        ]);
        let last = |pointer: &str| last_change(&changes, pointer).map(|(position, _)| *position);
        for (pointer, position) in
            [("/a/b", 3), ("/a", 3), ("/c", 7), ("/c/d/1", 5), ("/x", 1), ("", 9)]
        {
            assert_eq!(last(pointer), Some(position), "{pointer}");
        }
        assert_eq!(last_change(&LastChanges::new(), "/a"), None);
    }
}
