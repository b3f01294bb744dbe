//! What was ever written into a log must be read and folded for ever as it was
//! on the day it was released: one file for each type and version, never
//! edited.
//!
//! A new type or version: `EXODRIVE_WRITE_GOLDEN=1 cargo test --workspace
//! --test golden` writes the file that is missing. One that is there is never
//! written again. A projection that is new, or whose fold gives other rows on
//! purpose and so has a new version, has no rows in the files that were there
//! before it: if it makes rows of such a type they go into a file of their own,
//! in a folder of its name and version, in the same way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod samples;

use chrono::{DateTime, TimeDelta};
use exodrive_domain::{Delivery, Envelope, Recorded, Subject, WEBHOOK_RECEIVED, event_types, time};
use exodrive_projections::{Projection, for_each_projection};
use exodrive_tests::{fixtures, fold};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every type with its newest version.
fn released() -> Vec<(&'static str, u32)> {
    event_types().collect()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn file(kind: &str, version: u32) -> PathBuf {
    folder().join(format!("{kind}.v{version}.json"))
}

/// Where the rows of a projection are that came after the file of the type.
fn later_file(kind: &str, version: u32, projection: &str) -> PathBuf {
    folder().join(projection.replace(' ', ".")).join(format!("{kind}.v{version}.json"))
}

/// The event of a fixture, as it might stand in a log: a time and a position of
/// its own, from its place in the list.
fn event_of(n: u64, name: &str, body: bytes::Bytes) -> Recorded {
    let at = DateTime::from_timestamp(1_795_900_000, 118_000_000).unwrap();
    let at = at + TimeDelta::seconds(i64::try_from(n).unwrap());
    let id = format!("msg_golden_{name}");
    let subject =
        Delivery::parse(&body).email_id().cloned().map_or(Subject::Provider, Subject::Email);
    Recorded {
        position: n,
        subject: subject.to_string(),
        stored_at: at,
        envelope: Envelope {
            id: id.clone(),
            kind: WEBHOOK_RECEIVED.to_owned(),
            version: 1,
            source: "resend".to_owned(),
            time: at,
            traceparent: Some(format!("00-{n:032x}-{n:016x}-01")),
            causation: None,
            correlation: Some(format!("req_{n}")),
            actor: Some("provider:resend".to_owned()),
        },
        provider_headers: vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("svix-id".to_owned(), id),
        ],
        body,
        protection: None,
    }
}

fn to_json(event: &Recorded) -> Value {
    json!({
        "position": event.position,
        "subject": event.subject,
        "stored_at": time::format(&event.stored_at),
        "id": event.envelope.id,
        "type": event.envelope.kind,
        "version": event.envelope.version,
        "source": event.envelope.source,
        "time": time::format(&event.envelope.time),
        "traceparent": event.envelope.traceparent,
        "correlation": event.envelope.correlation,
        "actor": event.envelope.actor,
        "provider_headers": event.provider_headers,
        "body": std::str::from_utf8(&event.body).unwrap(),
    })
}

fn from_json(event: &Value) -> Recorded {
    let text = |field: &str| event[field].as_str().unwrap().to_owned();
    let at = |field: &str| time::parse(event[field].as_str().unwrap()).unwrap();
    Recorded {
        position: event["position"].as_u64().unwrap(),
        subject: text("subject"),
        stored_at: at("stored_at"),
        envelope: Envelope {
            id: text("id"),
            kind: text("type"),
            version: u32::try_from(event["version"].as_u64().unwrap()).unwrap(),
            source: text("source"),
            time: at("time"),
            traceparent: Some(text("traceparent")),
            causation: None,
            correlation: Some(text("correlation")),
            actor: Some(text("actor")),
        },
        provider_headers: serde_json::from_value(event["provider_headers"].clone()).unwrap(),
        body: text("body").into_bytes().into(),
        protection: None,
    }
}

/// The rows of every projection, by its name and the version of its fold.
fn rows(events: &[Recorded]) -> Value {
    let mut all = Map::new();
    for_each_projection!(P => {
        let rows: Map<String, Value> = fold::<P>(events)
            .into_iter()
            .map(|(key, (position, row))| (key, json!({"position": position, "row": row})))
            .collect();
        all.insert(format!("{} v{}", P::NAME, P::VERSION), rows.into());
    });
    all.into()
}

/// The whole file: each event with the rows that it folds to by itself, and
/// the rows of all of them together.
fn golden(kind: &str, version: u32, events: &[(String, Recorded)]) -> Value {
    let each: Vec<_> = events
        .iter()
        .map(|(name, event)| {
            json!({"name": name, "event": to_json(event), "rows": rows(std::slice::from_ref(event))})
        })
        .collect();
    let all: Vec<_> = events.iter().map(|(_, event)| event.clone()).collect();
    json!({"type": kind, "version": version, "events": each, "together": rows(&all)})
}

