//! The report of a verification.

use crate::Change;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// Most findings that are reported in full; the others are counted.
const REPORTED: usize = 100;

/// The kind of a difference between the log, the rows and Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The row is not what the log gives.
    RowChanged,
    /// The log gives a row, and the table has none.
    RowMissing,
    /// The table has a row that the log does not give.
    RowTooMany,
    /// Redis holds something other than the row's view.
    RedisStale,
    /// Redis lacks the row's view, though it has the others.
    RedisMissing,
    /// Redis holds a view of no row.
    RedisTooMany,
    /// The fold fails on an event that is not parked.
    NotFolded,
    /// An event is parked that can be folded: the row is not what a rebuild makes.
    StillParked,
    /// The numbers that are kept for lists are not those of the rows.
    CountsDiffer,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RowChanged => "row changed",
            Self::RowMissing => "row missing",
            Self::RowTooMany => "row too many",
            Self::RedisStale => "redis stale",
            Self::RedisMissing => "redis missing",
            Self::RedisTooMany => "redis too many",
            Self::NotFolded => "not folded",
            Self::StillParked => "still parked",
            Self::CountsDiffer => "counts differ",
        })
    }
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// The field: `position`, or a JSON pointer into the document.
    pub field: String,
    /// The value that the log gives.
    pub expected: Option<Value>,
    /// The value that was found.
    pub found: Option<Value>,
}

impl From<Change> for Field {
    fn from(Change { pointer, old, new }: Change) -> Self {
        Self { field: pointer, expected: old, found: new }
    }
}

/// A difference from what the log gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The row's key; the key in Redis for a view of no row; the subject of an
    /// event that cannot be read.
    pub key: String,
    /// The kind of difference.
    #[serde(rename = "where")]
    pub place: Place,
    /// The fields that differ.
    pub fields: Vec<Field>,
    /// More details, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Result of the comparison with Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisOutcome {
    /// The rows are not served from Redis.
    NotServed,
    /// No comparison with Redis was requested.
    LeftOut,
    /// Number of values that were compared.
    Compared(u64),
    /// Redis does not answer, or is being filled.
    Unavailable(String),
}

/// A projection, verified.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// The generation that readers see.
    pub generation: i32,
    /// Position up to which the log was folded and compared.
    pub position: u64,
    /// Rows compared.
    pub checked: u64,
    /// Keys that wait behind a parked event: compared in their state before it.
    pub blocked: usize,
    /// Number of times the log was folded, each time for some of the keys.
    pub passes: u32,
    /// Result of the comparison with Redis.
    pub redis: RedisOutcome,
    /// Number of differences.
    pub differences: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            generation: 0,
            position: 0,
            checked: 0,
            blocked: 0,
            passes: 0,
            redis: RedisOutcome::NotServed,
            differences: 0,
            findings: Vec::new(),
        }
    }

    pub(super) fn add_finding(&mut self, finding: Finding) {
        self.differences += 1;
        if self.findings.len() < REPORTED {
            self.findings.push(finding);
        }
    }

    pub(super) fn find_fields(&mut self, key: &str, place: Place, fields: Vec<Field>) {
        self.add_finding(Finding { key: key.to_owned(), place, fields, detail: None });
    }

    /// True if everything that was compared equals what the log gives.
    pub fn is_equal(&self) -> bool {
        self.differences == 0
    }
}

/// The field `position`, if it differs.
pub(super) fn position(expected: Option<u64>, found: Option<u64>) -> Vec<Field> {
    let (expected, found) = (expected.map(Into::into), found.map(Into::into));
    let field = Field { field: "position".to_owned(), expected, found };
    (field.expected != field.found).then_some(field).into_iter().collect()
}
