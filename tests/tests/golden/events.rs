//! The events that are kept as files: how they are read, and how those that are
//! missing are written.

use crate::samples;
use chrono::{DateTime, TimeDelta};
use exodrive_domain::{
    Delivery, Envelope, Recorded, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION, event_types,
    time,
};
use exodrive_tests::fixtures;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// An event, and the path of the one that comes before it in its story.
pub(crate) struct Golden {
    pub(crate) after: Option<String>,
    pub(crate) event: Recorded,
}

/// All events, by their paths: `<type>.v<version>/<name>`.
#[derive(Default)]
pub(crate) struct Events {
    pub(crate) events: BTreeMap<String, Golden>,
    /// The paths of those that are new: this run wrote them, or somebody by hand.
    pub(crate) added: BTreeSet<String>,
}

/// Every type with its newest version.
pub(crate) fn released() -> Vec<(&'static str, u32)> {
    event_types().collect()
}

/// Whether this run writes what is missing.
pub(crate) fn writes() -> bool {
    std::env::var_os("EXODRIVE_WRITE_GOLDEN").is_some()
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The events, read once, after those that are missing are written if this run
/// writes.
pub(crate) fn golden() -> &'static Events {
    static EVENTS: LazyLock<Events> = LazyLock::new(|| {
        let mut events = Events::read();
        if writes() {
            events.add_missing();
        }
        events
    });
    &EVENTS
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The path from `golden` and the bytes of every file of every event.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for of_type in fs::read_dir(folder().join("events")).unwrap() {
        for file in fs::read_dir(of_type.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

/// The digest of every file that there is.
pub(crate) fn digests() -> BTreeMap<String, String> {
    files().into_iter().map(|(path, bytes)| (path, hex::encode(Sha256::digest(bytes)))).collect()
}

/// The digest of every file that was ever added, from `events.sha256`.
pub(crate) fn listed() -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder().join("events.sha256")).unwrap();
    let lines = text.lines().map(|line| line.split_once("  ").unwrap());
    lines.map(|(digest, path)| (path.to_owned(), digest.to_owned())).collect()
}

/// The envelope as its file has it: everything but the body.
pub(crate) fn to_json(after: Option<&str>, event: &Recorded) -> Value {
    json!({
        "after": after,
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
    })
}

fn from_json(envelope: &Value, body: Vec<u8>) -> Golden {
    let text = |field: &str| envelope[field].as_str().unwrap().to_owned();
    let at = |field: &str| time::parse(envelope[field].as_str().unwrap()).unwrap();
    let event = Recorded {
        position: envelope["position"].as_u64().unwrap(),
        subject: text("subject"),
        stored_at: at("stored_at"),
        envelope: Envelope {
            id: text("id"),
            kind: text("type"),
            version: u32::try_from(envelope["version"].as_u64().unwrap()).unwrap(),
            source: text("source"),
            time: at("time"),
            traceparent: Some(text("traceparent")),
            causation: None,
            correlation: Some(text("correlation")),
            actor: Some(text("actor")),
        },
        provider_headers: serde_json::from_value(envelope["provider_headers"].clone()).unwrap(),
        body: body.into(),
        protection: None,
    };
    Golden { after: envelope["after"].as_str().map(str::to_owned), event }
}

impl Events {
    fn read() -> Self {
        let mut files = files();
        let paths = files.keys().filter_map(|file| file.strip_suffix(".json"));
        let paths: Vec<_> = paths.map(str::to_owned).collect();
        let mut events = BTreeMap::new();
        for path in paths {
            let envelope = files.remove(&format!("{path}.json")).unwrap();
            let envelope = serde_json::from_slice(&envelope).unwrap();
            let body = files.remove(&format!("{path}.body"));
            let body = body.unwrap_or_else(|| panic!("{path} has no body"));
            let path = path.strip_prefix("events/").unwrap().to_owned();
            events.insert(path, from_json(&envelope, body));
        }
        assert!(files.is_empty(), "there are files of no event: {:?}", files.keys());
        let listed = listed();
        let added =
            events.keys().filter(|path| !listed.contains_key(&format!("events/{path}.json")));
        let added = added.cloned().collect();
        Self { events, added }
    }

    /// The events that lead to this one, and it, in order.
    pub(crate) fn story(&self, path: &str) -> Vec<Recorded> {
        let mut story: Vec<Recorded> = Vec::new();
        let mut next = Some(path);
        while let Some(path) = next {
            let Golden { after, event } =
                self.events.get(path).unwrap_or_else(|| panic!("there is no event {path}"));
            let later = story.last().is_none_or(|later| event.position < later.position);
            assert!(later, "{path} does not come before what comes after it");
            story.push(event.clone());
            next = after.as_deref();
        }
        story.reverse();
        story
    }

    /// Writes an event of each type and version that has none, with the story
    /// that leads to it, and one of each webhook that has none; and lists them.
    fn add_missing(&mut self) {
        for (kind, newest) in released() {
            for version in 1..=newest {
                let of_type = format!("{kind}.v{version}/");
                if !self.events.keys().any(|path| path.starts_with(&of_type)) {
                    assert_eq!(version, 1, "say here what such an event looks like");
                    self.add_story(kind);
                }
            }
        }
        self.add_webhooks();
        let mut listed = listed();
        let found = files().into_iter().filter(|(path, _)| {
            let path = path.strip_prefix("events/").unwrap().rsplit_once('.').unwrap().0;
            self.added.contains(path)
        });
        listed.extend(found.map(|(path, bytes)| (path, hex::encode(Sha256::digest(bytes)))));
        let lines = listed.iter().map(|(path, digest)| format!("{digest}  {path}\n"));
        fs::write(folder().join("events.sha256"), lines.collect::<String>()).unwrap();
    }

    fn add_story(&mut self, kind: &str) {
        let mut after = None;
        for event in samples::of(kind) {
            let same = |(_, it): &(&String, &Golden)| it.after == after && it.event == event;
            let known = self.events.iter().find(same).map(|(path, _)| path.clone());
            after = Some(known.unwrap_or_else(|| {
                let own = event.envelope.kind == kind;
                let leads_to = kind.strip_prefix("exodrive.").unwrap_or(kind);
                let name = match own {
                    true => event.position.to_string(),
                    false => format!("{}-before-{leads_to}", event.position),
                };
                self.add(&name, after.clone(), event)
            }));
        }
    }

    fn add_webhooks(&mut self) {
        for fixture in fixtures() {
            let of_type = format!("{WEBHOOK_RECEIVED}.v{WEBHOOK_RECEIVED_VERSION}/");
            if self.events.contains_key(&format!("{of_type}{}", fixture.name)) {
                continue;
            }
            let last = self.events.iter().filter(|(path, _)| path.starts_with(&of_type));
            let last = last.max_by_key(|(_, it)| it.event.position);
            let n = last.map_or(1, |(_, it)| it.event.position + 1);
            let after = last.map(|(path, _)| path.clone());
            self.add(&fixture.name, after, webhook(n, &fixture.name, fixture.body));
        }
    }

    /// Writes an event as a file, and gives its path.
    fn add(&mut self, name: &str, after: Option<String>, event: Recorded) -> String {
        let path = format!("{}.v{}/{name}", event.envelope.kind, event.envelope.version);
        let file = |ending: &str| folder().join(format!("events/{path}.{ending}"));
        assert!(!file("json").exists(), "there is another event {path}");
        let envelope = to_json(after.as_deref(), &event);
        fs::create_dir_all(file("json").parent().unwrap()).unwrap();
        fs::write(file("json"), serde_json::to_string_pretty(&envelope).unwrap() + "\n").unwrap();
        fs::write(file("body"), &event.body).unwrap();
        self.added.insert(path.clone());
        self.events.insert(path.clone(), Golden { after, event });
        path
    }
}

/// A webhook as it might stand in a log: a time and a position of its own, from
/// its place.
fn webhook(n: u64, name: &str, body: bytes::Bytes) -> Recorded {
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
            version: WEBHOOK_RECEIVED_VERSION,
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
