//! Folding a batch in memory: five events of one email are one write.

use crate::{
    feed::Decoded,
    projection::{Projection, reads},
};
use exodrive_domain::{DecodeError, Event, Recorded};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
    /// A row's key; or a subject, when the event could not be read and so
    /// could not say which rows it touches.
    pub(crate) key: String,
    pub(crate) position: u64,
    /// Empty for one that only waits.
    pub(crate) error: String,
}

/// Rows by key, `None` for a row that is gone.
pub(crate) type Rows<R> = BTreeMap<String, Option<Stored<R>>>;

/// An event that a projection reads, with the keys of the rows it touches.
pub(crate) struct Keyed<'a> {
    recorded: &'a Recorded,
    event: Result<Event<'a>, &'a DecodeError>,
    pub(crate) keys: Vec<String>,
}

/// An event for a projection; `None` if it does not read the subject.
pub(crate) fn keyed<P: Projection>(decoded: &Decoded) -> Option<Keyed<'_>> {
    let recorded = &decoded.recorded;
    reads::<P>(&recorded.subject).then(|| {
        let event = decoded.payload.as_ref().map(|payload| Event { recorded, payload });
        let keys = event.as_ref().map(P::keys).unwrap_or_default();
        Keyed { recorded, event, keys }
    })
}

/// What a batch comes to.
pub(crate) struct Folded<R> {
    pub(crate) changed: Rows<R>,
    pub(crate) parked: Vec<Parked>,
}

/// Folds a batch over the rows it touches. `blocked` are the keys and subjects
/// that have parked events; it learns of new ones.
pub(crate) fn fold<P: Projection>(
    events: &[Keyed<'_>],
    mut rows: HashMap<String, Stored<P::Row>>,
    blocked: &mut HashSet<String>,
) -> Folded<P::Row> {
    let mut changed: Rows<P::Row> = BTreeMap::new();
    let mut parked = Vec::new();
    for Keyed { recorded, event, keys } in events {
        let mut park = |blocked: &mut HashSet<String>, key: &str, error: String| {
            blocked.insert(key.to_owned());
            parked.push(Parked { key: key.to_owned(), position: recorded.position, error });
        };
        let event = match event {
            _ if blocked.contains(&recorded.subject) => {
                park(blocked, &recorded.subject, String::new());
                continue;
            }
            Err(error) => {
                park(blocked, &recorded.subject, error.to_string());
                continue;
            }
            Ok(event) => event,
        };
        for key in keys {
            if blocked.contains(key) {
                park(blocked, key, String::new());
                continue;
            }
            let before = match changed.get(key) {
                Some(stored) => stored.as_ref(),
                None => rows.get(key),
            };
            let row = before.map(|stored| &stored.row);
            let evolved = catch_unwind(AssertUnwindSafe(|| P::evolve(row.cloned(), event)));
            match evolved {
                Ok(after) if after.as_ref() == row => {}
                Ok(after) => {
                    rows.remove(key);
                    let position = recorded.position;
                    changed.insert(key.clone(), after.map(|row| Stored { row, position }));
                }
                Err(_) => park(blocked, key, "the fold panicked; see the worker's log".to_owned()),
            }
        }
    }
    Folded { changed, parked }
}

impl Keyed<'_> {
    pub(crate) fn position(&self) -> u64 {
        self.recorded.position
    }

    /// The same event for one key only; for all of them if `key` is its
    /// subject.
    pub(crate) fn only(mut self, key: &str) -> Self {
        if self.recorded.subject != key {
            self.keys.retain(|own| own == key);
        }
        self
    }
}