/// Each event's rows, and the rows of all together, of the projections that
/// `requested` takes.
fn only(golden: &Value, requested: &dyn Fn(&str) -> bool) -> Value {
    let of = |rows: &Value| -> Value {
        let rows = rows.as_object().unwrap().iter();
        rows.filter(|(name, _)| requested(name))
            .map(|(name, it)| (name.clone(), it.clone()))
            .collect()
    };
    let each = golden["events"].as_array().unwrap().iter();
    let each: Vec<_> =
        each.map(|it| json!({"name": it["name"], "rows": of(&it["rows"])})).collect();
    json!({"events": each, "together": of(&golden["together"])})
}

fn without_rows(of_one: &Value) -> Value {
    let mut none = of_one.clone();
    for rows in none["events"].as_array_mut().unwrap().iter_mut().map(|it| &mut it["rows"]) {
        rows.as_object_mut().unwrap().values_mut().for_each(|rows| *rows = json!({}));
    }
    none["together"].as_object_mut().unwrap().values_mut().for_each(|rows| *rows = json!({}));
    none
}

fn write(path: &Path, golden: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serde_json::to_string_pretty(golden).unwrap() + "\n").unwrap();
}

fn writes() -> bool {
    std::env::var_os("EXODRIVE_WRITE_GOLDEN").is_some()
}

fn webhook_samples() -> Vec<(String, Recorded)> {
    let mut events: Vec<_> = (1..)
        .zip(fixtures())
        .map(|(n, fixture)| {
            let event = event_of(n, &fixture.name, fixture.body);
            (fixture.name, event)
        })
        .collect();
    // The same message stored again, and the same fact under another id.
    let (name, first) = events.iter().find(|(name, _)| name == "email.delivered").unwrap().clone();
    let n = events.len() as u64;
    events.push((format!("{name}, again"), Recorded { position: n + 1, ..first.clone() }));
    events.push((format!("{name}, other id"), event_of(n + 2, "other-id", first.body)));
    events
}

fn write_if_missing(kind: &str, version: u32) {
    let path = file(kind, version);
    if !writes() || path.exists() {
        return;
    }
    assert_eq!(version, 1, "say here what such an event looks like");
    let events = if kind == WEBHOOK_RECEIVED { webhook_samples() } else { samples::of(kind) };
    write(&path, &golden(kind, version, &events));
}

fn read(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|_| panic!("there is no file {}", path.display()));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_version_ever_released_is_read_and_folded_as_on_its_first_day() {
    for (kind, newest) in released() {
        for version in 1..=newest {
            write_if_missing(kind, version);
            let kept = read(&file(kind, version));
            let events: Vec<_> = kept["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| {
                    (entry["name"].as_str().unwrap().to_owned(), from_json(&entry["event"]))
                })
                .collect();
            let whole = if kind == WEBHOOK_RECEIVED { 62 } else { 1 };
            let of_kind =
                |event: &Recorded| event.envelope.kind == kind && event.envelope.version == version;
            assert!(events.iter().filter(|(_, event)| of_kind(event)).count() >= whole, "{kind}");
            let today = golden(kind, version, &events);
            compare(kind, version, &kept, &today);
        }
    }
}

/// The rows of each projection, as it is today, must be those that are kept of
/// it: in the type's own file, or in one that came later.
fn compare(kind: &str, version: u32, kept: &Value, today: &Value) {
    for (projection, _) in today["together"].as_object().unwrap() {
        let this = |name: &str| name == projection;
        let now = only(today, &this);
        let known = kept["together"].get(projection).is_some();
        let then = if known {
            only(kept, &this)
        } else {
            // It had no rows then, unless a file that came later has some.
            let path = later_file(kind, version, projection);
            let none = without_rows(&now);
            if writes() && !path.exists() && now != none {
                write(&path, &now);
            }
            if path.exists() { read(&path) } else { none }
        };
        let both = then["events"].as_array().unwrap().iter().zip(now["events"].as_array().unwrap());
        for (then, now) in both {
            assert_eq!(now, then, "{kind} v{version}: {projection}, {}", then["name"]);
        }
        assert_eq!(now, then, "{kind} v{version}: {projection}");
    }
    let events = |golden: &Value| {
        let each = golden["events"].as_array().unwrap().iter();
        each.map(|it| (it["name"].clone(), it["event"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(events(today), events(kept), "{kind} v{version}: the events themselves");
}

#[test]
fn every_projection_has_rows_in_some_file() {
    // Or else they would prove nothing of it.
    let mut changed = BTreeSet::new();
    let mut look = |kept: &Value| {
        for (projection, rows) in kept["together"].as_object().unwrap() {
            if !rows.as_object().unwrap().is_empty() {
                changed.insert(projection.split(' ').next().unwrap().to_owned());
            }
        }
    };
    for (kind, version) in released() {
        look(&read(&file(kind, version)));
        for_each_projection!(P => {
            let path = later_file(kind, version, &format!("{} v{}", P::NAME, P::VERSION));
            if path.exists() {
                look(&read(&path));
            }
        });
    }
    for_each_projection!(P => {
        assert!(changed.contains(P::NAME), "{} has no row in any file", P::NAME);
    });
}
