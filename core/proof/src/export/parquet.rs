//! Parquet: the columns of CSV, typed where Parquet has a type.

use super::{
    COLUMNS, Record,
    row::{self, Row},
};
use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical},
    column::{reader::ColumnReader, writer::ColumnWriter},
    data_type::ByteArray,
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
        reader::{FileReader, SerializedFileReader},
        writer::SerializedFileWriter,
    },
    schema::types::{Type, TypePtr},
};
use std::{borrow::Cow, fs::File, io, sync::Arc};

/// A row group has at most this number of records …
const GROUP_RECORDS: usize = 10_000;
/// … and, except for one record, this number of bytes of bodies, contents and
/// notes.
const GROUP_BYTES: usize = 16 << 20;

fn schema() -> Result<TypePtr, ParquetError> {
    let column = |name: &&str| {
        let required = *name == "object";
        let (physical, logical) = match *name {
            "position" | "until" => (Physical::INT64, None),
            "stored_at" => {
                let logical = LogicalType::timestamp(true, TimeUnit::NANOS);
                (Physical::INT64, Some(logical))
            }
            "body" => (Physical::BYTE_ARRAY, None),
            _ => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let repetition = if required { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        Type::primitive_type_builder(name, physical)
            .with_logical_type(logical)
            .with_repetition(repetition)
            .build()
            .map(Arc::new)
    };
    let columns = COLUMNS.iter().map(column).collect::<Result<_, _>>()?;
    Ok(Arc::new(Type::group_type_builder("exodrive_export").with_fields(columns).build()?))
}

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

pub(super) struct Writer<W: io::Write + Send> {
    out: SerializedFileWriter<W>,
    rows: Vec<Row<'static>>,
    bytes: usize,
}

impl<W: io::Write + Send> Writer<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("exodrive".to_owned());
        // Values that differ in every row gain nothing from a dictionary or from
        // statistics.
        for column in ["body", "leaf_hash", "content", "note"] {
            properties = properties
                .set_column_dictionary_enabled(column.into(), false)
                .set_column_statistics_enabled(column.into(), EnabledStatistics::None);
        }
        let schema = schema().map_err(failed)?;
        let out = SerializedFileWriter::new(out, schema, Arc::new(properties.build()));
        Ok(Self { out: out.map_err(failed)?, rows: Vec::new(), bytes: 0 })
    }

    pub(super) fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        if let Record::Header(header) = record {
            let checkpoint = Some(header.checkpoint.clone().into_owned());
            let pair = KeyValue::new("exodrive.checkpoint".to_owned(), checkpoint);
            self.out.append_key_value_metadata(pair);
        }
        let row = row::owned(Row::of(record)?);
        let text = |it: &Option<Cow<'_, str>>| it.as_ref().map_or(0, |it| it.len());
        self.bytes += row.body.as_ref().map_or(0, |it| it.len());
        self.bytes += text(&row.headers) + text(&row.content) + text(&row.note);
        self.rows.push(row);
        if self.rows.len() >= GROUP_RECORDS || self.bytes >= GROUP_BYTES {
            self.write_group().map_err(failed)?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let mut group = self.out.next_row_group()?;
        for name in COLUMNS {
            let Some(mut column) = group.next_column()? else { break };
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let values = rows.iter().map(|row| number(row, name));
                    let (values, levels) = present(values);
                    writer.write_batch(&values, Some(&levels), None)?;
                }
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let values = rows.iter().map(|row| bytes(row, name).map(ByteArray::from));
                    let (values, levels) = present(values);
                    let levels = (name != "object").then_some(levels.as_slice());
                    writer.write_batch(&values, levels, None)?;
                }
                _ => return Err(ParquetError::General(format!("{name} has no writer"))),
            }
            column.close()?;
        }
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_group().map_err(failed)?;
        self.out.into_inner().map_err(failed)
    }
}

/// The values that are present, and for every row 1 if it has a value, else 0.
fn present<T>(values: impl Iterator<Item = Option<T>>) -> (Vec<T>, Vec<i16>) {
    let mut levels = Vec::new();
    let values =
        values.inspect(|value| levels.push(i16::from(value.is_some()))).flatten().collect();
    (values, levels)
}

/// Positions are far below 2^63.
fn number(row: &Row<'_>, column: &str) -> Option<i64> {
    match column {
        "position" => row.position.map(u64::cast_signed),
        "until" => row.until.map(u64::cast_signed),
        _ => row.stored_at,
    }
}

