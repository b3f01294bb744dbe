//! The tables of the present product as CSV. Every row is read by itself: a row
//! that cannot be read is refused, and the others are taken. A file in which it
//! cannot be told what its rows or columns are is refused whole.

use super::csv::{Reader, Record};
use serde::Serialize;
use std::{
    collections::{HashMap, hash_map::Entry},
    fs, io,
    path::Path,
};
use uuid::Uuid;

/// The longest row, in bytes. An event has to fit into one message.
const LONGEST_ROW: usize = 256 * 1024;
/// The longest id, in bytes: it becomes a part of an event's id.
const LONGEST_ID: usize = 100;

/// A place in a table, and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The table.
    pub table: &'static str,
    /// The line of the file that the row begins at.
    pub line: u64,
    /// The row's id; empty if it cannot be read.
    pub id: String,
    /// Reason, for people.
    pub why: String,
}

impl Problem {
    /// The row.
    pub(super) fn row(&self) -> RowRef {
        RowRef { table: self.table, line: self.line }
    }
}

/// A row, the line that it begins at, and its id for comparisons.
#[derive(Clone, Debug)]
pub struct Row<T> {
    /// The line.
    pub line: u64,
    /// The id as [`key`] gives it.
    pub key: String,
    /// The columns.
    pub columns: T,
}

/// A row by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRef {
    /// The table.
    pub table: &'static str,
    /// The line that the row begins at.
    pub line: u64,
}

/// An id in the form in which ids are compared: capitals, outer spaces and the
/// spelling of a UUID make no difference.
pub(super) fn key(id: &str) -> String {
    let id = id.trim();
    Uuid::try_parse(id).map_or_else(|_| id.to_ascii_lowercase(), |uuid| uuid.to_string())
}

/// The columns of a table.
trait Columns: Sized {
    const REQUIRED: &'static [&'static str];
    const OPTIONAL: &'static [&'static str];

    /// Makes a row of its cells: `cell` gives the text of a column, which is
    /// empty if the file lacks it.
    fn of(cell: impl FnMut(&str) -> String) -> Self;

    fn id(&self) -> &str;
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $field:ident $name:ident { $($required:ident),* ; $($optional:ident),* })*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, Serialize)]
            pub struct $name {
                $(pub $required: String,)*
                $(pub $optional: Option<String>,)*
            }

            impl Columns for $name {
                const REQUIRED: &'static [&'static str] = &[$(stringify!($required)),*];
                const OPTIONAL: &'static [&'static str] = &[$(stringify!($optional)),*];

                fn of(mut cell: impl FnMut(&str) -> String) -> Self {
                    Self {
                        $($required: cell(stringify!($required)),)*
                        $($optional: Some(cell(stringify!($optional))).filter(|it| !it.is_empty()),)*
                    }
                }

                fn id(&self) -> &str {
                    &self.id
                }
            }
        )*

        /// Every table.
        #[derive(Clone, Debug, Default)]
        #[expect(missing_docs, reason = "the present product's tables")]
        pub struct Tables {
            $(pub $field: Vec<Row<$name>>,)*
            /// Every row of every file, whether it can be read or not, with its
            /// id if that can be read.
            pub(super) rows: Vec<(RowRef, String)>,
            /// Rows that cannot be read.
            pub problems: Vec<Problem>,
            /// Files that are refused whole, with the line to look at.
            pub broken: Vec<Problem>,
            /// Columns that no import reads, as `<table>.<column>`.
            pub ignored_columns: Vec<String>,
            /// Files that do not exist.
            pub missing: Vec<String>,
        }

        impl Tables {
            /// Name of each table.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// Reads the files of a folder, `<table>.csv` each.
            ///
            /// # Errors
            /// When a file cannot be read. A file that does not exist is an
            /// empty table.
            pub fn read_folder(folder: &Path) -> io::Result<Self> {
                let mut tables = Self::default();
                for name in Self::NAMES {
                    let file = format!("{name}.csv");
                    match fs::read(folder.join(&file)) {
                        Ok(bytes) => tables.read(name, &bytes),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            tables.missing.push(file);
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(tables)
            }

            fn read(&mut self, table: &str, bytes: &[u8]) {
                match table {
                    $(stringify!($field) => {
                        self.$field = self.read_table(stringify!($field), bytes);
                    })*
                    _ => {}
                }
            }
        }
    };
}

