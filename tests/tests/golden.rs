//! What was ever written into a log must be read and folded for ever as it was
//! on the day it was released: one file for each type and version, never
//! edited.
//!
//! A new type or version: `EXODRIVE_WRITE_GOLDEN=1 cargo test --workspace
//! --test golden` writes the file that is missing. One that is there is never
//! written again. A fold that gives other rows on purpose raises its
//! projection's version; its rows then go into a file of their own, and this
//! test compares the old file without them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use chrono::{DateTime, TimeDelta};
use exodrive_domain::{
    Delivery, Envelope, Recorded, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION, time,
};
use exodrive_projections::{Projection, for_each_projection};
use exodrive_tests::{fixtures, fold};
use serde_json::{Map, Value, json};
use std::{fs, path::PathBuf};

/// Every type with its newest version.
const RELEASED: [(&str, u32); 1] = [(WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION)];

fn file(kind: &str, version: u32) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    folder.join(format!("{kind}.v{version}.json"))
}

/// The event of a fixture, as it might stand in a log: a time and a position of
/// its own, from its place in the list.
fn event_of(n: u64, name: &str, body: bytes::Bytes) -> Recorded {
    let at = DateTime::from_timestamp(1_795_900_000, 118_000_000).unwrap();
    let at = at + TimeDelta::seconds(i64::try_from(n).unwrap());
    let id = format!("msg_golden_{name}");
    let subject =
        Delivery::read(&body).email_id().cloned().map_or(Subject::Provider, Subject::Email);
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

fn write_if_missing(kind: &str, version: u32) {
    let path = file(kind, version);
    if std::env::var_os("EXODRIVE_WRITE_GOLDEN").is_none() || path.exists() {
        return;
    }
    assert_eq!((kind, version), (WEBHOOK_RECEIVED, 1), "say here what such an event looks like");
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
    let text = serde_json::to_string_pretty(&golden(kind, version, &events)).unwrap();
    fs::write(path, text + "\n").unwrap();
}

#[test]
fn every_version_ever_released_is_read_and_folded_as_on_its_first_day() {
    for (kind, newest) in RELEASED {
        for version in 1..=newest {
            write_if_missing(kind, version);
            let path = file(kind, version);
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|_| panic!("{kind} v{version} has no file {}", path.display()));
            let kept: Value = serde_json::from_str(&text).unwrap();
            let events: Vec<_> = kept["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| {
                    (entry["name"].as_str().unwrap().to_owned(), from_json(&entry["event"]))
                })
                .collect();
            assert!(events.len() >= 62, "the file is whole");
            let today = golden(kind, version, &events);
            let both =
                kept["events"].as_array().unwrap().iter().zip(today["events"].as_array().unwrap());
            for (kept, today) in both {
                assert_eq!(today, kept, "{kind} v{version}: {}", kept["name"]);
            }
            assert_eq!(today["together"], kept["together"], "{kind} v{version}: all together");
            assert_eq!(today, kept);
        }
    }
}
