//! The plan of an import: rows become steps, and a step is a command or a fact.

mod bookings;
mod calendar;
mod cars;
mod mail;

use super::tables::{Problem, Row, RowRef, Tables, is_id, key};
use chrono::{DateTime, NaiveDate, Utc};
use exodrive_domain::{
    booking::BookingCommand,
    days::{Days, parse_day},
    email::EmailId,
    fleet::FleetCommand,
    id::{BlockId, CarId},
    time,
    value::{
        DEFAULT_CURRENCY, InvalidField, MOST_MINOR_UNITS, Reason, Rules, Text, TextRule, Valid,
        check_currency, minor_digits,
    },
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
};

/// The steps of an import, in stages. Within a stage, steps about different
/// cars may run at the same time.
#[derive(Debug, Default)]
pub struct Plan {
    /// Steps of each stage, in order, by the car or email that they are about.
    pub stages: [BTreeMap<String, Vec<Step>>; 4],
    /// Rows that give no step.
    pub problems: Vec<Problem>,
    /// Rows that say what holds anyway.
    pub known: Vec<RowRef>,
    /// Rows that are taken with other values than they hold.
    pub remarks: Vec<Problem>,
}

/// One command or fact.
#[derive(Clone, Debug)]
pub struct Step {
    /// Permanent name of the step, from which its command's id is made.
    pub id: String,
    /// Rows that it is made of. A row may be a part of several steps: it is
    /// taken if all of them are; a customer if one is.
    pub rows: Vec<RowRef>,
    /// The step without which this one is refused, and what that is about.
    pub needs: Option<(&'static str, String)>,
    /// What it adds to rows that are taken by another step.
    pub part: Option<&'static str>,
    /// Content of the rows, to detect that they have changed.
    pub source: Value,
    /// Time at which it happened, if the rows have it.
    pub happened_at: Option<DateTime<Utc>>,
    /// The person who did it, if the rows have it.
    pub actor: Option<String>,
    /// The command.
    pub command: ImportCommand,
}

/// The command of a step.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ImportCommand {
    Car(CarId, FleetCommand),
    Booking(CarId, BookingCommand),
    Block(CarId, BlockId, Days, Reason),
    Email(EmailId, Value),
}

const CARS: usize = 0;
const BOOKINGS: usize = 1;
const BLOCKS: usize = 2;
const HISTORY: usize = 3;