fn bytes<'a>(row: &'a Row<'_>, column: &str) -> Option<&'a [u8]> {
    let text = match column {
        "object" => return Some(row.object.as_bytes()),
        "body" => return row.body.as_deref(),
        "subject" => &row.subject,
        "headers" => &row.headers,
        "leaf_hash" => &row.leaf_hash,
        "content" => &row.content,
        _ => &row.note,
    };
    text.as_deref().map(str::as_bytes)
}

/// Reads the rows of a file, a row group at a time.
pub(crate) struct Rows {
    file: SerializedFileReader<File>,
    next: usize,
}

impl Rows {
    /// # Errors
    ///
    /// It is not Parquet, or has other columns; the text describes the fault.
    pub(crate) fn open(file: File) -> Result<Self, String> {
        let file = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
        let expected = schema().map_err(|error| error.to_string())?;
        let found = file.metadata().file_metadata().schema();
        if found.get_fields() != expected.get_fields() {
            return Err("its columns are not those of an export".to_owned());
        }
        Ok(Self { file, next: 0 })
    }

    /// The number of bytes that the next group takes in the file.
    pub(crate) fn group_bytes(&self) -> u64 {
        let groups = self.file.metadata().row_groups();
        groups.get(self.next).map_or(0, |group| group.compressed_size().max(0).cast_unsigned())
    }

    /// The rows of the next group. Their number is at most that of a group of
    /// our own writer.
    pub(crate) fn next_group(&mut self) -> Option<Result<Vec<Row<'static>>, String>> {
        (self.next < self.file.num_row_groups()).then(|| {
            self.next += 1;
            self.group(self.next - 1).map_err(|error| error.to_string())
        })
    }

    fn group(&self, index: usize) -> Result<Vec<Row<'static>>, ParquetError> {
        let general = |text: &str| ParquetError::General(text.to_owned());
        let group = self.file.get_row_group(index)?;
        let count = usize::try_from(group.metadata().num_rows()).unwrap_or(usize::MAX);
        if count > GROUP_RECORDS {
            return Err(general("a row group is larger than those of an export"));
        }
        let mut rows = vec![Row::default(); count];
        for (column, name) in COLUMNS.into_iter().enumerate() {
            let mut levels = Vec::new();
            let short = || general("a column is shorter than its row group");
            match group.get_column_reader(column)? {
                ColumnReader::Int64ColumnReader(mut reader) => {
                    let mut values = Vec::new();
                    reader.read_records(count + 1, Some(&mut levels), None, &mut values)?;
                    spread(&mut rows, &levels, values, |row, value| set_number(row, name, value))
                        .ok_or_else(short)?;
                }
                ColumnReader::ByteArrayColumnReader(mut reader) => {
                    let mut values = Vec::new();
                    let optional = (name != "object").then_some(&mut levels);
                    reader.read_records(count + 1, optional, None, &mut values)?;
                    if name == "object" {
                        levels = vec![1; values.len()];
                    }
                    let mut utf8 = true;
                    spread(&mut rows, &levels, values, |row, value| {
                        utf8 &= set_bytes(row, name, value.data()).is_some();
                    })
                    .ok_or_else(short)?;
                    if !utf8 {
                        return Err(general("a text is not UTF-8"));
                    }
                }
                _ => return Err(general("a column has another type")),
            }
        }
        Ok(rows)
    }
}

/// Gives every row its value. `None` if the numbers of rows and values differ.
fn spread<T>(
    rows: &mut [Row<'static>],
    levels: &[i16],
    values: Vec<T>,
    mut set: impl FnMut(&mut Row<'static>, T),
) -> Option<()> {
    if levels.len() != rows.len() {
        return None;
    }
    let mut values = values.into_iter();
    for (row, level) in rows.iter_mut().zip(levels) {
        if *level != 0 {
            set(row, values.next()?);
        }
    }
    values.next().is_none().then_some(())
}

fn set_number(row: &mut Row<'static>, column: &str, value: i64) {
    match column {
        "position" => row.position = Some(value.cast_unsigned()),
        "until" => row.until = Some(value.cast_unsigned()),
        _ => row.stored_at = Some(value),
    }
}

fn set_bytes(row: &mut Row<'static>, column: &str, value: &[u8]) -> Option<()> {
    if column == "body" {
        row.body = Some(Cow::Owned(value.to_vec()));
        return Some(());
    }
    let text = Cow::Owned(std::str::from_utf8(value).ok()?.to_owned());
    match column {
        "object" => row.object = text,
        "subject" => row.subject = Some(text),
        "headers" => row.headers = Some(text),
        "leaf_hash" => row.leaf_hash = Some(text),
        "content" => row.content = Some(text),
        _ => row.note = Some(text),
    }
    Some(())
}
