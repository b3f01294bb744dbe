//! What was ever written into a log must be read and folded for ever as it was
//! on the day it was released.
//!
//! `golden/events/<type>.v<version>/<name>` holds the events: `.json` is the
//! envelope, `.body` the bytes. They never change. `golden/events.sha256` lists
//! the digest of each file, so that a review which sees a line of it go or
//! change sees that history is rewritten. An event comes `after` another, or is
//! the first of its story: the stories together are a tree.
//!
//! `golden/rows/<projection>.v<version>.json` holds what each event does to the
//! rows of the projection: `rows` are those that it changes (`null` is a row
//! that goes) when the events before it in its story are folded, and `alone`
//! those that it makes by itself, if they are others. An event that is not in
//! the file makes no rows. The stories are folded one by one and not as one
//! log, because they contradict each other: the same booking is completed in
//! one and cancelled in another.
//!
//! **To add** a type, a version, a webhook or a projection, or to raise the
//! `VERSION` of a projection whose fold gives other rows on purpose, run
//! `EXODRIVE_WRITE_GOLDEN=1 cargo test -p exodrive-tests --test golden`. It
//! writes the events that are missing, lists them and those that were written
//! by hand, adds their rows, and writes the rows of
//! a projection's version that has no file. It never changes what is there, so
//! to write something that is not committed yet once more, delete it first.
//! Rows of an old version are deleted once no release folds by it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod events;
mod samples;

use events::{Golden, folder, golden, read_json, writes};
use exodrive_domain::Recorded;
use exodrive_projections::{Projection, for_each_projection};
use exodrive_tests::{Rows, fold};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// The rows that a fold changed: the new ones, and `null` for one that went.
fn changed(before: &Rows, after: &Rows) -> Value {
    let new = after.iter().filter(|(key, row)| before.get(*key) != Some(*row));
    let new =
        new.map(|(key, (position, row))| (key.clone(), json!({"position": position, "row": row})));
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    new.chain(gone.map(|key| (key.clone(), Value::Null))).collect()
}

/// What each event does to the rows of a projection, by the event's path. An
/// event that does nothing is left out.
fn rows_of<P: Projection>() -> Map<String, Value> {
    let golden = golden();
    let folded: BTreeMap<&str, Rows> =
        golden.events.keys().map(|path| (path.as_str(), fold::<P>(&golden.story(path)))).collect();
    let nothing = Rows::new();
    let each = golden.events.iter().filter_map(|(path, Golden { after, event })| {
        let before = after.as_deref().map_or(&nothing, |path| &folded[path]);
        let rows = changed(before, &folded[path.as_str()]);
        let alone = changed(&nothing, &fold::<P>(std::slice::from_ref(event)));
        let mut entry = json!({"rows": rows});
        if alone != rows {
            entry["alone"] = alone;
        }
        (entry != json!({"rows": {}})).then(|| (path.clone(), entry))
    });
    each.collect()
}

/// Compares what a projection makes of the events today with what is kept.
fn check_rows<P: Projection>() {
    let name = format!("{}.v{}", P::NAME, P::VERSION);
    let path = folder().join(format!("rows/{name}.json"));
    let now = rows_of::<P>();
    let known = path.exists();
    assert!(known || writes(), "there is no file rows/{name}.json: see the top of golden/main.rs");
    let mut kept = if known { read_json(&path) } else { json!({}) };
    let kept = kept.as_object_mut().unwrap();
    if writes() {
        let new = now.iter().filter(|(event, _)| !known || golden().added.contains(*event));
        kept.extend(new.map(|(event, rows)| (event.clone(), rows.clone())));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(kept).unwrap() + "\n").unwrap();
    }
    for event in now.keys().chain(kept.keys()).collect::<BTreeSet<_>>() {
        let (now, kept) = (now.get(event), kept.get(event));
        assert_eq!(now, kept, "{name} makes other rows (left) of {event} than are kept (right)");
    }
    // Or else the events would prove nothing of it.
    assert!(!kept.is_empty(), "no event makes a row of {name}");
}

#[test]
fn every_event_is_folded_by_every_projection_as_when_its_version_was_released() {
    for_each_projection!(P => check_rows::<P>());
}

#[test]
fn rows_are_kept_of_no_projection_that_there_is_not() {
    let mut newest = BTreeMap::new();
    for_each_projection!(P => {
        newest.insert(P::NAME, P::VERSION);
    });
    for file in fs::read_dir(folder().join("rows")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let (projection, version) = name.strip_suffix(".json").unwrap().split_once(".v").unwrap();
        let version: u32 = version.parse().unwrap();
        let known = newest.get(projection).is_some_and(|newest| version <= *newest);
        assert!(known, "rows/{name} is of no projection and version that there is");
    }
}

#[test]
fn no_event_is_changed_or_removed_and_none_is_unlisted() {
    golden();
    let (listed, found) = (events::listed(), events::digests());
    for path in listed.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let digest = found.get(path).unwrap_or_else(|| panic!("{path} was removed"));
        let listed = listed.get(path).unwrap_or_else(|| {
            panic!("{path} is not in events.sha256: see the top of golden/main.rs")
        });
        assert_eq!(digest, listed, "{path} was changed");
    }
}

#[test]
fn every_version_of_every_type_has_an_event_and_no_other_is_kept() {
    let released: BTreeSet<_> = events::released()
        .into_iter()
        .flat_map(|(kind, newest)| (1..=newest).map(move |version| format!("{kind}.v{version}")))
        .collect();
    let kept: BTreeSet<_> =
        golden().events.keys().map(|path| path.split_once('/').unwrap().0.to_owned()).collect();
    assert_eq!(kept, released);
}

#[test]
fn every_event_is_read_whole_and_stands_in_the_folder_of_its_type() {
    for (path, Golden { after, event }) in &golden().events {
        let kept = read_json(&folder().join(format!("events/{path}.json")));
        assert_eq!(events::to_json(after.as_deref(), event), kept, "{path}");
        let Recorded { envelope, .. } = event;
        assert!(path.starts_with(&format!("{}.v{}/", envelope.kind, envelope.version)), "{path}");
    }
}
