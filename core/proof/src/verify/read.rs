//! Reads a file of any format in chunks of whole records.

use super::{Place, VerifyError};
use crate::export::{CSV_HEADING, FORMAT, ParquetRows, Row};
use csv::StringRecord;
use std::{
    fs::File,
    io::{Read, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// The number of bytes that identify a file's format.
const START: u64 = 4096;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// The longest line that our writer makes: a webhook has at most 1 MiB.
const MAX_LINE: usize = 64 << 20;

/// Records that are not parsed yet.
pub(super) enum Chunk {
    /// Whole lines of NDJSON.
    Lines(Vec<u8>),
    /// Lines of CSV.
    Cells(Vec<StringRecord>),
    /// Rows of Parquet.
    Rows(Vec<Row<'static>>),
    /// The rest of the file cannot be read, for this reason.
    Broken(String),
}

/// A chunk, and its number of bytes in the file.
pub(super) struct Part {
    pub(super) chunk: Chunk,
    pub(super) bytes: u64,
}

/// A file that looks like an export.
pub(super) struct Source {
    pub(super) bytes: u64,
    form: Form,
}

enum Form {
    Lines { file: File, rest: Vec<u8> },
    Cells(Box<csv::Reader<File>>),
    Rows(Box<ParquetRows>),
    Done,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, VerifyError> {
        let unusable = |what: String| VerifyError::Unusable(format!("{}: {what}", path.display()));
        let unreadable = |error: std::io::Error| unusable(format!("cannot be read: {error}"));
        let mut file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        let mut start = Vec::new();
        (&file).take(START).read_to_end(&mut start).map_err(unreadable)?;
        file.rewind().map_err(unreadable)?;
        let form = if start.starts_with(b"{\"object\"") {
            Form::Lines { file, rest: Vec::new() }
        } else if start.starts_with(CSV_HEADING.as_bytes()) {
            let reader = csv::ReaderBuilder::new().buffer_capacity(CHUNK).from_reader(file);
            Form::Cells(Box::new(reader))
        } else if start.starts_with(b"PAR1") {
            Form::Rows(Box::new(guarded(|| ParquetRows::open(file)).map_err(|why| {
                VerifyError::tampered(
                    Place::Whole,
                    format!("the file is cut off or damaged: {why}"),
                )
            })?))
        } else if memchr::memmem::find(&start, FORMAT.as_bytes()).is_some() {
            let reason = "the beginning of the export was changed";
            return Err(VerifyError::tampered(Place::Whole, reason));
        } else {
            return Err(unusable(
                "this is not an export; make one with `exodrive audit export`, and unpack it if it is compressed"
                    .to_owned(),
            ));
        };
        Ok(Self { bytes, form })
    }

    /// The next chunk; None at the end of the file.
    pub(super) fn next(&mut self) -> Option<Part> {
        let part = match &mut self.form {
            Form::Lines { file, rest } => lines(file, rest),
            Form::Cells(reader) => cells(reader),
            Form::Rows(rows) => groups(rows),
            Form::Done => Ok(None),
        };
        let part = part.unwrap_or_else(|why| Some(Part { chunk: Chunk::Broken(why), bytes: 0 }));
        if part.as_ref().is_none_or(|part| matches!(part.chunk, Chunk::Broken(_))) {
            self.form = Form::Done;
        }
        part
    }
}

type Next = Result<Option<Part>, String>;

fn lines(file: &mut File, rest: &mut Vec<u8>) -> Next {
    let mut lines = Vec::with_capacity(rest.len() + CHUNK);
    lines.append(rest);
    loop {
        let read = file
            .take(CHUNK as u64)
            .read_to_end(&mut lines)
            .map_err(|error| format!("the file cannot be read further: {error}"))?;
        if lines.is_empty() {
            return Ok(None);
        }
        if read == 0 {
            return Err("the file is cut off in the middle of a line".to_owned());
        }
        if let Some(end) = memchr::memrchr(b'\n', &lines) {
            *rest = lines.split_off(end + 1);
            let bytes = lines.len() as u64;
            return Ok(Some(Part { chunk: Chunk::Lines(lines), bytes }));
        }
        if lines.len() > MAX_LINE {
            return Err("a line is longer than any of an export".to_owned());
        }
    }
}

fn cells(reader: &mut csv::Reader<File>) -> Next {
    let from = reader.position().byte();
    let mut cells = Vec::new();
    let mut done = false;
    while !done && reader.position().byte() - from < CHUNK as u64 {
        let mut record = StringRecord::new();
        done = !reader.read_record(&mut record).map_err(|error| error.to_string())?;
        if !done {
            cells.push(record);
        }
    }
    let bytes = reader.position().byte() - from;
    Ok((!cells.is_empty()).then_some(Part { chunk: Chunk::Cells(cells), bytes }))
}

fn groups(rows: &mut ParquetRows) -> Next {
    let bytes = rows.group_bytes();
    let group = guarded(|| rows.next_group().transpose())?;
    Ok(group.map(|rows| Part { chunk: Chunk::Rows(rows), bytes }))
}

/// The library for Parquet may panic on a file that was changed on purpose.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("its structure is damaged".to_owned()))
}
