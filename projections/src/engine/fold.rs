//! Folds a batch in memory: five events of one email become one write.
//!
//! All of it is a projection's own code, and runs in a [`Sandbox`](crate::engine::sandbox): a panic
//! or an endless loop parks an event and harms nothing else.

use crate::engine::{
    PartitionId,
    feed::Events,
    projection::{Projection, reads},
    sandbox::{HungFold, Mark},
};
use exodrive_domain::Event;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// A row as stored, and the position that last changed it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored<R> {
    pub(crate) row: R,
    pub(crate) position: u64,
}

/// An event that cannot be folded, or waits behind one that cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    /// A row's key; or a subject, if the event could not be read and its rows are therefore
    /// unknown.
    pub(crate) key: String,
    pub(crate) position: u64,
    /// Empty for an event that only waits.
    pub(crate) error: String,
}

/// The error of an event whose fold does not end.
pub(crate) const HUNG: &str =
    "the fold did not end within its limit of processor time; see the worker's log";
/// The error of an event whose fold panics.
const PANICKED: &str = "the fold panicked; see the worker's log";
/// The error of an event after which Postgres refuses the row. It quotes no data.
pub(crate) const REFUSED: &str = "Postgres rejected the row's value";
/// The error of an event with a key that Postgres cannot store.
const NUL_IN_KEY: &str = "the key of a row contains NUL, which Postgres does not store";

/// Rows by key, `None` for a row that is gone.
pub(crate) type Rows<R> = BTreeMap<String, Option<Stored<R>>>;

/// Keys and events to leave out: blocked, skipped, known to hang, or refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exclusions {
    /// Keys and subjects that have parked events.
    pub(crate) blocked: HashSet<String>,
    /// Events that operators skip, with the rows that each is left out of (or, by a subject, out of
    /// all).
    pub(crate) skipped: HashMap<u64, Vec<String>>,
    /// Folds that must not be tried again: they hung in the middle of a batch.
    pub(crate) hung_folds: HashSet<HungFold>,
    /// By key, the event after which Postgres refuses the row: see [`refused`](super::refused).
    pub(crate) refused: HashMap<String, u64>,
}

impl Exclusions {
    /// Leaves out a fold that hangs. False if that does not help: it is at no event, or was left
    /// out before.
    pub(crate) fn leave_out(&mut self, hung: HungFold) -> bool {
        hung.position > 0 && self.hung_folds.insert(hung)
    }

    /// Why a fold must not be tried, if it must not.
    fn known(&self, hung: HungFold, key: &str) -> Option<&'static str> {
        if self.hung_folds.contains(&hung) {
            return Some(HUNG);
        }
        (self.refused.get(key) == Some(&hung.position)).then_some(REFUSED)
    }

    fn skips(&self, position: u64, key: &str) -> bool {
        self.skipped.get(&position).is_some_and(|keys| keys.iter().any(|own| own == key))
    }
}

/// An event of a batch that concerns a partition.
#[derive(Debug)]
pub(crate) struct RoutedEvent {
    /// The event's index in the batch.
    at: usize,
    /// The rows that it touches, or the reason that they are unknown.
    keys: Result<Vec<String>, String>,
}

/// [`route`] of one projection.
pub(crate) type RouteFn =
    fn(&Events, PartitionId, &Exclusions, Option<&str>, &Mark) -> Vec<RoutedEvent>;

/// The events of a batch that concern a partition. All of an event's keys if `only` is its subject,
/// else only that key.
pub(crate) fn route<P: Projection>(
    events: &Events,
    part: PartitionId,
    exclusions: &Exclusions,
    only: Option<&str>,
    mark: &Mark,
) -> Vec<RoutedEvent> {
    let mut found = Vec::new();
    for (at, decoded) in events.all().iter().enumerate() {
        let recorded = &decoded.recorded;
        if !reads::<P>(&recorded.subject) {
            continue;
        }
        mark.at(recorded.position);
        let hung = HungFold { position: recorded.position, row: None };
        let keys = match &decoded.payload {
            _ if exclusions.hung_folds.contains(&hung) => Err(HUNG.to_owned()),
            Err(error) => Err(error.to_string()),
            Ok(payload) => keys_of::<P>(&Event { recorded, payload }).map_err(str::to_owned),
        };
        let keys = keys.map(|mut keys| {
            let requested =
                |key: &str| only.is_none_or(|only| only == key || only == recorded.subject);
            keys.retain(|key| part.holds(key) && requested(key));
            keys
        });
        if keys.as_ref().map_or(true, |keys| !keys.is_empty()) {
            found.push(RoutedEvent { at, keys });
        }
    }
    found
}

