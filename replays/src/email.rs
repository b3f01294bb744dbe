//! A part of the history of one email. All of its events are read and folded, and only what is
//! wanted of them is kept.
//!
//! In the order in which the events happened, the log is read twice: once for the times of all
//! events, which say which of them are wanted; and once for those. An email's state is the same in
//! whatever order its reports are folded
//! ([`Email`](exodrive_domain::email::Email)), so what happened before the first of them is folded
//! as it is read.

use crate::{
    folding::{Touch, describe, evolve, folded_whole},
    history::Frame,
    points::{Order, Until},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{Recorded, email::EmailId};
use exodrive_log::{Log, ReadError};
use exodrive_projections::views::inbox::{Inbox, InboxRow, read::EmailDetail};
use std::collections::{HashMap, HashSet};

/// What is wanted of a history.
pub trait Selection: Send + 'static {
    /// Sees every event once, in log order.
    fn sees(&mut self, event: &Recorded);
    /// True if an event is wanted. Asked about every one in the order of the history: the first is
    /// at place 0.
    fn takes(&mut self, place: usize, event: Candidate) -> bool;
}

/// An event that may be wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its position in the log.
    pub position: u64,
    /// Number of bytes of its body.
    pub bytes: usize,
}

impl Candidate {
    fn of(event: &Recorded) -> Self {
        Self { position: event.position, bytes: event.body.len() }
    }
}

/// What is wanted of the history of one email as it was known at a point: of every event that had
/// been received by then, in either order. Each wanted event comes with what readers saw of the
/// email after it. (Its position there is 0: an event that changes nothing leaves it equal.)
///
/// In memory are a few batches of events, what is wanted and, in the order in which they happened,
/// a few bytes of every event and the events between the first and the last that are wanted. (Events
/// that contradict each other under one id are in memory, too.)
///
/// # Errors
/// When the log cannot be read.
pub async fn select_of_email<S: Selection>(
    log: &Log,
    id: &EmailId,
    (until, order): (Until, Order),
    selection: S,
) -> Result<(S, Vec<Frame<EmailDetail>>), ReadError> {
    let key = id.to_string();
    let known = move |touch: &Touch| until.includes(&touch.recorded);
    if order == Order::Received {
        let of = key.clone();
        let fold = move |touching| as_received(&of, Iterator::filter(touching, known), selection);
        return folded_whole::<Inbox, _>(log, &key, until, fold).await;
    }
    let survey = move |touching| Survey::of(Iterator::filter(touching, known), selection);
    let (survey, selection) = folded_whole::<Inbox, _>(log, &key, until, survey).await?;
    if survey.taken.is_empty() {
        return Ok((selection, Vec::new()));
    }
    let of = key.clone();
    let fold = move |touching| survey.fold(&of, Iterator::filter(touching, known));
    let frames = folded_whole::<Inbox, _>(log, &key, until, fold).await?;
    Ok((selection, frames))
}

/// The row after an event, and what is shown of the event.
fn step(key: &str, row: &mut Option<InboxRow>, touch: Touch) -> Frame<EmailDetail> {
    let Touch { recorded, payload } = touch;
    let (after, error) = evolve::<Inbox>(key, row.as_ref(), &recorded, &payload);
    *row = after;
    let (kind, happened_at) = describe(&recorded, payload.as_ref().ok());
    let state = row.as_ref().map(|row| EmailDetail::of(row, 0));
    Frame { recorded, kind, happened_at, state, error }
}

fn skip(key: &str, row: &mut Option<InboxRow>, touch: &Touch) {
    *row = evolve::<Inbox>(key, row.as_ref(), &touch.recorded, &touch.payload).0;
}