tables! {
    /// A car.
    cars CarColumns { id, slug, name, category; description, short_description, available, featured, hidden, created_at }
    /// The price of a car.
    car_pricing PricingColumns { id, car_id, base_price; currency, discount_percentage, special_offer_text, deposit_amount, minimum_days }
    /// A fee.
    car_additional_fees FeeColumns { id, car_id, name, amount; is_optional }
    /// An image.
    car_images ImageColumns { id, car_id, url; alt, is_primary, sort_order }
    /// A specification.
    car_specifications SpecificationColumns { id, car_id, name; value, is_highlighted }
    /// A feature of a car.
    car_features FeatureColumns { id, car_id, name; description, is_highlighted }
    /// A day of a car.
    car_availability DayColumns { id, car_id, date, status; booking_id }
    /// A customer.
    customers CustomerColumns { id, email; first_name, last_name, phone, user_id }
    /// A booking.
    bookings BookingColumns { id, car_id, customer_id, start_date, end_date, total_price, overall_status; currency, security_deposit_amount, payment_status, contract_status, notes, created_at }
    /// An event of a booking.
    booking_events EventColumns { id, booking_id, event_type, timestamp; actor_type, actor_id, actor_name, details, summary_text }
    /// An email with its last event.
    inbox_emails EmailColumns { id, resend_email_id, last_event_type; last_event_at, created_at, recipient_email, sender_email, subject, booking_id, tags, bounce_type, bounce_description, opened_at, clicked_at, raw_payload }
}

impl Tables {
    /// Reads tables that are in memory: pairs of file name (`<table>.csv`) and
    /// CSV.
    pub fn parse(files: &[(&str, &[u8])]) -> Self {
        let mut tables = Self::default();
        for (file, bytes) in files {
            tables.read(file.trim_end_matches(".csv"), bytes);
        }
        tables
    }

    /// Reads a table. What cannot be read is noted in `self`.
    fn read_table<T: Columns>(&mut self, table: &'static str, bytes: &[u8]) -> Vec<Row<T>> {
        let mut reader = Reader::new(bytes);
        let (mut records, mut unread) = (Vec::new(), Vec::new());
        let mut header = match reader.next() {
            Some(Ok(record)) => Header::of::<T>(&record).map_err(|why| (record.line, why)),
            Some(Err(broken)) => {
                // The first of these lines is the header, which is no row.
                unread.extend(broken.unread.into_iter().skip(1));
                Err((broken.line, broken.why))
            }
            None => Err((1, "is empty: it has not even a header".to_owned())),
        };
        for next in reader {
            match next {
                Ok(record) => records.push(record),
                Err(broken) => {
                    unread = broken.unread;
                    header = header.and(Err((broken.line, broken.why)));
                }
            }
        }
        let header =
            header.and_then(|header| match records.iter().find_map(|it| header.swallowed(it)) {
                Some(swallowed) => Err(swallowed),
                None => Ok(header),
            });
        let header = match header {
            Ok(header) => header,
            Err((line, why)) => {
                let refused = format!("was not read: {table}.csv is broken at line {line}");
                for line in records.iter().flat_map(|it| it.lines(line)).chain(unread) {
                    self.refuse(RowRef { table, line }, String::new(), refused.clone());
                }
                self.broken.push(Problem { table, line, id: String::new(), why });
                return Vec::new();
            }
        };
        self.ignored_columns.extend(header.ignored.iter().map(|name| format!("{table}.{name}")));
        let mut seen = HashMap::new();
        let mut rows = Vec::new();
        for record in records {
            let row = RowRef { table, line: record.line };
            match read_row(&header, record, &mut seen) {
                Ok(read) => {
                    let read: Row<T> = read;
                    self.rows.push((row, read.columns.id().to_owned()));
                    rows.push(read);
                }
                Err((id, why)) => self.refuse(row, id, why),
            }
        }
        rows
    }

    fn refuse(&mut self, row: RowRef, id: String, why: String) {
        self.rows.push((row, id.clone()));
        self.problems.push(Problem { table: row.table, line: row.line, id, why });
    }
}

/// The header of a file.
struct Header {
    /// Place of each column.
    places: HashMap<String, usize>,
    /// Number of columns.
    width: usize,
    /// Columns that are not read.
    ignored: Vec<String>,
}

impl Header {
    /// Capitals and outer spaces in names make no difference.
    fn of<T: Columns>(record: &Record) -> Result<Self, String> {
        let mut places = HashMap::new();
        let mut ignored = Vec::new();
        for (place, name) in record.cells.iter().enumerate() {
            let name = str::from_utf8(name).map_err(|_| NOT_UTF8.to_owned())?;
            let name = name.trim().to_ascii_lowercase();
            if !T::REQUIRED.iter().chain(T::OPTIONAL).any(|it| *it == name) {
                ignored.push(name);
            } else if places.insert(name.clone(), place).is_some() {
                return Err(format!("the header has the column {name} twice"));
            }
        }
        let lacking: Vec<_> =
            T::REQUIRED.iter().copied().filter(|it| !places.contains_key(*it)).collect();
        if !lacking.is_empty() {
            return Err(format!("the header lacks the column {}", lacking.join(", ")));
        }
        Ok(Self { places, width: record.cells.len(), ignored })
    }