impl Plan {
    /// Number of steps.
    pub fn len(&self) -> usize {
        self.stages.iter().flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    /// True if there is no step.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a step about a car or an email. Returns its place among those.
    fn push(&mut self, stage: usize, about: String, step: Step) -> usize {
        let steps = self.stages[stage].entry(about).or_default();
        steps.push(step);
        steps.len() - 1
    }

    fn refuse<T>(&mut self, table: &'static str, row: &Row<T>, id: &str, why: impl Into<String>) {
        self.problems.push(problem(table, row, id, why));
    }

    fn remark<T>(&mut self, table: &'static str, row: &Row<T>, id: &str, why: impl Into<String>) {
        self.remarks.push(problem(table, row, id, why));
    }
}

/// The fault of a row, as text.
type CellError = String;

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T, CellError> {
    text.trim().parse().map_err(|_| format!("{what} cannot be read: {text:?}"))
}

fn moment(what: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, CellError> {
    let read =
        |text| time::parse_any(text).ok_or_else(|| format!("{what} is not a time: {text:?}"));
    text.map(read).transpose()
}

fn day(what: &str, text: &str) -> Result<NaiveDate, CellError> {
    parse_day(text.trim()).map_err(|fault| format!("{what} {fault}: {text:?}"))
}

/// The text of a cell by its rule; an empty cell is an empty text.
fn text<R: TextRule>(what: &str, cell: Option<&String>) -> Result<String, CellError> {
    let text = cell.map_or("", String::as_str);
    Text::<R>::parse(text).map(String::from).map_err(|fault| format!("{what} {fault}"))
}

/// The same for a text that a row may lack.
fn optional<R: TextRule>(what: &str, cell: Option<&String>) -> Result<Option<Text<R>>, CellError> {
    Text::optional(cell.map(String::as_str)).map_err(|fault| format!("{what} {fault}"))
}

/// A structure whose cells were read by their rules.
fn valid<T: Rules>(value: T) -> Result<Valid<T>, CellError> {
    Valid::new(value).map_err(|faults| {
        let named = |fault: InvalidField| {
            format!("{} {}", fault.pointer.trim_start_matches('/'), fault.detail)
        };
        faults.into_iter().map(named).collect::<Vec<_>>().join("; ")
    })
}

fn flag(what: &str, text: Option<&str>, otherwise: bool) -> Result<bool, CellError> {
    match text.map(|text| text.trim().to_lowercase()).as_deref() {
        None => Ok(otherwise),
        Some("true" | "t" | "1") => Ok(true),
        Some("false" | "f" | "0") => Ok(false),
        Some(other) => Err(format!("{what} is neither true nor false: {other:?}")),
    }
}

/// An amount in minor units, from a text in major ones: `12.5` USD are 1,250
/// cents, `1250` JPY are 1,250 yen.
fn amount(what: &str, text: &str, currency: &str) -> Result<i64, CellError> {
    let amount = decimal(what, text, minor_digits(currency))?;
    if (0..=MOST_MINOR_UNITS).contains(&amount) {
        return Ok(amount);
    }
    Err(format!("{what} is negative, or too large: {text:?}"))
}

/// A number with at most so many digits after the point, as a count of its last
/// digit.
fn decimal(what: &str, text: &str, digits: u32) -> Result<i64, CellError> {
    let invalid = || format!("{what} is not a number with {digits} decimals: {text:?}");
    let (sign, number) = match text.trim().strip_prefix('-') {
        Some(number) => ("-", number),
        None => ("", text.trim()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let part = part.trim_end_matches('0');
    let width = usize::try_from(digits).map_err(|_| invalid())?;
    let valid = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > width || !valid(whole) || !valid(part) {
        return Err(invalid());
    }
    format!("{sign}{whole}{part:0<width$}").parse().map_err(|_| invalid())
}

/// Converts a percentage to basis points.
fn basis_points(what: &str, text: Option<&str>) -> Result<u32, CellError> {
    let points = text.map_or(Ok(0), |text| decimal(what, text, 2))?;
    u32::try_from(points).map_err(|_| format!("{what} is negative, or too large"))
}

/// A currency; US dollars if the cell is empty.
fn currency(cell: Option<&String>) -> Result<String, CellError> {
    let code = cell.map_or(DEFAULT_CURRENCY, String::as_str).trim();
    check_currency(code).map_err(|fault| format!("currency {fault}: {code:?}"))?;
    Ok(code.to_owned())
}

/// A word that becomes a part of an event's attributes.
fn word<'a>(what: &str, text: &'a str) -> Result<&'a str, CellError> {
    let text = text.trim();
    if is_id(text) { Ok(text) } else { Err(format!("{what} is not a word: {text:?}")) }
}

/// Makes the plan. `time_zone` is the time zone of the cars. `now` decides
/// whether an unpaid booking has expired.
pub fn plan(tables: &Tables, time_zone: &str, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    let cars = cars::plan_cars(tables, time_zone, &mut plan);
    let bookings = bookings::plan_bookings(tables, &cars, now, &mut plan);
    calendar::plan_days(tables, &cars, &bookings, &mut plan);
    bookings::plan_history(tables, &bookings, &mut plan);
    mail::plan_emails(tables, &mut plan);
    plan
}

/// What the rows of a table became, by the key of their ids: what others need of
/// them, or the reason why the rows that refer to them are refused too.
type Parents<T> = HashMap<String, Result<T, String>>;

/// Parents of which those that cannot be read are known already.
fn parents<T>(tables: &Tables, table: &'static str, what: &str) -> Parents<T> {
    let refused = tables.problems.iter().filter(|it| it.table == table && !it.id.is_empty());
    refused.map(|it| (key(&it.id), Err(parent_refused(what, table, it.line, &it.why)))).collect()
}

/// Reason to refuse a row that refers to a refused one.
fn parent_refused(what: &str, table: &str, line: u64, why: &str) -> String {
    format!("its {what} ({table}.csv, line {line}) was refused: {why}")
}

fn row_ref<T>(table: &'static str, row: &Row<T>) -> RowRef {
    RowRef { table, line: row.line }
}

fn problem<T>(table: &'static str, row: &Row<T>, id: &str, why: impl Into<String>) -> Problem {
    Problem { table, line: row.line, id: id.to_owned(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        let read = |text| amount("it", text, "USD");
        assert_eq!(read("1295.00"), Ok(129_500));
        assert_eq!(read("0.5"), Ok(50));
        assert_eq!(read("7"), Ok(700));
        assert_eq!(read("12.3400"), Ok(1_234));
        for invalid in ["", "1.005", "1,000", "1e3", "abc", ".5", "-0.01", "99999999999999", "+1"] {
            assert!(read(invalid).is_err(), "{invalid}");
        }
        assert_eq!(amount("it", "1295.00", "JPY"), Ok(1_295));
        assert!(amount("it", "1295.50", "JPY").is_err());
        assert_eq!(amount("it", "1.295", "KWD"), Ok(1_295));
        assert_eq!(basis_points("it", Some("12.5")), Ok(1_250));
    }

    #[test]
    fn times_are_read_as_postgres_writes_them() {
        let read = |text| moment("it", Some(text)).unwrap().unwrap();
        let at = time::parse("2026-05-01T10:00:00Z").unwrap();
        for text in ["2026-05-01T10:00:00Z", "2026-05-01 10:00:00+00", "2026-05-01 12:00:00+02:00"]
        {
            assert_eq!(read(text), at, "{text}");
        }
        assert!(moment("it", Some("yesterday")).is_err());
    }
}