fn as_received<S: Selection>(
    key: &str,
    touching: impl Iterator<Item = Touch>,
    mut selection: S,
) -> (S, Vec<Frame<EmailDetail>>) {
    let (mut row, mut frames) = (None, Vec::new());
    for (place, touch) in touching.enumerate() {
        selection.sees(&touch.recorded);
        if selection.takes(place, Candidate::of(&touch.recorded)) {
            frames.push(step(key, &mut row, touch));
        } else {
            skip(key, &mut row, &touch);
        }
    }
    (selection, frames)
}

/// When an event happened, and its position among those that happened then.
type Moment = (DateTime<Utc>, u64);

fn moment(touch: &Touch) -> Moment {
    let happened_at = describe(&touch.recorded, touch.payload.as_ref().ok()).1;
    (happened_at.unwrap_or(touch.recorded.envelope.time), touch.recorded.position)
}

/// What was found out about the events of an email.
struct Survey {
    /// The positions of those that are wanted.
    taken: HashSet<u64>,
    first: Moment,
    last: Moment,
    /// The last position that was looked at: there may be more events by now.
    end: u64,
    /// Ids of events that say different things and came in another order than they happened. Of
    /// one id the first report counts.
    contradictory: HashSet<String>,
}

impl Survey {
    fn of<S: Selection>(touching: impl Iterator<Item = Touch>, mut selection: S) -> (Self, S) {
        let (mut moments, mut end) = (Vec::new(), 0);
        let (mut newest, mut contradictory) = (HashMap::<String, Moment>::new(), HashSet::new());
        for touch in touching {
            selection.sees(&touch.recorded);
            let (at, id) = (moment(&touch), touch.recorded.envelope.id);
            end = touch.recorded.position;
            moments.push((at, touch.recorded.body.len()));
            let newest = newest.entry(id.clone()).or_insert(at);
            if at < *newest {
                contradictory.insert(id);
            }
            *newest = at.max(*newest);
        }
        moments.sort_unstable();
        let never = (DateTime::<Utc>::MAX_UTC, u64::MAX);
        let mut survey =
            Self { taken: HashSet::new(), first: never, last: never, end, contradictory };
        for (place, (moment, bytes)) in moments.into_iter().enumerate() {
            if selection.takes(place, Candidate { position: moment.1, bytes }) {
                survey.first = survey.first.min(moment);
                survey.last = moment;
                survey.taken.insert(moment.1);
            }
        }
        (survey, selection)
    }

