//! Exports: a file that verifies holds what was signed, also for whoever reads it with another reader.

use crate::note::{KEY, ORIGIN};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::DateTime;
use exodrive_proof::{
    export::{End, Event, ExportWriter, Format, Header, Omitted, Record},
    note::{self, Checkpoint, SignedNote},
    tree::Tree,
    verify::{Expectations, VerifiedExport, verify},
};
use serde_json::{Value, json};
use std::{borrow::Cow, cell::RefCell, fs::File, io::Write, sync::LazyLock};
use tempfile::NamedTempFile;

/// Events of the log.
const SIZE: u64 = 5;
/// The position that is left out of the shorter exports.
const LEFT_OUT: u64 = 3;

struct Log {
    events: Vec<Event<'static>>,
    note: SignedNote,
    checkpoint: Checkpoint,
    expected: Expectations,
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let events: Vec<_> = (1..=SIZE).map(event).collect();
    let mut tree = Tree::new();
    events.iter().for_each(|event| tree.push_leaf(event.leaf_hash));
    let origin = ORIGIN.to_owned();
    let checkpoint = Checkpoint { origin, size: SIZE, root: tree.root(), extensions: Vec::new() };
    let note = note::sign(&checkpoint, &[&KEY]);
    let keys = vec![KEY.verifier()];
    let expected = Expectations { keys, threads: 1, ..Expectations::default() };
    Log { events, note, checkpoint, expected }
});

fn event(position: u64) -> Event<'static> {
    let header = |name: &'static str, value: String| (Cow::Borrowed(name), Cow::Owned(value));
    let headers = vec![
        header("ce-id", format!("msg_{position}")),
        header("svix-signature", "v1,a b\"\u{fc}".to_owned()),
    ];
    let mut event = Event {
        position,
        stored_at_nanos: 1_790_000_000_123_456_789 + position.cast_signed(),
        subject: Cow::Owned(format!("exo.email.{position}")),
        headers: if position == 2 { Vec::new() } else { headers },
        body: Cow::Owned(match position {
            3 => Vec::new(),
            4 => vec![0xfb, 0xef, 0xbe],
            _ => format!("{{\"text\":\"=1+1 {position}\"}}").into_bytes(),
        }),
        leaf_hash: [0; 32],
        content: (position == 1).then_some(Cow::Borrowed(b"{\"plain\":1}")),
    };
    event.leaf_hash = event.leaf().hash();
    event
}

/// The records of an export of everything, or without one position.
fn records(whole: bool) -> Vec<Record<'static>> {
    let log = &*LOG;
    let filter = (Cow::Borrowed("subject"), Cow::Borrowed("=some"));
    let mut records = vec![Record::Header(Header {
        origin: Cow::Borrowed(ORIGIN),
        checkpoint: Cow::Owned(log.note.to_string()),
        from: 1,
        to: SIZE,
        filters: if whole { Vec::new() } else { vec![filter] },
        created_at: DateTime::from_timestamp_nanos(1_790_000_000_000_000_001),
    })];
    let mut events = 0;
    for event in &log.events {
        let position = event.position;
        if whole || position != LEFT_OUT {
            events += 1;
            records.push(Record::Event(event.clone()));
        } else {
            let nodes = vec![event.leaf_hash];
            records.push(Record::Omitted(Omitted { from: position, to: position, nodes }));
        }
    }
    records.push(Record::End(End { events, root: log.checkpoint.root }));
    records
}

fn seeds(format: Format) -> Vec<(&'static str, Vec<u8>)> {
    let write = |records: &[Record<'_>]| {
        let mut writer = ExportWriter::new(format, Vec::new()).unwrap();
        records.iter().for_each(|record| writer.write(record).unwrap());
        writer.finish().unwrap()
    };
    let mut forged = records(true);
    if let Some(Record::Event(event)) = forged.get_mut(2) {
        event.body = Cow::Borrowed(b"forged");
        event.leaf_hash = event.leaf().hash();
    }
    vec![
        ("accepted-whole", write(&records(true))),
        ("accepted-part", write(&records(false))),
        ("refused-forged", write(&forged)),
    ]
}

