//! CSV: a heading and rows, safe to open in a spreadsheet.

use super::{COLUMNS, Flaw, Record, row::Row, text};
use csv::StringRecord;
use std::{borrow::Cow, io};

/// The first line of a CSV export.
pub(crate) const HEADING: &str =
    "object,position,until,stored_at,subject,headers,body,leaf_hash,content,note";

/// Characters that begin a formula in a spreadsheet. The apostrophe is in the
/// list so that a cell's own apostrophe differs from the guard's.
const DANGEROUS: [char; 8] = ['=', '+', '-', '@', '\t', '\r', '\n', '\''];

pub(super) struct Writer<W: io::Write> {
    out: csv::Writer<W>,
}

impl<W: io::Write> Writer<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut out = csv::WriterBuilder::new().buffer_capacity(1 << 16).from_writer(out);
        out.write_record(COLUMNS)?;
        Ok(Self { out })
    }

    pub(super) fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let row = Row::of(record)?;
        // The cell of a column that an object does not use is empty.
        let number = |it: Option<u64>| it.map_or_else(String::new, |it| it.to_string());
        self.out.write_field(row.object.as_ref())?;
        self.out.write_field(number(row.position))?;
        self.out.write_field(number(row.until))?;
        self.out.write_field(row.stored_at.map_or_else(String::new, text::time))?;
        self.field(row.subject)?;
        self.field(row.headers)?;
        let mut body = Vec::new();
        if let Some(plain) = row.body {
            text::push_base64(&plain, &mut body);
        }
        if body.first() == Some(&b'+') {
            body.insert(0, b'\'');
        }
        self.out.write_field(body)?;
        self.field(row.leaf_hash)?;
        self.field(row.content)?;
        self.field(row.note)?;
        Ok(self.out.write_record(None::<&[u8]>)?)
    }

    fn field(&mut self, text: Option<Cow<'_, str>>) -> io::Result<()> {
        Ok(self.out.write_field(text.map_or(Cow::Borrowed(""), guarded).as_ref())?)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        self.out.into_inner().map_err(|error| io::Error::other(error.to_string()))
    }
}

fn guarded(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.starts_with(DANGEROUS) { Cow::Owned(format!("'{text}")) } else { text }
}

/// The cell's text; `None` if our writer would spell it otherwise.
fn unguarded(cell: &str) -> Option<&str> {
    match cell.strip_prefix('\'') {
        Some(text) => text.starts_with(DANGEROUS).then_some(text),
        None => (!cell.starts_with(DANGEROUS)).then_some(cell),
    }
}

/// The record of a line.
pub(crate) fn parse_record(line: &StringRecord) -> Result<Record<'_>, Flaw> {
    row(line)?.into_record()
}

fn row(line: &StringRecord) -> Result<Row<'_>, String> {
    if line.len() != COLUMNS.len() {
        return Err(format!("{} columns, not {}", line.len(), COLUMNS.len()));
    }
    let cell = |column: usize| {
        let name = COLUMNS[column];
        let cell = line.get(column).ok_or_else(|| format!("{name}: missing"))?;
        let text =
            unguarded(cell).ok_or_else(|| format!("{name}: an apostrophe too many or too few"))?;
        Ok::<_, String>(Some(text).filter(|text| !text.is_empty()))
    };
    let number = |column: usize| {
        let number = |text: &str| {
            let number: u64 = text.parse().ok()?;
            (number.to_string() == text).then_some(number)
        };
        let parse = |text| number(text).ok_or_else(|| format!("{}: no number", COLUMNS[column]));
        cell(column)?.map(parse).transpose()
    };
    let time = |text| text::parse_time(text).ok_or("stored_at: no time in nanoseconds and UTC");
    let bytes = |text| text::parse_bytes(text).ok_or("body: not base64");
    let text = |column| Ok::<_, String>(cell(column)?.map(Cow::Borrowed));
    Ok(Row {
        object: text(0)?.ok_or("object: missing")?,
        position: number(1)?,
        until: number(2)?,
        stored_at: cell(3)?.map(time).transpose()?,
        subject: text(4)?,
        headers: text(5)?,
        body: cell(6)?.map(bytes).transpose()?.map(Cow::Owned),
        leaf_hash: text(7)?,
        content: text(8)?,
        note: text(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_every_cell_survives() {
        for text in ["=1+1", "+1", "-1", "@a", "\tx", "\rx", "\nx", "'", "'=1", "a'b", "", "1"] {
            let cell = guarded(Cow::Borrowed(text));
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']), "{cell:?}");
            assert_eq!(unguarded(&cell), Some(text));
        }
        assert_eq!(unguarded("'a"), None);
        assert_eq!(unguarded("=1"), None);
        assert_eq!(HEADING, COLUMNS.join(","));
    }
}
