//! The history of one row of any view.

use crate::{
    Change, Progress,
    diff::{diff, overlap},
    reading,
};
use chrono::{DateTime, Utc};
use exodrive_domain::{Event, Payload, Recorded, decode, time};
use exodrive_log::{Log, ReadError};
use exodrive_projections::{Projection, Sources, for_each_projection, reads};
use serde::Serialize;
use serde_json::Value;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
};

/// The end of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Until {
    /// To the log's end.
    #[default]
    Now,
    /// Up to and including this position.
    Position(u64),
    /// Up to and including this time: events that had happened by then or, in the order of arrival,
    /// events that had reached us by then.
    Time(DateTime<Utc>),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        time::parse(text).map(Self::Time).ok_or_else(|| {
            format!("{text:?} is neither a position nor an RFC 3339 time like 2026-11-20T09:15:00Z")
        })
    }
}

impl Until {
    /// True if an event, in the order of arrival, is before the end.
    pub fn includes(self, recorded: &Recorded) -> bool {
        self.covers(recorded.position, recorded.envelope.time)
    }

    /// True if an event at this position that reached us at this time is before the end.
    pub fn covers(self, position: u64, received_at: DateTime<Utc>) -> bool {
        match self {
            Self::Now => true,
            Self::Position(last) => position <= last,
            Self::Time(last) => received_at <= last,
        }
    }
}

/// The order in which events are folded. The last state is the same, because status folds ignore
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// By the provider's time of the event.
    Happened,
    /// By position in the log: the order in which the events reached us.
    #[default]
    Received,
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "happened" => Ok(Self::Happened),
            "received" => Ok(Self::Received),
            _ => Err(format!("{text:?} is neither 'happened' nor 'received'")),
        }
    }
}

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
    let events = events::<P>(log, key, until, progress).await?;
    Ok(frames::<P>(key, events, until, Order::Received))
}

/// True if the history of a key is found only by reading every event that the view is made of;
/// `None` if there is no such view.
pub fn reads_all(view: &str, key: &str) -> Option<bool> {
    for_each_projection!(P => if P::NAME == view {
        return Some(P::sources(key, None) == Sources::All);
    });
    None
}

/// The events that touch a key, in log order. All of them are held in memory, and no others.
async fn events<P: Projection>(
    log: &Log,
    key: &str,
    until: Until,
    progress: Progress<'_>,
) -> Result<Vec<Recorded>, ReadError> {
    let mut events = Vec::new();
    match P::sources(key, None) {
        Sources::Subjects(subjects) => {
            for subject in subjects {
                let history = log.history(&subject).await?;
                events.extend(history.into_iter().filter(|event| touches::<P>(event, key, true)));
            }
            events.sort_by_key(|event| event.position);
        }
        Sources::Position(position) => {
            let event = log.read_event(position).await?;
            events.extend(event.filter(|event| touches::<P>(event, key, false)));
        }
        Sources::All => {
            let end = log.last_position().await?;
            let end = if let Until::Position(last) = until { last.min(end) } else { end };
            let take = |event: Recorded| {
                if touches::<P>(&event, key, false) {
                    events.push(event);
                }
            };
            reading::read_filtered(log, &reading::filters::<P>(), 0, end, progress, take).await?;
        }
    }
    Ok(events)
}

/// True if an event touches a row; `otherwise` for an event that cannot be read, whose keys are
/// therefore unknown.
fn touches<P: Projection>(recorded: &Recorded, key: &str, otherwise: bool) -> bool {
    let touched = || match decode(recorded) {
        Ok(payload) => P::keys(&Event { recorded, payload: &payload }).iter().any(|own| own == key),
        Err(_) => otherwise,
    };
    reads::<P>(&recorded.subject) && catch_unwind(AssertUnwindSafe(touched)).unwrap_or(otherwise)
}

/// A row of a view at a point, and the events that led to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowHistory {
    /// The position that had last changed it; 0 if it had never existed.
    pub position: u64,
    /// The row; `None` if it did not exist (any more).
    pub state: Option<Value>,
    /// Every event that touches the key, in log order.
    pub events: Vec<HistoryEvent>,
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
    /// The fields of the row that it changed, as JSON pointers; an empty pointer means the whole
    /// row.
    pub changed: Vec<String>,
    /// The error, if it could not be folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A row of a view at two points, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The row at the first point.
    pub before: RowHistory,
    /// The row at the second point.
    pub after: RowHistory,
    /// The fields that differ.
    pub fields: Vec<FieldChange>,
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