    /// Finds a cell that holds the text of another row, as two quotes too many
    /// in different rows make it. Returns the line of the cell's row and what is
    /// wrong. Only ids that are UUIDs give such a row away.
    fn swallowed(&self, record: &Record) -> Option<(u64, String)> {
        let is_row = |line: &[u8]| {
            let cells: Vec<_> = line.split(|byte| *byte == b',').collect();
            let id = self.places.get("id").and_then(|place| cells.get(*place));
            cells.len() == self.width && id.is_some_and(|id| Uuid::try_parse_ascii(id).is_ok())
        };
        let lines =
            |cell: &Vec<u8>| cell.split(|byte| matches!(byte, b'\n' | b'\r')).skip(1).any(is_row);
        record.cells.iter().any(lines).then(|| {
            let why = "a cell in quotes holds the text of another row: a quote is missing or too \
                       many";
            (record.line, why.to_owned())
        })
    }
}

const NOT_UTF8: &str = "is not UTF-8 text: export the table as UTF-8";

/// Reads a row. `seen` holds the line of each id before it.
///
/// # Errors
/// The row's id, if it can be read, and what is wrong with the row.
fn read_row<T: Columns>(
    header: &Header,
    record: Record,
    seen: &mut HashMap<String, u64>,
) -> Result<Row<T>, (String, String)> {
    let Record { line, cells, length, .. } = record;
    let count = cells.len();
    let mut cells: Vec<_> = cells.into_iter().map(String::from_utf8).collect();
    let id = header.places.get("id").and_then(|place| cells.get(*place)?.as_ref().ok());
    let id = id.map_or("", |id| id.trim());
    let id = if is_id(id) { id.to_owned() } else { String::new() };
    let fault = |why: String| Err((id.clone(), why));
    if length > LONGEST_ROW {
        return fault(format!("is longer than {} KiB", LONGEST_ROW / 1024));
    }
    if cells.iter().any(Result::is_err) {
        return fault(NOT_UTF8.to_owned());
    }
    if cells.iter().flatten().any(|cell| cell.contains('\0')) {
        return fault("has a NUL character".to_owned());
    }
    if count != header.width {
        return fault(format!("has {count} fields, the header has {}", header.width));
    }
    if id.is_empty() {
        return fault(format!("id must be 1 to {LONGEST_ID} ASCII letters, digits or marks"));
    }
    let key = key(&id);
    match seen.entry(key.clone()) {
        Entry::Occupied(first) => return fault(format!("line {} has the same id", first.get())),
        Entry::Vacant(free) => free.insert(line),
    };
    let cell = |name: &str| {
        let cell = header.places.get(name).and_then(|place| cells.get_mut(*place)?.as_mut().ok());
        cell.map_or_else(String::new, std::mem::take)
    };
    Ok(Row { line, key, columns: T::of(cell) })
}

