//! From the past to the present: what a thing was after each of its events,
//! folded afresh from the log.
//!
//! **May import** the domain, the log and the projections. Needs only the log
//! to run: no database, no Redis.
//!
//! **Flow.** [`email`] reads one subject's history, cuts it off at a point
//! ([`Until`]), orders it ([`Order`]), and folds it with the same
//! [`Projection::evolve`] that the live view is made with, keeping the state
//! after every event.

use chrono::{DateTime, Utc};
use exodrive_domain::{Event, Payload, Recorded, Subject, decode, email::EmailId, time};
use exodrive_log::{Log, ReadError};
use exodrive_projections::{
    Projection,
    inbox::{Inbox, InboxRow},
};
use std::str::FromStr;

/// How far a replay goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Until {
    /// To the log's end.
    #[default]
    Now,
    /// Up to and with this position.
    Position(u64),
    /// Up to and with this time: of what had happened by then, or, in the
    /// order of arrival, of what we knew by then.
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

/// In which order events are folded. The last state is the same: status folds
/// ignore order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// As they happened, by the provider's time.
    Happened,
    /// As we learnt of them: log order.
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
    /// The provider's type, or ours.
    pub kind: String,
    /// When it happened, as far as it says so.
    pub happened_at: Option<DateTime<Utc>>,
    /// The state after it; `None` if there is none yet.
    pub state: Option<R>,
    /// Why it could not be folded, if so; the state is then as before.
    pub error: Option<String>,
}

/// The history of one email.
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
    Ok(frames::<Inbox>(history, until, order))
}

/// Folds a history of one key, keeping the state after every event.
fn frames<P: Projection>(history: Vec<Recorded>, until: Until, order: Order) -> Vec<Frame<P::Row>> {
    let mut dated: Vec<_> = history
        .into_iter()
        .map(|recorded| {
            let payload = decode(&recorded);
            let (kind, happened_at) = describe(&recorded, payload.as_ref().ok());
            let happened = happened_at.unwrap_or(recorded.envelope.time);
            (happened, Frame { recorded, kind, happened_at, state: None, error: None }, payload)
        })
        .filter(|(happened, Frame { recorded, .. }, _)| match (until, order) {
            (Until::Now, _) => true,
            (Until::Position(last), _) => recorded.position <= last,
            (Until::Time(last), Order::Happened) => *happened <= last,
            (Until::Time(last), Order::Received) => recorded.envelope.time <= last,
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
                state = P::evolve(state.take(), &event);
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
            (delivery.provider_type.clone().unwrap_or_default(), delivery.happened_at)
        }
        _ => (recorded.envelope.kind.clone(), None),
    }
}
