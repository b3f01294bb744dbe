//! Folds rows again from the log, as many as memory may hold.

use crate::{
    Progress,
    reading::{filters, read_filtered},
};
use exodrive_domain::{Event, Recorded, Subject, decode};
use exodrive_log::{Log, ReadError};
use exodrive_projections::{
    Projection, Sources,
    engine::{inspect::ActiveGeneration, keys_of},
    reads,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The rows that are folded.
pub(super) enum Plan {
    /// All rows in the range of hashes.
    Range,
    /// The rows of these keys, by the place of their events.
    Keys(BTreeMap<Sources, HashSet<String>>),
}

/// A row folded again.
pub(super) struct Fresh<R> {
    pub(super) row: R,
    /// The position that last changed it.
    pub(super) position: u64,
    bytes: usize,
}

/// The event at which the fold of a row or of a subject stopped, and its error.
pub(super) struct Unfolded {
    pub(super) position: u64,
    pub(super) error: String,
}

/// Rows that are being folded from the beginning of the log.
pub(super) struct Refold<P: Projection> {
    /// The hashes of keys from here ...
    pub(super) first: u64,
    /// ... to here are folded. Lowered when the rows grow too large.
    pub(super) last: u64,
    pub(super) rows: HashMap<String, Fresh<P::Row>>,
    /// By key or subject.
    pub(super) unfolded: HashMap<String, Unfolded>,
    bytes: usize,
    limit: usize,
}

impl<P: Projection> Refold<P> {
    /// Begins with no rows, for the keys with a hash from `first` on. Its rows have at most `limit`
    /// bytes as JSON, or there is only one.
    pub(super) fn new(first: u64, limit: usize) -> Self {
        let (rows, unfolded) = (HashMap::new(), HashMap::new());
        Self { first, last: u64::MAX, rows, unfolded, bytes: 0, limit }
    }

    /// True if a key's hash is in the range.
    pub(super) fn holds(&self, key: &str) -> bool {
        (self.first..=self.last).contains(&hash(key))
    }

    /// Folds the events after `from`, up to and including `to`, that are in the rows of a
    /// projection in this state.
    pub(super) async fn fold(
        &mut self,
        plan: &Plan,
        log: &Log,
        active_generation: &ActiveGeneration,
        (from, to): (u64, u64),
        progress: Progress<'_>,
    ) -> Result<(), ReadError> {
        if from >= to {
            return Ok(());
        }
        let Plan::Keys(groups) = plan else {
            let apply = |event| self.apply(&event, active_generation, None);
            return read_filtered(log, &filters::<P>(), from, to, progress, apply).await;
        };
        for (sources, keys) in groups {
            let apply = |event| self.apply(&event, active_generation, Some(keys));
            match sources {
                Sources::All => {
                    read_filtered(log, &filters::<P>(), from, to, progress, apply).await?;
                }
                // As long as the log: never held whole.
                Sources::Subjects(subjects) if subjects.contains(&Subject::Provider) => {
                    let subjects: Vec<_> = subjects.iter().map(Subject::to_string).collect();
                    read_filtered(log, &subjects, from, to, &|_, _| {}, apply).await?;
                }
                Sources::Subjects(subjects) => {
                    let mut events = Vec::new();
                    for subject in subjects {
                        events.extend(log.events_after(subject, from).await?);
                    }
                    events.retain(|event| event.position <= to);
                    events.sort_by_key(|event| event.position);
                    events.into_iter().for_each(apply);
                }
                Sources::Position(position) if (from + 1..=to).contains(position) => {
                    log.read_event(*position).await?.into_iter().for_each(apply);
                }
                Sources::Position(_) => {}
            }
        }
        Ok(())
    }

    /// Folds an event into the rows of `keys`, or of the range.
    fn apply(
        &mut self,
        recorded: &Recorded,
        active_generation: &ActiveGeneration,
        keys: Option<&HashSet<String>>,
    ) {
        let (subject, position) = (&recorded.subject, recorded.position);
        if !reads::<P>(subject) || self.unfolded.contains_key(subject) {
            return;
        }
        let mut stop = |key: &str, error: String| {
            if active_generation.expects(subject, position) {
                self.unfolded.insert(key.to_owned(), Unfolded { position, error });
            }
        };
        let payload = match decode(recorded) {
            Ok(payload) => payload,
            Err(error) => return stop(subject, error.to_string()),
        };
        let event = Event { recorded, payload: &payload };
        let touched = match keys_of::<P>(&event) {
            Ok(touched) => touched,
            Err(error) => return stop(subject, error.to_owned()),
        };
        for key in touched {
            let source = keys.map_or_else(|| self.holds(&key), |keys| keys.contains(&key));
            if !source
                || active_generation.lacks(&key, subject, position)
                || self.unfolded.contains_key(&key)
            {
                continue;
            }
            let before = self.rows.get(&key).map(|fresh| &fresh.row);
            let evolved =
                catch_unwind(AssertUnwindSafe(|| P::evolve(&key, before.cloned(), &event)));
            match evolved {
                Ok(after) if after.as_ref() == before => {}
                Ok(after) => self.set(key, after, position),
                Err(_) => {
                    let error = "the fold panicked".to_owned();
                    self.unfolded.insert(key, Unfolded { position, error });
                }
            }
        }
    }

    fn set(&mut self, key: String, row: Option<P::Row>, position: u64) {
        let fresh = row.map(|row| {
            let bytes = length(&row) + key.len();
            Fresh { row, position, bytes }
        });
        self.bytes += fresh.as_ref().map_or(0, |fresh| fresh.bytes);
        let old = match fresh {
            Some(fresh) => self.rows.insert(key, fresh),
            None => self.rows.remove(&key),
        };
        self.bytes -= old.map_or(0, |old| old.bytes);
        while self.bytes > self.limit && self.rows.len() > 1 && self.first < self.last {
            self.halve();
        }
    }

    /// Leaves the upper half of the range to a later pass.
    fn halve(&mut self) {
        self.last = self.first + (self.last - self.first) / 2;
        let (first, last) = (self.first, self.last);
        let bytes = &mut self.bytes;
        self.rows.retain(|key, fresh| {
            let saved = (first..=last).contains(&hash(key));
            if !saved {
                *bytes -= fresh.bytes;
            }
            saved
        });
    }
}

/// The place of a key among all keys.
fn hash(key: &str) -> u64 {
    // Not seeded: every pass sees the same order.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Length of a row as JSON.
fn length<R: Serialize>(row: &R) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    let _ = serde_json::to_writer(&mut count, row);
    count.0
}