/// Also one with a second body behind the content: a reader that takes the last of two fields would
/// read what nobody signed.
pub(crate) fn ndjson_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = seeds(Format::Ndjson);
    let whole = String::from_utf8(seeds[0].1.clone()).unwrap();
    let content = "\"content\":{\"plain\":1}";
    let second = whole.replacen(content, &format!("{content},\"body\":\"Zm9yZ2Vk\""), 1);
    assert_ne!(second, whole);
    seeds.push(("refused-second-body-behind-the-content", second.into_bytes()));
    seeds
}

pub(crate) fn csv_seeds() -> Vec<(&'static str, Vec<u8>)> {
    seeds(Format::Csv)
}

pub(crate) fn parquet_seeds() -> Vec<(&'static str, Vec<u8>)> {
    seeds(Format::Parquet)
}

/// Verifies a file of these bytes.
fn verified(input: &[u8]) -> Option<VerifiedExport> {
    thread_local! {
        static SCRATCH: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().unwrap());
    }
    SCRATCH.with_borrow_mut(|scratch| {
        File::create(scratch.path()).and_then(|mut file| file.write_all(input)).unwrap();
        match verify(scratch.path(), &LOG.expected, |_, _| ()) {
            Ok(verified) => Some(verified),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                None
            }
        }
    })
}

/// What a verified export says is what was signed. `read` is what another reader reads of it.
fn holds(input: &[u8], read: impl FnOnce(&[u8]) -> Vec<Value>) -> bool {
    let Some(verified) = verified(input) else { return false };
    let checkpoint = &LOG.checkpoint;
    assert_eq!((verified.origin.as_str(), verified.size), (ORIGIN, SIZE));
    assert_eq!(verified.root, checkpoint.root);
    assert_eq!(verified.events + verified.omitted, SIZE);
    let read = read(input);
    assert_eq!(read.len() as u64, verified.events, "another reader finds as many events");
    for event in read {
        let position = event["position"].as_u64().unwrap_or_default();
        let signed = position.checked_sub(1).and_then(|index| LOG.events.get(index as usize));
        let signed = signed.unwrap_or_else(|| panic!("no event was at {position}"));
        assert_eq!(event, facts(signed), "another reader reads what was signed");
    }
    true
}

/// What is proven of an event, with bytes as base64.
fn facts(event: &Event<'_>) -> Value {
    json!({
        "position": event.position,
        "stored_at": event.stored_at_nanos,
        "subject": event.subject,
        "headers": event.headers,
        "body": BASE64_STANDARD.encode(&event.body),
    })
}

fn nanos(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}

pub(crate) fn holds_of_ndjson(input: &[u8]) -> bool {
    holds(input, |input| {
        let mut events = Vec::new();
        for line in input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // Takes the last of two fields of one name.
            let line: Value = serde_json::from_slice(line).expect("every line is JSON");
            if line["object"] == "event" {
                events.push(json!({
                    "position": line["position"],
                    "stored_at": line["stored_at"].as_str().and_then(nanos),
                    "subject": line["subject"],
                    "headers": line["headers"],
                    "body": line["body"],
                }));
            }
        }
        events
    })
}

pub(crate) fn holds_of_csv(input: &[u8]) -> bool {
    holds(input, |input| {
        let mut events = Vec::new();
        for line in csv::Reader::from_reader(input).deserialize() {
            let line: std::collections::BTreeMap<String, String> = line.expect("every line is CSV");
            // The apostrophe keeps a spreadsheet from taking a cell for a formula.
            let cell = |name: &str| line[name].strip_prefix('\'').unwrap_or(&line[name]);
            if cell("object") == "event" {
                events.push(json!({
                    "position": cell("position").parse::<u64>().ok(),
                    "stored_at": nanos(cell("stored_at")),
                    "subject": cell("subject"),
                    "headers": serde_json::from_str::<Value>(cell("headers")).ok(),
                    "body": cell("body"),
                }));
            }
        }
        events
    })
}

/// There is no other reader of Parquet here.
pub(crate) fn holds_of_parquet(input: &[u8]) -> bool {
    let Some(verified) = verified(input) else { return false };
    assert_eq!((verified.origin.as_str(), verified.size), (ORIGIN, SIZE));
    assert_eq!((verified.root, verified.events + verified.omitted), (LOG.checkpoint.root, SIZE));
    true
}
