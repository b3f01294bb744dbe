//! The tables of the present product as CSV. Every row is read by itself: a row
//! that cannot be read is reported, and the others are taken.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fs::File, io, path::Path};

/// A row that was not taken, or was taken with other values than it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The table.
    pub table: String,
    /// The line of the file that the row begins at.
    pub line: u64,
    /// The row's id.
    pub id: String,
    /// Reason, for people.
    pub why: String,
}

/// A row, and the line that it begins at.
#[derive(Clone, Debug)]
pub struct Row<T> {
    /// The line.
    pub line: u64,
    /// The columns.
    pub columns: T,
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $field:ident $name:ident { $($required:ident),* ; $($optional:ident),* })*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, Deserialize, Serialize)]
            pub struct $name {
                $(pub $required: String,)*
                $(#[serde(default)] pub $optional: Option<String>,)*
            }
        )*

        /// Every table.
        #[derive(Clone, Debug, Default)]
        #[expect(missing_docs, reason = "the present product's tables")]
        pub struct Tables {
            $(pub $field: Vec<Row<$name>>,)*
            /// Rows that cannot be read.
            pub problems: Vec<Problem>,
            /// Files that do not exist.
            pub missing: Vec<String>,
        }

        impl Tables {
            /// Reads the files of a folder, `<table>.csv` each.
            ///
            /// # Errors
            /// When a file cannot be read. A file that does not exist is an
            /// empty table.
            pub fn read_folder(folder: &Path) -> io::Result<Self> {
                let mut tables = Self::default();
                $(
                    let name = stringify!($field);
                    match File::open(folder.join(format!("{name}.csv"))) {
                        Ok(file) => tables.$field = read_table(name, file, &mut tables.problems)?,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            tables.missing.push(format!("{name}.csv"));
                        }
                        Err(error) => return Err(error),
                    }
                )*
                Ok(tables)
            }

            /// Reads tables that are in memory: pairs of table name and CSV.
            ///
            /// # Errors
            /// Never in practice: what is in memory can be read.
            pub fn parse(files: &[(&str, &[u8])]) -> io::Result<Self> {
                let mut tables = Self::default();
                for (file, bytes) in files {
                    $(
                        if *file == concat!(stringify!($field), ".csv") {
                            tables.$field = read_table(stringify!($field), *bytes, &mut tables.problems)?;
                        }
                    )*
                }
                Ok(tables)
            }

            /// Number of rows of each table, including those that cannot be
            /// read.
            pub fn counts(&self) -> Vec<(&'static str, usize)> {
                let unread = |table: &str| self.problems.iter().filter(|it| it.table == table).count();
                vec![$((stringify!($field), self.$field.len() + unread(stringify!($field))),)*]
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

fn read_table<T: DeserializeOwned>(
    table: &str,
    file: impl io::Read,
    problems: &mut Vec<Problem>,
) -> io::Result<Vec<Row<T>>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let headers = reader.headers()?.clone();
    let id_column = headers.iter().position(|name| name == "id");
    let mut rows = Vec::new();
    for record in reader.records() {
        let (record, why) = match record {
            Ok(record) => (record, None),
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => {
                (csv::StringRecord::new(), Some((error.position().cloned(), error.to_string())))
            }
            Err(error) => return Err(error.into()),
        };
        let line = record.position().map_or(0, csv::Position::line);
        // A row that is too short or no text is named by its line alone.
        let id = || id_column.and_then(|at| record.get(at)).unwrap_or_default().to_owned();
        let problem = |line, why| Problem { table: table.to_owned(), line, id: id(), why };
        if let Some((position, why)) = why {
            problems.push(problem(position.map_or(0, |at| at.line()), why));
            continue;
        }
        if record.len() != headers.len() {
            let why = format!("has {} fields, the header has {}", record.len(), headers.len());
            problems.push(problem(line, why));
            continue;
        }
        match record.deserialize(Some(&headers)) {
            Ok(columns) => rows.push(Row { line, columns }),
            Err(error) => {
                let why = match error.kind() {
                    csv::ErrorKind::Deserialize { err, .. } => err.kind().to_string(),
                    _ => error.to_string(),
                };
                problems.push(problem(line, why));
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_cannot_be_read_is_named_and_the_others_are_taken() {
        let csv = "id,car_id,name,amount\n1,c,\"Clean,\nand wash\",9.00\n2,c\n3,c,Seat,5.00\n";
        let tables = Tables::parse(&[("car_additional_fees.csv", csv.as_bytes())]).unwrap();
        let names: Vec<_> =
            tables.car_additional_fees.iter().map(|it| it.columns.name.as_str()).collect();
        assert_eq!(names, ["Clean,\nand wash", "Seat"]);
        assert_eq!(tables.problems[0].line, 4);
        assert_eq!(tables.problems[0].id, "2");
        assert_eq!(tables.counts()[2], ("car_additional_fees", 3));
    }
}
