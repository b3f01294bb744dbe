//! Days. A day is a calendar day in the car's time zone. Ranges are half-open
//! inside; people and the API name the first and the last day.

use crate::value::InvalidValue;
use chrono::{Datelike, Days as Count, NaiveDate};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One or more days in a row: from `from` up to, not including, `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Bounds")]
pub struct Days {
    from: NaiveDate,
    until: NaiveDate,
}

#[derive(Deserialize)]
struct Bounds {
    from: NaiveDate,
    until: NaiveDate,
}

/// Two dates that do not make a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DaysError {
    /// The last day is before the first.
    #[error("the last day is before the first")]
    Backwards,
    /// Outside of the years that a rental can be in.
    #[error("the year must be from {FIRST_YEAR} to {LAST_YEAR}")]
    Year,
}

/// Reads a day as RFC 3339 writes it (`full-date`), for example `2027-06-02`:
/// four, two and two digits, and nothing else.
///
/// # Errors
/// [`InvalidValue`].
pub fn parse_day(text: &str) -> Result<NaiveDate, InvalidValue> {
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    let day = shape.then(|| text.parse().ok()).flatten();
    day.ok_or_else(|| InvalidValue("must be a day, for example 2027-06-02".to_owned()))
}

const FIRST_YEAR: i32 = 2000;
const LAST_YEAR: i32 = 2199;

impl Days {
    /// The days from `first` to `last`, both of them included.
    ///
    /// # Errors
    /// When `last` is before `first`, or a year is outside of the allowed
    /// range.
    pub fn inclusive(first: NaiveDate, last: NaiveDate) -> Result<Self, DaysError> {
        if last < first {
            return Err(DaysError::Backwards);
        }
        let valid = |day: NaiveDate| (FIRST_YEAR..=LAST_YEAR).contains(&day.year());
        match last.succ_opt() {
            Some(until) if valid(first) && valid(last) => Ok(Self { from: first, until }),
            _ => Err(DaysError::Year),
        }
    }

    /// The first day.
    pub fn first(&self) -> NaiveDate {
        self.from
    }

    /// The last day.
    pub fn last(&self) -> NaiveDate {
        self.until.pred_opt().unwrap_or(self.until)
    }

    /// The first day after the range.
    pub fn until(&self) -> NaiveDate {
        self.until
    }

    /// The number of days.
    pub fn count(&self) -> u32 {
        u32::try_from((self.until - self.from).num_days()).unwrap_or(0)
    }

    /// True if the range contains the day.
    pub fn contains(&self, day: NaiveDate) -> bool {
        self.from <= day && day < self.until
    }

    /// True if both ranges contain a common day.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.from < other.until && other.from < self.until
    }

    /// The days that both have.
    pub fn shared(&self, other: &Self) -> Option<Self> {
        let (from, until) = (self.from.max(other.from), self.until.min(other.until));
        (from < until).then_some(Self { from, until })
    }

    /// The same range, cut so that `last` is its last day at the latest. It keeps
    /// at least its first day.
    #[must_use]
    pub fn cut_after(&self, last: NaiveDate) -> Self {
        let until = last.succ_opt().unwrap_or(self.until).min(self.until);
        Self { from: self.from, until: until.max(self.from.succ_opt().unwrap_or(self.until)) }
    }

    /// The same number of days, beginning with `first`.
    pub fn beginning(&self, first: NaiveDate) -> Option<Self> {
        let last = first.checked_add_days(Count::new(u64::from(self.count()) - 1))?;
        Self::inclusive(first, last).ok()
    }

    /// Each day.
    pub fn iter(&self) -> impl Iterator<Item = NaiveDate> + use<> {
        let until = self.until;
        self.from.iter_days().take_while(move |day| *day < until)
    }
}

impl TryFrom<Bounds> for Days {
    type Error = DaysError;

    fn try_from(bounds: Bounds) -> Result<Self, DaysError> {
        let last = bounds.until.pred_opt().ok_or(DaysError::Year)?;
        Self::inclusive(bounds.from, last)
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() == 1 {
            self.from.fmt(f)
        } else {
            write!(f, "{} to {}", self.from, self.last())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn days(first: &str, last: &str) -> Days {
        Days::inclusive(day(first), day(last)).unwrap()
    }

    #[test]
    fn both_ends_are_days_of_the_rental() {
        let one = days("2027-02-28", "2027-02-28");
        assert_eq!((one.count(), one.to_string()), (1, "2027-02-28".to_owned()));
        let four = days("2027-02-27", "2027-03-02");
        assert_eq!(four.count(), 4);
        assert_eq!(four.iter().last(), Some(day("2027-03-02")));
        assert!(four.overlaps(&one) && four.contains(day("2027-03-02")));
        assert!(!four.overlaps(&days("2027-03-03", "2027-03-03")));
        assert_eq!(
            Days::inclusive(day("2027-01-02"), day("2027-01-01")),
            Err(DaysError::Backwards)
        );
        assert_eq!(Days::inclusive(day("1999-01-01"), day("2027-01-01")), Err(DaysError::Year));
    }

    #[test]
    fn a_day_is_written_in_one_way() {
        assert_eq!(parse_day("2028-02-29"), Ok(day("2028-02-29")));
        for text in [
            "",
            "2027-6-2",
            " 2027-06-02",
            "2027-06-02 ",
            "2027-06-31",
            "2027-02-29",
            "-2026-01-01",
            "+2026-01-01",
            "12026-01-01",
            "2027/06/02",
            "20270602",
            "2027-06-02T00:00:00Z",
            "2027‑06‑02",
            "２０２７-06-02",
        ] {
            assert!(parse_day(text).is_err(), "{text}");
        }
    }

    #[test]
    fn json_is_half_open_and_checked() {
        let four = days("2027-02-27", "2027-03-02");
        let json = serde_json::json!({"from": "2027-02-27", "until": "2027-03-03"});
        assert_eq!(serde_json::to_value(four).unwrap(), json);
        assert_eq!(serde_json::from_value::<Days>(json).unwrap(), four);
        let empty = serde_json::json!({"from": "2027-02-27", "until": "2027-02-27"});
        assert!(serde_json::from_value::<Days>(empty).is_err());
    }

    #[test]
    fn an_early_return_keeps_at_least_the_first_day() {
        let four = days("2027-02-27", "2027-03-02");
        assert_eq!(four.cut_after(day("2027-02-28")), days("2027-02-27", "2027-02-28"));
        assert_eq!(four.cut_after(day("2027-04-01")), four);
        assert_eq!(four.cut_after(day("2027-01-01")), days("2027-02-27", "2027-02-27"));
    }
}
