//! An export: part of the log with all that is needed to prove it, in one file.
//! The same records in three formats.
//!
//! First comes a [`Header`] with the signed checkpoint, last an [`End`].
//! Between them [`Event`]s and [`Omitted`] ranges cover every position from 1
//! to the checkpoint's size, in order. So an export of one email is proven by
//! the same root as one of everything. An earlier checkpoint may follow the
//! position at which the tree had its size; earlier checkpoints help to locate
//! the beginning of a forged history.
//!
//! Proven are an event's position, time, subject, headers and body, and that
//! nothing is left out between two events except the omitted ranges. **Not
//! proven** are the header's filters and time of making, and an event's
//! `content`, which is the body decrypted for people.
//!
//! | format | form |
//! | --- | --- |
//! | NDJSON | an object a line, `object` first |
//! | CSV | [`COLUMNS`]; a cell that a spreadsheet might take for a formula begins with `'`, see [`csv`](Format::Csv) |
//! | Parquet | the same columns; times and bodies are typed; the checkpoint is in the file's metadata, too |

mod csv;
mod ndjson;
mod parquet;
mod row;
mod text;

pub(crate) use self::{
    csv::{HEADING as CSV_HEADING, parse_record as parse_cells},
    ndjson::parse as parse_line,
    parquet::Rows as ParquetRows,
    row::Row,
};

use crate::{Hash, Leaf, tree};
use chrono::{DateTime, Utc};
use std::{borrow::Cow, io, str::FromStr};

/// The name and version of the records' form.
pub const FORMAT: &str = "exodrive-export-v1";
/// An export holds at most one earlier checkpoint for this number of events.
pub const CHECKPOINT_EVERY: u64 = 1024;
/// The columns of CSV and Parquet.
pub const COLUMNS: [&str; 10] = [
    "object",
    "position",
    "until",
    "stored_at",
    "subject",
    "headers",
    "body",
    "leaf_hash",
    "content",
    "note",
];

/// Reason why a text is not a valid record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The fault.
    Malformed(String),
    /// It is the header of another version of the form.
    OtherFormat(String),
}

impl<T: Into<String>> From<T> for Flaw {
    fn from(what: T) -> Self {
        Self::Malformed(what.into())
    }
}

/// Checks the name of the format.
fn check_format(format: &str) -> Result<(), Flaw> {
    if format == FORMAT {
        return Ok(());
    }
    let is_version = format.strip_prefix("exodrive-export-v").is_some_and(|version| {
        !version.is_empty() && version.bytes().all(|digit| digit.is_ascii_digit())
    });
    let flaw = if is_version { Flaw::OtherFormat } else { Flaw::Malformed };
    Err(flaw(format!("its form is {format:?}")))
}

/// Pairs of name and value.
pub type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// The range, filters and checkpoint of an export. The first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// The log's name, as in the checkpoint.
    pub origin: Cow<'a, str>,
    /// The signed checkpoint that the export ends at, the whole note.
    pub checkpoint: Cow<'a, str>,
    /// The first requested position, from 1.
    pub from: u64,
    /// The last requested position; at most the checkpoint's size.
    pub to: u64,
    /// The filters that chose the events in the range; empty if it has all.
    pub filters: Pairs<'a>,
    /// The time at which the export was made.
    pub created_at: DateTime<Utc>,
}

impl Header<'_> {
    /// The time of the export in nanoseconds since 1970, as every format has it.
    fn created_at_nanos(&self) -> io::Result<i64> {
        let nanos = self.created_at.timestamp_nanos_opt();
        nanos.ok_or_else(|| io::Error::other("the time of the export is not between 1677 and 2262"))
    }

    /// The same as an owned value.
    pub fn into_owned(self) -> Header<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let pair = |(name, value)| (owned(name), owned(value));
        Header {
            origin: owned(self.origin),
            checkpoint: owned(self.checkpoint),
            from: self.from,
            to: self.to,
            filters: self.filters.into_iter().map(pair).collect(),
            created_at: self.created_at,
        }
    }
}

/// One stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its position in the log, from 1.
    pub position: u64,
    /// The time at which the server stored it: Unix time, UTC, in nanoseconds.
    pub stored_at_nanos: i64,
    /// Its subject.
    pub subject: Cow<'a, str>,
    /// Every stored header, sorted by name.
    pub headers: Pairs<'a>,
    /// The stored bytes.
    pub body: Cow<'a, [u8]>,
    /// The hash of its leaf.
    pub leaf_hash: Hash,
    /// The decrypted body, if it was requested and is not erased; not proven.
    /// Written as JSON if it is JSON, else as a string of base64; not read.
    pub content: Option<Cow<'a, [u8]>>,
}

impl Event<'_> {
    /// The leaf of the record's fields.
    pub fn leaf(&self) -> Leaf<'_, Cow<'_, str>, Cow<'_, str>> {
        Leaf {
            position: self.position,
            stored_at_nanos: self.stored_at_nanos,
            subject: &self.subject,
            headers: &self.headers,
            body: &self.body,
        }
    }
}

