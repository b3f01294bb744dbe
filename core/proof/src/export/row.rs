//! A record as a row of [`super::COLUMNS`], for CSV and Parquet.
//!
//! | object | position | until | stored_at | subject | headers | body | leaf_hash | content | note |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | header | from | to | created_at | origin | filters | | | format | checkpoint |
//! | event | position | | stored_at | subject | headers | body | leaf hash | content | |
//! | omitted | from | to | | | | | | | hashes, with spaces between |
//! | checkpoint | | | | | | | | | checkpoint |
//! | end | | events | | | | | root | | |

use super::{
    End, Event, FORMAT, Flaw, Header, Omitted, Pairs, Record, check_format, ndjson::parse_pairs,
    text,
};
use chrono::DateTime;
use std::{borrow::Cow, io};

/// One row; a column that an object does not use is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(super) object: Cow<'a, str>,
    pub(super) position: Option<u64>,
    pub(super) until: Option<u64>,
    pub(super) stored_at: Option<i64>,
    pub(super) subject: Option<Cow<'a, str>>,
    pub(super) headers: Option<Cow<'a, str>>,
    pub(super) body: Option<Cow<'a, [u8]>>,
    pub(super) leaf_hash: Option<Cow<'a, str>>,
    pub(super) content: Option<Cow<'a, str>>,
    pub(super) note: Option<Cow<'a, str>>,
}

/// The same as an owned value.
pub(super) fn owned(row: Row<'_>) -> Row<'static> {
    let text = |it: Option<Cow<'_, str>>| it.map(|it| Cow::Owned(it.into_owned()));
    Row {
        object: Cow::Owned(row.object.into_owned()),
        position: row.position,
        until: row.until,
        stored_at: row.stored_at,
        subject: text(row.subject),
        headers: text(row.headers),
        body: row.body.map(|it| Cow::Owned(it.into_owned())),
        leaf_hash: text(row.leaf_hash),
        content: text(row.content),
        note: text(row.note),
    }
}

fn pairs_to_json(pairs: &Pairs<'_>) -> Option<Cow<'static, str>> {
    // Strings always have a JSON form.
    serde_json::to_string(pairs).ok().map(Cow::Owned)
}

impl<'a> Row<'a> {
    pub(super) fn of(record: &'a Record<'_>) -> io::Result<Self> {
        let row = |object| Row { object: Cow::Borrowed(object), ..Row::default() };
        Ok(match record {
            Record::Header(header) => Row {
                position: Some(header.from),
                until: Some(header.to),
                stored_at: Some(header.created_at_nanos()?),
                subject: Some(Cow::Borrowed(&header.origin)),
                headers: pairs_to_json(&header.filters),
                content: Some(Cow::Borrowed(FORMAT)),
                note: Some(Cow::Borrowed(&header.checkpoint)),
                ..row("header")
            },
            Record::Event(event) => Row {
                position: Some(event.position),
                stored_at: Some(event.stored_at_nanos),
                subject: Some(Cow::Borrowed(&event.subject)),
                headers: pairs_to_json(&event.headers),
                body: Some(Cow::Borrowed(&event.body)),
                leaf_hash: Some(Cow::Owned(hex::encode(event.leaf_hash))),
                content: event.content.as_deref().map(text::content),
                ..row("event")
            },
            Record::Omitted(omitted) => {
                let nodes: Vec<_> = omitted.nodes.iter().map(hex::encode).collect();
                Row {
                    position: Some(omitted.from),
                    until: Some(omitted.to),
                    note: Some(Cow::Owned(nodes.join(" "))),
                    ..row("omitted")
                }
            }
            Record::Checkpoint(note) => {
                Row { note: Some(Cow::Borrowed(note)), ..row("checkpoint") }
            }
            Record::End(end) => Row {
                until: Some(end.events),
                leaf_hash: Some(Cow::Owned(hex::encode(end.root))),
                ..row("end")
            },
        })
    }

    /// The record, or the fault of the row. An event's content is not read.
    pub(crate) fn into_record(mut self) -> Result<Record<'a>, Flaw> {
        let object = std::mem::take(&mut self.object);
        let record = match object.as_ref() {
            "header" => {
                let format = take_column(&mut self.content, "content")?;
                check_format(&format)?;
                Record::Header(Header {
                    origin: take_column(&mut self.subject, "subject")?,
                    checkpoint: take_column(&mut self.note, "note")?,
                    from: take_column(&mut self.position, "position")?,
                    to: take_column(&mut self.until, "until")?,
                    filters: pairs(take_column(&mut self.headers, "headers")?)?,
                    created_at: DateTime::from_timestamp_nanos(take_column(
                        &mut self.stored_at,
                        "stored_at",
                    )?),
                })
            }
            "event" => {
                self.content = None;
                Record::Event(Event {
                    position: take_column(&mut self.position, "position")?,
                    stored_at_nanos: take_column(&mut self.stored_at, "stored_at")?,
                    // CSV spells a text of no bytes and an absent one alike.
                    subject: self.subject.take().unwrap_or_default(),
                    headers: pairs(take_column(&mut self.headers, "headers")?)?,
                    // As for the subject.
                    body: self.body.take().unwrap_or_default(),
                    leaf_hash: self.hash()?,
                    content: None,
                })
            }
            "omitted" => {
                let nodes = take_column(&mut self.note, "note")?;
                let nodes: Option<_> = nodes.split(' ').map(text::parse_hash).collect();
                Record::Omitted(Omitted {
                    from: take_column(&mut self.position, "position")?,
                    to: take_column(&mut self.until, "until")?,
                    nodes: nodes.ok_or("note: not hashes of 64 lower-case hexadecimal digits")?,
                })
            }
            "checkpoint" => Record::Checkpoint(take_column(&mut self.note, "note")?),
            "end" => Record::End(End {
                events: take_column(&mut self.until, "until")?,
                root: self.hash()?,
            }),
            other => return Err(format!("object: {other:?} is no kind of record").into()),
        };
        if self == Row::default() {
            Ok(record)
        } else {
            Err(format!("a column that does not belong to this {object} is filled").into())
        }
    }

    fn hash(&mut self) -> Result<crate::Hash, String> {
        let hash = take_column(&mut self.leaf_hash, "leaf_hash")?;
        text::parse_hash(&hash)
            .ok_or_else(|| "leaf_hash: not 64 lower-case hexadecimal digits".to_owned())
    }
}

fn take_column<T>(column: &mut Option<T>, name: &str) -> Result<T, String> {
    column.take().ok_or_else(|| format!("{name}: missing"))
}

fn pairs(json: Cow<'_, str>) -> Result<Pairs<'_>, String> {
    parse_pairs(json).map_err(|_| "headers: not a JSON array of pairs [name, value]".to_owned())
}
