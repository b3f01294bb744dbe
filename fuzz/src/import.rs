//! Tables of an import: a strict reader reads what every reader of CSV reads, or refuses the file,
//! and each row has one fate.

#[allow(dead_code, unreachable_pub, reason = "a file of another crate")]
#[path = "../../commands/src/import/csv.rs"]
mod csv;
#[allow(
    dead_code,
    unreachable_pub,
    unfulfilled_lint_expectations,
    reason = "a file of another crate"
)]
#[path = "../../commands/src/import/tables.rs"]
mod tables;

use self::csv::{Reader, Record};
use std::collections::BTreeSet;
use tables::Tables;

pub(crate) fn holds(input: &[u8]) -> bool {
    let read: Result<Vec<Record>, _> = Reader::new(input).collect();
    if let Ok(records) = &read {
        let cells = |records: &[Record]| -> Vec<Vec<Vec<u8>>> {
            records.iter().map(|record| record.cells.clone()).collect()
        };
        assert_eq!(cells(records), by_another_reader(input));
        let written = written(records);
        let again: Vec<_> = Reader::new(&written).map(|record| record.expect("our own")).collect();
        assert_eq!(cells(&again), cells(records));
        let lines = records.windows(2).all(|pair| pair[0].end < pair[1].line);
        assert!(lines, "records begin after the one before has ended");
    }
    let tables = Tables::parse(&[("car_additional_fees.csv", input)]);
    let taken = tables.car_additional_fees.len();
    assert_eq!(taken + tables.problems.len(), tables.rows.len(), "a row is taken or refused");
    let places: BTreeSet<_> = tables.rows.iter().map(|(row, _)| *row).collect();
    assert_eq!(places.len(), tables.rows.len(), "a row is counted once");
    match &read {
        Ok(records) if tables.broken.is_empty() => {
            assert_eq!(tables.rows.len(), records.len() - 1, "all but the header are rows");
        }
        Ok(_) => {}
        Err(_) => assert!(!tables.broken.is_empty(), "a broken file is refused whole"),
    }
    assert!(tables.broken.is_empty() || taken == 0, "of a broken file nothing is taken");
    let keys: BTreeSet<_> = tables.car_additional_fees.iter().map(|row| &row.key).collect();
    assert_eq!(keys.len(), taken, "no two rows have one id");
    taken > 0
}

fn by_another_reader(input: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut reader = ::csv::ReaderBuilder::new();
    let mut reader = reader.has_headers(false).flexible(true).from_reader(input);
    let cells = |record: ::csv::ByteRecord| record.iter().map(<[u8]>::to_vec).collect();
    reader.byte_records().map(|record| cells(record.expect("bytes in memory"))).collect()
}

fn written(records: &[Record]) -> Vec<u8> {
    let mut writer = ::csv::WriterBuilder::new();
    let style = ::csv::QuoteStyle::Always;
    let mut writer = writer.flexible(true).quote_style(style).from_writer(Vec::new());
    for record in records {
        writer.write_record(&record.cells).expect("bytes in memory");
    }
    writer.into_inner().expect("bytes in memory")
}