/// Positions that the export leaves out, as hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Omitted {
    /// The first position left out.
    pub from: u64,
    /// The last position left out.
    pub to: u64,
    /// The hashes of [`Omitted::places`], in that order.
    pub nodes: Vec<Hash>,
}

impl Omitted {
    /// The positions `from..=to` with hashes from `nodes`.
    ///
    /// # Errors
    ///
    /// A node is not available.
    pub fn new<N: tree::Nodes>(from: u64, to: u64, nodes: &N) -> Result<Self, N::Error> {
        let hashes =
            Self::places(from, to).into_iter().map(|(level, index)| nodes.node(level, index));
        Ok(Self { from, to, nodes: hashes.collect::<Result<_, _>>()? })
    }

    /// Level and index of the complete subtrees that cover the positions
    /// `from..=to`.
    pub fn places(from: u64, to: u64) -> Vec<(u8, u64)> {
        tree::canonical(from.saturating_sub(1), to)
    }

    /// The range `from..=to` cut after each of the `sizes` (sorted) that lies
    /// in it. A checkpoint can be checked only where a range ends, so cut at
    /// those that the reader may hold.
    pub fn ranges(from: u64, to: u64, sizes: &[u64]) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        let mut begin = from;
        for end in sizes.iter().copied().filter(|size| *size < to).chain([to]) {
            if begin <= end {
                ranges.push((begin, end));
                begin = end + 1;
            }
        }
        ranges
    }
}

/// That the export is whole. The last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The number of events in it.
    pub events: u64,
    /// The checkpoint's root.
    pub root: Hash,
}

/// One record of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// The first.
    Header(Header<'a>),
    /// A stored message.
    Event(Event<'a>),
    /// A range of positions that is left out.
    Omitted(Omitted),
    /// An earlier signed checkpoint, the whole note, where the tree had its
    /// size.
    Checkpoint(Cow<'a, str>),
    /// The last.
    End(End),
}

/// The file format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Ndjson,
    /// Comma-separated, with a heading. A cell that begins with `=`, `+`,
    /// `-`, `@`, tab, line feed, carriage return or `'` gets a `'` before it,
    /// so that no spreadsheet runs it; the verifier takes it away again.
    Csv,
    /// Apache Parquet, compressed with Snappy.
    Parquet,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Ndjson, Self::Csv, Self::Parquet];

    /// Its name, which is also the file name's extension.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// Its media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// There is no such format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no format {0:?}: use ndjson, csv or parquet")]
pub struct NoSuchFormat(String);

impl FromStr for Format {
    type Err = NoSuchFormat;

    fn from_str(name: &str) -> Result<Self, NoSuchFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| NoSuchFormat(name.to_owned()))
    }
}

/// Writes an export. Memory does not grow with it: NDJSON and CSV keep tens of
/// KiB, Parquet a row group (10,000 records or 16 MiB of them).
pub struct ExportWriter<W: io::Write + Send>(Inner<W>);

enum Inner<W: io::Write + Send> {
    Ndjson(ndjson::Writer<W>),
    Csv(Box<csv::Writer<W>>),
    Parquet(Box<parquet::Writer<W>>),
}

impl<W: io::Write + Send> ExportWriter<W> {
    /// Begins an export. The caller writes the header first and the end last.
    ///
    /// # Errors
    ///
    /// `out` cannot be written to.
    pub fn new(format: Format, out: W) -> io::Result<Self> {
        Ok(Self(match format {
            Format::Ndjson => Inner::Ndjson(ndjson::Writer::new(out)),
            Format::Csv => Inner::Csv(Box::new(csv::Writer::new(out)?)),
            Format::Parquet => Inner::Parquet(Box::new(parquet::Writer::new(out)?)),
        }))
    }

    /// Writes one record.
    ///
    /// # Errors
    ///
    /// `out` cannot be written to, or the header's time is beyond the years 1677 to 2262.
    pub fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        match &mut self.0 {
            Inner::Ndjson(writer) => writer.write(record),
            Inner::Csv(writer) => writer.write(record),
            Inner::Parquet(writer) => writer.write(record),
        }
    }

    /// Writes what is buffered and gives `out` back.
    ///
    /// # Errors
    ///
    /// `out` cannot be written to.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Ndjson(writer) => writer.finish(),
            Inner::Csv(writer) => writer.finish(),
            Inner::Parquet(writer) => writer.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_no_format_can_hold_is_not_written_as_another() {
        let header = Record::Header(Header {
            origin: "exodrive.example/log".into(),
            checkpoint: "".into(),
            from: 1,
            to: 1,
            filters: Vec::new(),
            created_at: DateTime::<Utc>::MAX_UTC,
        });
        for format in Format::ALL {
            let mut out = ExportWriter::new(format, Vec::new()).unwrap();
            assert!(out.write(&header).is_err(), "{}", format.name());
        }
    }
}
