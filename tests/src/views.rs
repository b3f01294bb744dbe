//! The reference fold: the rows that events make when they are folded one by
//! one.

use exodrive_domain::{Event, Recorded, decode};
use exodrive_projections::{Projection, for_each_projection};
use serde_json::Value;
use std::collections::BTreeMap;

/// Rows of a view by key: the position that last changed each, and its data.
pub type Rows = BTreeMap<String, (u64, Value)>;

/// Folds events into rows, one by one. The engine folds in batches and must make
/// the same rows.
pub fn fold<P: Projection>(events: &[Recorded]) -> Rows {
    let mut rows: BTreeMap<String, (u64, P::Row)> = BTreeMap::new();
    for recorded in events {
        if !P::SUBJECTS.iter().any(|prefix| recorded.subject.starts_with(prefix)) {
            continue;
        }
        let payload = decode(recorded).unwrap();
        let event = Event { recorded, payload: &payload };
        for key in P::keys(&event) {
            let before = rows.get(&key).map(|(_, row)| row);
            let after = P::evolve(&key, before.cloned(), &event);
            if after.as_ref() == before {
                continue;
            }
            match after {
                Some(row) => rows.insert(key, (recorded.position, row)),
                None => rows.remove(&key),
            };
        }
    }
    let data = |row| serde_json::to_value(row).unwrap();
    rows.into_iter().map(|(key, (position, row))| (key, (position, data(row)))).collect()
}

/// The rows of every projection, by its name.
pub fn fold_by_name(events: &[Recorded]) -> BTreeMap<&'static str, Rows> {
    let mut all = BTreeMap::new();
    for_each_projection!(P => {
        all.insert(P::NAME, fold::<P>(events));
    });
    all
}
