//! Reads the stored messages of a selection, in log order.

use crate::seal::{Messages, SealError};
use chrono::{DateTime, Utc};
use exodrive_log::{Log, StoredMessage};

/// Messages read at a time.
const BATCH: u64 = 512;
const TYPE: &str = "ce-type";
const ACTOR: &str = "ce-actor";

/// A selection of events: those for which all of this is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Their subject, which may hold NATS wildcards, such as `exo.booking.>`.
    pub subject: Option<String>,
    /// Their type, such as `exodrive.booking.confirmed`.
    pub kind: Option<String>,
    /// Their actor.
    pub actor: Option<String>,
    /// Stored at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Stored before this time.
    pub until: Option<DateTime<Utc>>,
    /// At this position or after it.
    pub from: Option<u64>,
    /// At this position or before it.
    pub to: Option<u64>,
}

impl Selection {
    /// True if it selects every event of its range.
    pub fn is_all(&self) -> bool {
        self.subject.is_none() && self.kind.is_none() && self.actor.is_none()
    }

    /// The filters of the selection, as names with values.
    pub fn filters(&self) -> Vec<(&'static str, String)> {
        let time = |time: &Option<DateTime<Utc>>| time.map(|it| exodrive_domain::time::format(&it));
        let given = [
            ("subject", self.subject.clone()),
            ("type", self.kind.clone()),
            ("actor", self.actor.clone()),
            ("since", time(&self.since)),
            ("until", time(&self.until)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn takes(&self, message: &StoredMessage) -> bool {
        let has = |requested: &Option<String>, name| {
            requested.as_ref().is_none_or(|requested| header(message, name) == Some(requested))
        };
        has(&self.kind, TYPE) && has(&self.actor, ACTOR)
    }
}

/// The first value of a header.
pub fn header<'a>(message: &'a StoredMessage, name: &str) -> Option<&'a str> {
    message.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
}

/// Checks that a text can be the subject of events: `exo` and more, tokens with dots between, `*`
/// for any one token, `>` for all that follow.
///
/// # Errors
/// Returns the defect.
pub fn check_subject(subject: &str) -> Result<(), &'static str> {
    let tokens: Vec<_> = subject.split('.').collect();
    let valid = |(place, token): (usize, &&str)| {
        let wild = *token == "*" || (*token == ">" && place + 1 == tokens.len());
        let plain = !token.is_empty()
            && token.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '*' | '>'));
        wild || plain
    };
    match tokens.split_first() {
        Some((&"exo", rest)) if !rest.is_empty() && tokens.iter().enumerate().all(valid) => Ok(()),
        _ => Err("it must be a subject of events, such as exo.booking.> or exo.email.*"),
    }
}

/// Reads the events of a selection.
pub struct Scan {
    selection: Selection,
    messages: Messages,
    /// The first and the last requested position.
    range: (u64, u64),
    /// The last position at which a message can be expected.
    last: u64,
    scanned: u64,
}

impl Scan {
    /// A reading that ends at the position `end` at the latest.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn begin(log: &Log, selection: Selection, end: u64) -> Result<Self, SealError> {
        let mut from = selection.from.unwrap_or(1).max(1);
        let mut to = selection.to.unwrap_or(end).min(end);
        if let Some(since) = selection.since {
            from = from.max(first_at(log, since, end).await?);
        }
        if let Some(until) = selection.until {
            to = to.min(first_at(log, until, end).await? - 1);
        }
        let filters: Vec<_> = selection.subject.iter().cloned().collect();
        let last = match &selection.subject {
            Some(subject) => log.last_position_under(subject).await?.unwrap_or(0).min(to),
            None => to,
        };
        let messages = Messages::few(log, &filters, from);
        Ok(Self { selection, messages, range: (from, to), last, scanned: from - 1 })
    }

    /// The first and the last requested position; the last is lower than the first if the range is
    /// empty.
    pub fn range(&self) -> (u64, u64) {
        self.range
    }

    /// Every position up to here has been read.
    pub fn scanned(&self) -> u64 {
        self.scanned
    }

    /// The next events, which may be an empty list; `None` at the end.
    ///
    /// # Errors
    /// When the log cannot be read, or has a hole.
    pub async fn next(&mut self) -> Result<Option<Vec<StoredMessage>>, SealError> {
        if self.scanned >= self.last {
            self.scanned = self.scanned.max(self.range.1);
            return Ok(None);
        }
        let room = if self.selection.subject.is_some() { BATCH } else { self.last - self.scanned };
        let mut messages = self.messages.next(room.min(BATCH)).await?.messages;
        self.scanned = messages.last().map_or(self.last, |message| message.position).min(self.last);
        messages.retain(|it| it.position <= self.range.1 && self.selection.takes(it));
        Ok(Some(messages))
    }
}

/// The first position, up to `end`, of an event that was stored at a time or
/// later; the one after `end` if there is none.
async fn first_at(log: &Log, time: DateTime<Utc>, end: u64) -> Result<u64, SealError> {
    let (mut low, mut high) = (1, end + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let stored = log.read_stored(middle).await?.map(|message| message.stored_at());
        // A missing message gets the time of the next one: reading finds it.
        if stored.is_some_and(|at| at < time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::check_subject;

    #[test]
    fn subjects_are_those_of_events() {
        for valid in ["exo.>", "exo.email.*", "exo.booking.0190", "exo.*.x.>"] {
            assert_eq!(check_subject(valid), Ok(()), "{valid}");
        }
        for wrong in ["exo", "exo.", ">", "exo-keys.>", "exo.>.x", "exo.a b", "exo.a*", ""] {
            assert!(check_subject(wrong).is_err(), "{wrong}");
        }
    }
}