/// The keys of the rows that an event touches.
///
/// # Errors
/// The reason that the event is parked for its subject: its keys are unknown, or cannot be stored.
pub fn keys_of<P: Projection>(event: &Event<'_>) -> Result<Vec<String>, &'static str> {
    let keys = catch_unwind(AssertUnwindSafe(|| P::keys(event))).map_err(|_| PANICKED)?;
    if keys.iter().any(|key| key.contains('\0')) {
        return Err(NUL_IN_KEY);
    }
    Ok(keys)
}

/// The keys of the rows that a batch touches, each once, in order.
pub(crate) fn keys(events: &[RoutedEvent]) -> Vec<String> {
    let keys = events.iter().filter_map(|event| event.keys.as_ref().ok()).flatten();
    let mut keys: Vec<_> = keys.cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Leaves out the events up to a position.
pub(crate) fn retain_after(events: &Events, routed: &mut Vec<RoutedEvent>, position: u64) {
    routed.retain(|RoutedEvent { at, .. }| {
        events.all().get(*at).is_some_and(|event| event.recorded.position > position)
    });
}

/// The position before the event of this number, if there is one.
pub(crate) fn position_before(
    events: &Events,
    routed: &[RoutedEvent],
    number: usize,
) -> Option<u64> {
    let RoutedEvent { at, .. } = routed.get(number)?;
    events.all().get(*at).map(|event| event.recorded.position - 1)
}

/// Keeps only requested keys, and events that have one or could not be read.
pub(crate) fn retain(events: &mut Vec<RoutedEvent>, requested: impl Fn(&str) -> bool) {
    events.retain_mut(|event| match &mut event.keys {
        Ok(keys) => {
            keys.retain(|key| requested(key));
            !keys.is_empty()
        }
        Err(_) => true,
    });
}

/// Leaves out parked events and the events behind them of the same key or subject: `parked` has the
/// first of each.
pub(crate) fn leave_out(
    events: &Events,
    routed: &mut Vec<RoutedEvent>,
    parked: &HashMap<String, u64>,
) {
    if parked.is_empty() {
        return;
    }
    routed.retain_mut(|RoutedEvent { at, keys }| {
        let Some(event) = events.all().get(*at) else { return false };
        let waits =
            |key: &str| parked.get(key).is_some_and(|first| *first <= event.recorded.position);
        if let Ok(keys) = keys {
            keys.retain(|key| !waits(key));
        }
        !waits(&event.recorded.subject) && keys.as_ref().map_or(true, |keys| !keys.is_empty())
    });
}

/// Every touched key, with the position of the event that touches it, in log order.
pub(crate) fn touches(events: &Events, routed: &[RoutedEvent]) -> Vec<(String, u64)> {
    let mut touches = Vec::new();
    for RoutedEvent { at, keys } in routed {
        let Some(event) = events.all().get(*at) else { continue };
        let position = event.recorded.position;
        touches.extend(keys.iter().flatten().map(|key| (key.clone(), position)));
    }
    touches
}

/// Rows that a fold reads and writes.
pub(crate) trait Table<R> {
    fn get(&self, key: &str) -> Option<&R>;
    /// Puts a row after the event at a position; it grew by at most this many bytes.
    fn put(&mut self, key: &str, position: u64, row: Option<Stored<R>>, bytes: usize);
}

/// Rows that were loaded, and the changes that a batch makes to them.
pub(crate) struct Loaded<R> {
    pub(crate) rows: HashMap<String, Stored<R>>,
    pub(crate) changed: Rows<R>,
}

impl<R> Table<R> for Loaded<R> {
    fn get(&self, key: &str) -> Option<&R> {
        match self.changed.get(key) {
            Some(stored) => stored.as_ref(),
            None => self.rows.get(key),
        }
        .map(|stored| &stored.row)
    }

    fn put(&mut self, key: &str, _position: u64, row: Option<Stored<R>>, _bytes: usize) {
        self.changed.insert(key.to_owned(), row);
    }
}

/// By how much each number of [`Projection::COUNTED`] changes.
pub(crate) type Counts = BTreeMap<String, i64>;

/// By how much the numbers change when these rows become those of a batch.
pub(crate) fn counts<P: Projection>(
    before: &HashMap<String, Stored<P::Row>>,
    changed: &Rows<P::Row>,
) -> Counts {
    let mut counts = Counts::new();
    let mut add = |row: Option<&Stored<P::Row>>, by: i64| {
        if let Some(value) = row.and_then(|stored| P::counted(&stored.row)) {
            *counts.entry(value.to_owned()).or_default() += by;
        }
    };
    for (key, row) in changed {
        add(before.get(key), -1);
        add(row.as_ref(), 1);
    }
    counts.retain(|_, by| *by != 0);
    counts
}

/// The number of a row in a [`HungFold`]: the same whatever other rows are folded.
fn row_number(key: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 1).unwrap_or(0)
}

/// Folds a batch over the rows it touches; returns the events that had to be parked, and adds them
/// to `exclusions.blocked`.
pub(crate) fn fold<P: Projection>(
    events: &Events,
    routed: &[RoutedEvent],
    table: &mut impl Table<P::Row>,
    exclusions: &mut Exclusions,
    mark: &Mark,
) -> Vec<Parked> {
    fold_while::<P>(events, routed, table, exclusions, mark, || true).0
}

/// The same for as many events as there is time for, at least one. `has_time` is asked before each
/// other event. Also returns how many were folded.
pub(crate) fn fold_while<P: Projection>(
    events: &Events,
    routed: &[RoutedEvent],
    table: &mut impl Table<P::Row>,
    exclusions: &mut Exclusions,
    mark: &Mark,
    has_time: impl Fn() -> bool,
) -> (Vec<Parked>, usize) {
    let mut parked = Vec::new();
    for (folded, RoutedEvent { at, keys }) in routed.iter().enumerate() {
        if folded > 0 && !has_time() {
            return (parked, folded);
        }
        let Some(decoded) = events.all().get(*at) else { continue };
        let recorded = &decoded.recorded;
        let position = recorded.position;
        let mut park = |exclusions: &mut Exclusions, key: &str, error: &str| {
            exclusions.blocked.insert(key.to_owned());
            parked.push(Parked { key: key.to_owned(), position, error: error.to_owned() });
        };
        if exclusions.skips(position, &recorded.subject) {
            continue;
        }
        let (keys, payload) = match (keys, &decoded.payload) {
            _ if exclusions.blocked.contains(&recorded.subject) => {
                park(exclusions, &recorded.subject, "");
                continue;
            }
            (Err(error), _) => {
                park(exclusions, &recorded.subject, error);
                continue;
            }
            (Ok(_), Err(error)) => {
                park(exclusions, &recorded.subject, &error.to_string());
                continue;
            }
            (Ok(keys), Ok(payload)) => (keys, payload),
        };
        let event = Event { recorded, payload };
        for key in keys {
            let number = row_number(key);
            let hung = HungFold { position, row: Some(number) };
            if exclusions.skips(position, key) {
                continue;
            }
            if exclusions.blocked.contains(key) {
                park(exclusions, key, "");
                continue;
            }
            if let Some(error) = exclusions.known(hung, key) {
                park(exclusions, key, error);
                continue;
            }
            mark.set_row(position, number);
            let row = table.get(key);
            match catch_unwind(AssertUnwindSafe(|| P::evolve(key, row.cloned(), &event))) {
                Ok(after) if after.as_ref() == row => {}
                Ok(after) => {
                    let row = after.map(|row| Stored { row, position });
                    table.put(key, position, row, recorded.body.len());
                }
                Err(_) => park(exclusions, key, PANICKED),
            }
        }
    }
    (parked, routed.len())
}
