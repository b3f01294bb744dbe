//! NDJSON: an object a line.

use super::{End, Event, FORMAT, Flaw, Header, Omitted, Pairs, Record, check_format, text};
use chrono::DateTime;
use memchr::{memchr, memchr2};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use std::{
    borrow::Cow,
    io::{self, Write},
};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 16;

pub(super) struct Writer<W: Write> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER) }
    }

    pub(super) fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let buffer = &mut self.buffer;
        match record {
            Record::Header(header) => {
                let line = HeaderLine {
                    object: "header",
                    format: Cow::Borrowed(FORMAT),
                    origin: Cow::Borrowed(&header.origin),
                    checkpoint: Cow::Borrowed(&header.checkpoint),
                    from: header.from,
                    to: header.to,
                    filters: header.filters.clone(),
                    created_at: Cow::Owned(text::time(header.created_at_nanos()?)),
                };
                serde_json::to_writer(&mut *buffer, &line)?;
            }
            Record::Event(event) => write_event(event, buffer)?,
            Record::Omitted(Omitted { from, to, nodes }) => {
                let nodes = nodes.iter().map(|hash| Cow::Owned(hex::encode(hash))).collect();
                let line = OmittedLine { object: "omitted", from: *from, to: *to, nodes };
                serde_json::to_writer(&mut *buffer, &line)?;
            }
            Record::Checkpoint(note) => {
                let line = CheckpointLine { object: "checkpoint", note: Cow::Borrowed(note) };
                serde_json::to_writer(&mut *buffer, &line)?;
            }
            Record::End(End { events, root }) => {
                let root = Cow::Owned(hex::encode(root));
                let line = EndLine { object: "end", events: *events, root };
                serde_json::to_writer(&mut *buffer, &line)?;
            }
        }
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Nearly all of an export are events, so they are written without a detour.
fn write_event(event: &Event<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    write!(out, "{EVENT}{}{STORED_AT}", event.position)?;
    out.extend_from_slice(text::time(event.stored_at_nanos).as_bytes());
    out.extend_from_slice(b"\",\"subject\":");
    serde_json::to_writer(&mut *out, &event.subject)?;
    out.extend_from_slice(b",\"headers\":");
    serde_json::to_writer(&mut *out, &event.headers)?;
    out.extend_from_slice(BODY.as_bytes());
    text::push_base64(&event.body, out);
    out.extend_from_slice(LEAF_HASH.as_bytes());
    out.extend_from_slice(hex::encode(event.leaf_hash).as_bytes());
    out.push(b'"');
    if let Some(content) = &event.content {
        out.extend_from_slice(CONTENT.as_bytes());
        out.extend_from_slice(text::content(content).as_bytes());
    }
    out.push(b'}');
    Ok(())
}

const EVENT: &str = "{\"object\":\"event\",\"position\":";
const STORED_AT: &str = ",\"stored_at\":\"";
const SUBJECT: &str = "\",\"subject\":\"";
const HEADERS: &str = "\",\"headers\":";
const BODY: &str = ",\"body\":\"";
const LEAF_HASH: &str = "\",\"leaf_hash\":\"";
const CONTENT: &str = ",\"content\":";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine<'a> {
    object: &'a str,
    format: Cow<'a, str>,
    origin: Cow<'a, str>,
    checkpoint: Cow<'a, str>,
    from: u64,
    to: u64,
    filters: Pairs<'a>,
    created_at: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventLine<'a> {
    #[serde(rename = "object")]
    _object: IgnoredAny,
    position: u64,
    stored_at: Cow<'a, str>,
    subject: Cow<'a, str>,
    headers: Pairs<'a>,
    #[serde(borrow)]
    body: Cow<'a, str>,
    leaf_hash: Cow<'a, str>,
    #[serde(default, rename = "content")]
    _content: IgnoredAny,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OmittedLine<'a> {
    object: &'a str,
    from: u64,
    to: u64,
    nodes: Vec<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine<'a> {
    object: &'a str,
    note: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine<'a> {
    object: &'a str,
    events: u64,
    root: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    object: Cow<'a, str>,
}

/// The record of a line, or the fault. The content of an event is dropped.
pub(crate) fn parse(line: &str) -> Result<Record<'_>, Flaw> {
    match quick_event(line) {
        Some(event) => Ok(Record::Event(event)),
        None => slow(line),
    }
}