/// True if an event's id and a line of the report can have it as a part.
pub(super) fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "id,car_id,name,amount\n";

    fn fees(csv: &[u8]) -> Tables {
        Tables::parse(&[("car_additional_fees.csv", csv)])
    }

    /// Line, id and reason of each refused row.
    fn refused(tables: &Tables) -> Vec<(u64, &str, &str)> {
        tables.problems.iter().map(|it| (it.line, it.id.as_str(), it.why.as_str())).collect()
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named_and_the_others_are_taken() {
        let csv = format!("{HEADER}1,c,\"Clean,\nand wash\",9.00\n2,c\n3,c,Seat,5.00\n4,c,a,1,b\n");
        let mut csv = csv.into_bytes();
        csv.extend(b"5,c,\xff,1\n6,c,a\0b,1\n,c,no id,1\n7 7,c,a space,1\n");
        csv.extend(format!("8,c,{},1\n", "x".repeat(LONGEST_ROW)).bytes());
        let tables = fees(&csv);
        let names: Vec<_> =
            tables.car_additional_fees.iter().map(|it| it.columns.name.as_str()).collect();
        assert_eq!(names, ["Clean,\nand wash", "Seat"]);
        let id = "id must be 1 to 100 ASCII letters, digits or marks";
        let expected = [
            (4, "2", "has 2 fields, the header has 4"),
            (6, "4", "has 5 fields, the header has 4"),
            (7, "5", NOT_UTF8),
            (8, "6", "has a NUL character"),
            (9, "", id),
            (10, "", id),
            (11, "8", "is longer than 256 KiB"),
        ];
        assert_eq!(refused(&tables), expected);
        assert_eq!(tables.rows.len(), 9);
        assert!(tables.broken.is_empty());
    }

    #[test]
    fn of_rows_with_one_id_the_first_is_read() {
        let upper = "0198F3A6-C1F0-7D5A-B0C4-A2F3E1D2C3B4";
        let plain = upper.to_lowercase().replace('-', "");
        let csv = format!("{HEADER}{upper},c,a,1\n{plain},c,b,1\nx,c,c,1\n X ,c,d,1\nx,c,c,1\n");
        let tables = fees(csv.as_bytes());
        let read: Vec<_> = tables.car_additional_fees.iter().map(|it| it.line).collect();
        assert_eq!(read, [2, 4]);
        let expected = [
            (3, plain.as_str(), "line 2 has the same id"),
            (5, "X", "line 4 has the same id"),
            (6, "x", "line 4 has the same id"),
        ];
        assert_eq!(refused(&tables), expected);
    }

    #[test]
    fn no_row_of_a_broken_file_is_read_and_each_is_refused() {
        let csv = format!("{HEADER}1,c,\"a\nb\",1\n2,c,b,\"1\n3,c,c,1\n\n4,c,d,1\n");
        let tables = fees(csv.as_bytes());
        assert!(tables.car_additional_fees.is_empty());
        let lines: Vec<_> = refused(&tables).into_iter().map(|it| it.0).collect();
        assert_eq!(lines, [2, 4, 5, 7]);
        assert_eq!(
            tables.problems[0].why,
            "was not read: car_additional_fees.csv is broken at line 4"
        );
        assert_eq!((tables.broken.len(), tables.broken[0].line), (1, 4));
        assert!(tables.broken[0].why.contains("never closed"));
    }

    #[test]
    fn rows_in_a_cell_of_another_row_are_found() {
        // Two lone quotes: this is CSV by the letter, with one row less.
        let id = |n: u8| format!("0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b{n}");
        let csv = format!(
            "id,car_id,name,amount,note\n{},c,a,1,\"\n{},c,b,1,\n{},c,c,1,\"\n{},c,d,1,\n",
            id(1),
            id(2),
            id(3),
            id(4),
        );
        let tables = fees(csv.as_bytes());
        assert!(tables.car_additional_fees.is_empty());
        let lines: Vec<_> = refused(&tables).into_iter().map(|it| it.0).collect();
        assert_eq!((tables.broken[0].line, lines.as_slice()), (2, [2, 3, 4, 5].as_slice()));
        let listed = csv.replace(&id(2), "one, two").replace(&id(3), "a list of");
        assert!(fees(listed.as_bytes()).broken.is_empty());
    }

    #[test]
    fn a_header_is_understood_or_its_file_is_refused() {
        let good = "\u{feff}ID , Car_Id,name,amount,extra\r\n1,c,a,1,e\r\n";
        let tables = fees(good.as_bytes());
        assert_eq!(tables.car_additional_fees[0].columns.car_id, "c");
        assert_eq!(tables.ignored_columns, ["car_additional_fees.extra"]);
        for (csv, why) in [
            ("", "is empty"),
            ("\n\n", "is empty"),
            ("id,car_id,amount\n1,c,1\n2,c,1\n", "lacks the column name"),
            ("id;car_id;name;amount\n1;c;a;1\n2;c;a;1\n", "lacks the column id, car_id, name"),
            ("id,car_id,name,amount,Name\n1,c,a,1,b\n2,c,a,1,b\n", "the column name twice"),
            ("\"id,car_id,name,amount\n1,c,a,1\n2,c,a,1\n", "never closed"),
        ] {
            let tables = fees(csv.as_bytes());
            assert!(tables.broken[0].why.contains(why), "{csv:?}: {}", tables.broken[0].why);
            let rows = if csv.len() > 2 { 2 } else { 0 };
            assert_eq!((tables.rows.len(), tables.problems.len()), (rows, rows), "{csv:?}");
        }
        let utf16: Vec<u8> = HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let utf16 = [b"\xff\xfe".as_slice(), &utf16].concat();
        assert!(fees(&utf16).broken[0].why.contains("UTF-8"));
        let alone = fees(HEADER.as_bytes());
        assert!(alone.broken.is_empty() && alone.rows.is_empty());
    }
}