    fn fold(self, key: &str, touching: impl Iterator<Item = Touch>) -> Vec<Frame<EmailDetail>> {
        let (mut row, mut kept) = (None, Vec::new());
        for touch in touching.filter(|touch| touch.recorded.position <= self.end) {
            let at = moment(&touch);
            if at < self.first && !self.contradictory.contains(&touch.recorded.envelope.id) {
                skip(key, &mut row, &touch);
            } else if at <= self.last {
                kept.push((at, touch));
            }
        }
        kept.sort_unstable_by_key(|(at, _)| *at);
        let steps = kept.into_iter().map(|(_, touch)| step(key, &mut row, touch));
        steps.filter(|frame| self.taken.contains(&frame.recorded.position)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::frames;
    use bytes::Bytes;
    use exodrive_domain::{Envelope, WEBHOOK_RECEIVED, decode, time};
    use proptest::{collection::vec, prelude::*};
    use serde_json::json;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    const KEY: &str = "em-1";

    /// A page of so many events behind the first ones.
    #[derive(Clone, Default)]
    struct Page {
        begin: usize,
        room: usize,
        seen: Vec<u64>,
    }

    impl Selection for Page {
        fn sees(&mut self, event: &Recorded) {
            self.seen.push(event.position);
        }

        fn takes(&mut self, place: usize, event: Candidate) -> bool {
            assert!(event.bytes > 0);
            (self.begin..self.begin + self.room).contains(&place)
        }
    }

    /// An event of a kind, at a second, with an id that others may have.
    fn event(position: u64, (kind, second, id): (usize, Option<u32>, u8)) -> Recorded {
        let kinds = ["sent", "delivered", "opened", "clicked", "bounced", "of tomorrow"];
        let at = second.map(|second| format!("2026-11-20T09:15:{second:02}Z"));
        let body = json!({
            "type": format!("email.{}", kinds[kind % kinds.len()]),
            "created_at": at,
            "data": {"email_id": KEY, "to": [format!("{id}@example.com")], "subject": "x".repeat(id.into())},
        });
        let now = time::parse("2026-11-20T09:15:30Z").unwrap();
        let envelope = Envelope::decision(WEBHOOK_RECEIVED, format!("msg_{id}"), now);
        // One that no release can read.
        let version = if kind == kinds.len() { u32::MAX } else { envelope.version };
        Recorded {
            position,
            subject: format!("exo.email.{KEY}"),
            stored_at: now,
            envelope: Envelope { version, ..envelope },
            provider_headers: Vec::new(),
            body: body.to_string().into(),
            protection: None,
        }
    }

    fn touching(events: &[Recorded]) -> impl Iterator<Item = Touch> {
        events.iter().cloned().map(|recorded| Touch { payload: decode(&recorded), recorded })
    }

    proptest! {
        #[test]
        fn pages_are_what_the_whole_history_says_in_either_order(
            kinds in vec((0_usize..7, proptest::option::of(0_u32..60), 0_u8..12), 0..30),
            begin in 0_usize..32,
            room in 0_usize..12,
        ) {
            let events: Vec<_> = (1..).zip(kinds).map(|(n, it)| event(3 * n, it)).collect();
            let positions: Vec<_> = events.iter().map(|event| event.position).collect();
            let wanted = Page { begin, room, seen: Vec::new() };
            for order in [Order::Received, Order::Happened] {
                let detail = |row: &InboxRow| EmailDetail::of(row, 0);
                let whole = frames::<Inbox, _>(KEY, events.clone(), Until::Now, order, detail);
                let whole: Vec<_> = whole.into_iter().skip(begin).take(room).collect();
                let (selection, page) = if order == Order::Received {
                    as_received(KEY, touching(&events), wanted.clone())
                } else {
                    let (survey, selection) = Survey::of(touching(&events), wanted.clone());
                    // Another one has come since.
                    let late = event(1_000, (0, Some(0), 0));
                    let now: Vec<_> = events.iter().cloned().chain([late]).collect();
                    (selection, survey.fold(KEY, touching(&now)))
                };
                prop_assert_eq!(&selection.seen, &positions);
                prop_assert_eq!(page, whole);
            }
        }
    }

    /// The body of an event, which says how many of them are in memory.
    struct Counted {
        bytes: Bytes,
        alive: Arc<AtomicUsize>,
    }

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn of_a_long_history_only_what_is_wanted_is_in_memory() {
        const EVENTS: u64 = 500;
        const ROOM: usize = 5;
        let (alive, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // The later one comes, the earlier it happened.
        let read = || {
            let (alive, most) = (alive.clone(), most.clone());
            (1..=EVENTS).map(move |n| {
                let second = u32::try_from(59 - n * 59 / EVENTS).unwrap();
                let mut recorded = event(n, (2, Some(second), 1));
                recorded.envelope.id = format!("msg_{n}");
                most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let counted = Counted { bytes: recorded.body, alive: alive.clone() };
                recorded.body = Bytes::from_owner(counted);
                Touch { payload: decode(&recorded), recorded }
            })
        };
        let wanted = || Page { begin: 250, room: ROOM, seen: Vec::new() };
        let (_, page) = as_received(KEY, read(), wanted());
        assert_eq!((page.len(), alive.load(Ordering::SeqCst)), (ROOM, ROOM));
        drop(page);
        let (survey, _) = Survey::of(read(), wanted());
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        assert_eq!(survey.fold(KEY, read()).len(), ROOM);
        assert!(most.load(Ordering::SeqCst) <= ROOM + 1, "{most:?}");
    }
}