/// The row of a view under a key at a point, for a view of any name; `None` if there is no such
/// view, or no event about the key up to then.
///
/// # Errors
/// When the log cannot be read.
pub async fn row_history(
    log: &Log,
    view: &str,
    key: &str,
    until: Until,
    progress: Progress<'_>,
) -> Result<Option<RowHistory>, ReadError> {
    for_each_projection!(P => if P::NAME == view {
        let frames = history::<P>(log, key, until, progress).await?;
        return Ok((!frames.is_empty()).then(|| as_row_history(frames)));
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
        let events = events::<P>(log, key, until, progress).await?;
        let at = |until| as_row_history(frames::<P>(key, events.clone(), until, Order::Received));
        let (before, after) = (at(from), at(to));
        let known = !before.events.is_empty() || !after.events.is_empty();
        return Ok(known.then(|| compared(before, after)));
    });
    Ok(None)
}

fn compared(before: RowHistory, after: RowHistory) -> Compared {
    // The events of the later point that the earlier point lacks.
    let (all, fewer) = match before.events.len() <= after.events.len() {
        true => (&after.events, &before.events),
        false => (&before.events, &after.events),
    };
    let lacks = |event: &&HistoryEvent| !fewer.iter().any(|other| other.position == event.position);
    let between: Vec<_> = all.iter().filter(lacks).collect();
    let fields = diff(before.state.as_ref(), after.state.as_ref())
        .into_iter()
        .map(|change| {
            let made = |event: &&&HistoryEvent| {
                event.changed.iter().any(|pointer| overlap(pointer, &change.pointer))
            };
            let event = between.iter().rev().find(made);
            let (position, kind) = event.map(|it| (it.position, it.kind.clone())).unzip();
            FieldChange { change, position, kind }
        })
        .collect();
    Compared { before, after, fields }
}

fn as_row_history<R: Serialize>(frames: Vec<Frame<R>>) -> RowHistory {
    let (mut state, mut position) = (None, 0);
    let mut events = Vec::with_capacity(frames.len());
    for frame in frames {
        // A row that cannot be written as JSON could not have been stored.
        let after = frame.state.and_then(|row| serde_json::to_value(row).ok());
        let changes = diff(state.as_ref(), after.as_ref());
        if !changes.is_empty() {
            position = frame.recorded.position;
        }
        state = after;
        events.push(HistoryEvent {
            position: frame.recorded.position,
            kind: frame.kind,
            event_id: frame.recorded.envelope.id,
            at: frame.recorded.envelope.time,
            actor: frame.recorded.envelope.actor,
            changed: changes.into_iter().map(|change| change.pointer).collect(),
            error: frame.error,
        });
    }
    RowHistory { position, state, events }
}

/// Folds a history of one key, and retains the state after every event.
pub(crate) fn frames<P: Projection>(
    key: &str,
    history: Vec<Recorded>,
    until: Until,
    order: Order,
) -> Vec<Frame<P::Row>> {
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
    let mut state = None;
    let mut frames = Vec::with_capacity(dated.len());
    for (_, mut frame, payload) in dated {
        match &payload {
            Ok(payload) => {
                let event = Event { recorded: &frame.recorded, payload };
                let before = state.clone();
                match catch_unwind(AssertUnwindSafe(|| P::evolve(key, before, &event))) {
                    Ok(after) => state = after,
                    Err(_) => frame.error = Some("the fold panicked".to_owned()),
                }
            }
            Err(error) => frame.error = Some(error.to_string()),
        }
        frame.state.clone_from(&state);
        frames.push(frame);
    }
    frames
}

fn describe(recorded: &Recorded, payload: Option<&Payload>) -> (String, Option<DateTime<Utc>>) {
    match payload {
        Some(Payload::Delivery(delivery)) => {
            // A body that names no type is of the empty one.
            (delivery.provider_type.clone().unwrap_or_default(), delivery.happened_at)
        }
        _ => (recorded.envelope.kind.clone(), None),
    }
}