/// An event exactly as [`write_event`] writes it, without escapes.
/// [`slow`] reads every other line.
fn quick_event(line: &str) -> Option<Event<'_>> {
    let rest = line.strip_prefix(EVENT)?;
    let (position, rest) = rest.split_at_checked(memchr(b',', rest.as_bytes())?)?;
    if position.starts_with(['0', '+']) {
        return None;
    }
    let (stored_at, rest) = string(rest.strip_prefix(STORED_AT)?)?;
    let (subject, rest) = plain(rest.strip_prefix(SUBJECT)?)?;
    let (headers, rest) = quick_pairs(rest.strip_prefix(HEADERS)?)?;
    let (body, rest) = string(rest.strip_prefix(BODY)?)?;
    let (leaf_hash, rest) = string(rest.strip_prefix(LEAF_HASH)?)?;
    let rest = rest.strip_prefix('"')?;
    if rest != "}" {
        // The content must not hide a second field: a reader that takes the
        // last of two fields would use it.
        let content = rest.strip_prefix(CONTENT)?.strip_suffix('}')?;
        serde_json::from_str::<IgnoredAny>(content).ok()?;
    }
    Some(Event {
        position: position.parse().ok()?,
        stored_at_nanos: text::parse_time(stored_at)?,
        subject: Cow::Borrowed(subject),
        headers,
        body: Cow::Owned(text::parse_bytes(body)?),
        leaf_hash: text::parse_hash(leaf_hash)?,
        content: None,
    })
}

/// Reads a field of pairs without escapes; gives the pairs and the rest of the
/// line.
fn quick_pairs(json: &str) -> Option<(Pairs<'_>, &str)> {
    let mut rest = json.strip_prefix('[')?;
    if let Some(rest) = rest.strip_prefix(']') {
        return Some((Vec::new(), rest));
    }
    let mut pairs = Vec::with_capacity(16);
    loop {
        let (name, after) = plain(rest.strip_prefix("[\"")?)?;
        let (value, after) = plain(after.strip_prefix("\",\"")?)?;
        pairs.push((Cow::Borrowed(name), Cow::Borrowed(value)));
        rest = after.strip_prefix("\"]")?;
        if let Some(rest) = rest.strip_prefix(']') {
            return Some((pairs, rest));
        }
        rest = rest.strip_prefix(',')?;
    }
}

/// Reads a JSON array of pairs of strings.
pub(super) fn parse_pairs(json: Cow<'_, str>) -> Result<Pairs<'_>, serde_json::Error> {
    let Cow::Borrowed(json) = json else { return serde_json::from_str(&json) };
    match quick_pairs(json) {
        Some((pairs, "")) => Ok(pairs),
        _ => serde_json::from_str(json),
    }
}

/// A string without escapes up to its closing quote, and the rest from the
/// quote on.
fn string(text: &str) -> Option<(&str, &str)> {
    let end = memchr2(b'"', b'\\', text.as_bytes())?;
    text.split_at_checked(end).filter(|(_, rest)| rest.starts_with('"'))
}

/// The same, without control characters, which JSON does not allow.
fn plain(text: &str) -> Option<(&str, &str)> {
    // Without an early exit, so that the compiler can check many bytes at a
    // time.
    let controls = |text: &str| text.bytes().fold(false, |found, byte| found | (byte < b' '));
    string(text).filter(|(string, _)| !controls(string))
}

fn slow(line: &str) -> Result<Record<'_>, Flaw> {
    let kind: Kind<'_> = json(line)?;
    Ok(match kind.object.as_ref() {
        "header" => {
            let header: HeaderLine<'_> = json(line)?;
            check_format(&header.format)?;
            let created_at = time(&header.created_at, "created_at")?;
            Record::Header(Header {
                origin: header.origin,
                checkpoint: header.checkpoint,
                from: header.from,
                to: header.to,
                filters: header.filters,
                created_at: DateTime::from_timestamp_nanos(created_at),
            })
        }
        "event" => {
            let event: EventLine<'_> = json(line)?;
            let body = text::parse_bytes(&event.body).ok_or("body: not base64")?;
            Record::Event(Event {
                position: event.position,
                stored_at_nanos: time(&event.stored_at, "stored_at")?,
                subject: event.subject,
                headers: event.headers,
                body: Cow::Owned(body),
                leaf_hash: hash(&event.leaf_hash, "leaf_hash")?,
                content: None,
            })
        }
        "omitted" => {
            let omitted: OmittedLine<'_> = json(line)?;
            let nodes = omitted.nodes.iter().map(|node| hash(node, "nodes"));
            Record::Omitted(Omitted {
                from: omitted.from,
                to: omitted.to,
                nodes: nodes.collect::<Result<_, _>>()?,
            })
        }
        "checkpoint" => Record::Checkpoint(json::<CheckpointLine<'_>>(line)?.note),
        "end" => {
            let end: EndLine<'_> = json(line)?;
            Record::End(End { events: end.events, root: hash(&end.root, "root")? })
        }
        other => return Err(format!("object: {other:?} is no kind of record").into()),
    })
}

fn json<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| error.to_string())
}

fn time(text: &str, field: &str) -> Result<i64, String> {
    text::parse_time(text).ok_or_else(|| format!("{field}: no time in nanoseconds and UTC"))
}

fn hash(text: &str, field: &str) -> Result<crate::Hash, String> {
    text::parse_hash(text).ok_or_else(|| format!("{field}: not 64 lower-case hexadecimal digits"))
}
