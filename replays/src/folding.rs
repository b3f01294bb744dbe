//! Folds the events of one key in a thread of its own, while they are read.

use crate::{
    Progress,
    points::Until,
    reading::{Reading, filters},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{DecodeError, Event, Payload, Recorded, decode};
use exodrive_log::{Log, ReadError};
use exodrive_projections::{Projection, Sources, reads};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::mpsc;

/// An event that touches a row, and what it says, if it can be read.
pub(crate) struct Touch {
    pub(crate) recorded: Recorded,
    pub(crate) payload: Result<Payload, DecodeError>,
}

/// True if an event touches the row of a key; the last is what counts if that cannot be known.
type Touches = fn(&Touch, &str, bool) -> bool;

/// The events that touch a row, in log order, as they come from the log.
pub(crate) struct Touching {
    batches: mpsc::Receiver<Vec<Recorded>>,
    batch: std::vec::IntoIter<Recorded>,
    touches: Touches,
    key: String,
    /// What counts of an event that cannot be read, whose keys are therefore unknown.
    otherwise: bool,
}

impl Iterator for Touching {
    type Item = Touch;

    fn next(&mut self) -> Option<Touch> {
        loop {
            for recorded in self.batch.by_ref() {
                let touch = Touch { payload: decode(&recorded), recorded };
                if (self.touches)(&touch, &self.key, self.otherwise) {
                    return Some(touch);
                }
            }
            self.batch = self.batches.blocking_recv()?.into_iter();
        }
    }
}

fn touches<P: Projection>(touch: &Touch, key: &str, otherwise: bool) -> bool {
    let Touch { recorded, payload } = touch;
    let touched = || match payload {
        Ok(payload) => P::keys(&Event { recorded, payload }).iter().any(|own| own == key),
        Err(_) => otherwise,
    };
    reads::<P>(&recorded.subject) && catch_unwind(AssertUnwindSafe(touched)).unwrap_or(otherwise)
}

/// Folds the events that touch a key in a thread of its own, while they are read. A few batches of
/// them are in memory at a time.
pub(crate) async fn folded<P: Projection, T: Send + 'static>(
    log: &Log,
    key: &str,
    until: Until,
    progress: Progress<'_>,
    fold: impl FnOnce(Touching) -> T + Send + 'static,
) -> Result<T, ReadError> {
    folded_of::<P, T>(log, key, until, (progress, touches::<P>), fold).await
}

/// The same, of every event in which those of the key are found.
pub(crate) async fn folded_whole<P: Projection, T: Send + 'static>(
    log: &Log,
    key: &str,
    until: Until,
    fold: impl FnOnce(Touching) -> T + Send + 'static,
) -> Result<T, ReadError> {
    folded_of::<P, T>(log, key, until, (&|_, _| {}, |_, _, _| true), fold).await
}

async fn folded_of<P: Projection, T: Send + 'static>(
    log: &Log,
    key: &str,
    until: Until,
    (progress, touches): (Progress<'_>, Touches),
    fold: impl FnOnce(Touching) -> T + Send + 'static,
) -> Result<T, ReadError> {
    let sources = P::sources(key, None);
    let (sender, batches) = mpsc::channel(1);
    let touching = Touching {
        batches,
        batch: Vec::new().into_iter(),
        touches,
        key: key.to_owned(),
        otherwise: matches!(sources, Sources::Subjects(_)),
    };
    let folded = tokio::task::spawn_blocking(move || fold(touching));
    send::<P>(log, sources, until, progress, sender).await?;
    folded.await.map_err(|error| ReadError::Unavailable(Box::new(error)))
}

/// Sends the events of these sources; ends early if nobody receives them.
async fn send<P: Projection>(
    log: &Log,
    sources: Sources,
    until: Until,
    progress: Progress<'_>,
    to: mpsc::Sender<Vec<Recorded>>,
) -> Result<(), ReadError> {
    let filters = match sources {
        Sources::Position(position) => {
            let event = log.read_event(position).await?;
            let _ = to.send(event.into_iter().collect()).await;
            return Ok(());
        }
        Sources::Subjects(subjects) if subjects.is_empty() => return Ok(()),
        Sources::Subjects(subjects) if subjects.len() == 1 => {
            let mut reader = log.reader_of_subject(&subjects[0]).await?;
            while let Some(batch) = reader.next().await? {
                if to.send(batch).await.is_err() {
                    break;
                }
            }
            return Ok(());
        }
        Sources::Subjects(subjects) => subjects.iter().map(ToString::to_string).collect(),
        Sources::All => filters::<P>(),
    };
    let end = log.last_position().await?;
    let end = if let Until::Position(last) = until { last.min(end) } else { end };
    let mut reading = Reading::begin(log, &filters, 0, end).await?;
    while let Some(batch) = reading.next().await? {
        if to.send(batch).await.is_err() {
            break;
        }
        progress(reading.position.min(end), end);
    }
    Ok(())
}

/// The row after an event, and the error if the event could not be folded; the row is then as
/// before.
pub(crate) fn evolve<P: Projection>(
    key: &str,
    row: Option<&P::Row>,
    recorded: &Recorded,
    payload: &Result<Payload, DecodeError>,
) -> (Option<P::Row>, Option<String>) {
    let payload = match payload {
        Ok(payload) => payload,
        Err(error) => return (row.cloned(), Some(error.to_string())),
    };
    let event = Event { recorded, payload };
    let evolved = catch_unwind(AssertUnwindSafe(|| P::evolve(key, row.cloned(), &event)));
    match evolved {
        Ok(after) => (after, None),
        Err(_) => (row.cloned(), Some("the fold panicked".to_owned())),
    }
}

/// The provider's type, or ours, and the time that the event happened, if it has one.
pub(crate) fn describe(
    recorded: &Recorded,
    payload: Option<&Payload>,
) -> (String, Option<DateTime<Utc>>) {
    match payload {
        Some(Payload::Delivery(delivery)) => {
            // A body that names no type is of the empty one.
            (delivery.provider_type.clone().unwrap_or_default(), delivery.happened_at)
        }
        _ => (recorded.envelope.kind.clone(), None),
    }
}
