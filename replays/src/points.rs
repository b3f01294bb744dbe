//! Where a replay ends, and in what order it folds.

use chrono::{DateTime, Utc};
use exodrive_domain::{Recorded, time};
use std::str::FromStr;

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
