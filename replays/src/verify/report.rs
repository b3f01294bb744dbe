//! What a verification finds.

use crate::Change;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// Findings that are told in full; the others are counted.
const REPORTED: usize = 100;

/// What is wrong with a row or its view in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The row is not what the log says.
    RowChanged,
    /// The log says that there is a row, and there is none.
    RowMissing,
    /// There is a row that the log knows nothing of.
    RowTooMany,
    /// Redis holds something else than the row's view.
    RedisStale,
    /// Redis lacks the row's view, though it has the others.
    RedisMissing,
    /// Redis holds a view of no row.
    RedisTooMany,
    /// The fold fails on an event that is not parked.
    NotFolded,
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
        })
    }
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// Which: `position`, or a JSON pointer into the document.
    pub field: String,
    /// What the log says.
    pub expected: Option<Value>,
    /// What was found.
    pub found: Option<Value>,
}

impl From<Change> for Field {
    fn from(Change { pointer, old, new }: Change) -> Self {
        Self { field: pointer, expected: old, found: new }
    }
}

/// Something that is not as the log says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The row's key; the key in Redis for a view of no row; the subject of an
    /// event that cannot be read.
    pub key: String,
    /// What is wrong.
    #[serde(rename = "where")]
    pub place: Place,
    /// The fields that differ.
    pub fields: Vec<Field>,
    /// More of it, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What became of the comparison with Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisOutcome {
    /// The rows are not served from Redis.
    NotServed,
    /// Nobody wanted it.
    LeftOut,
    /// So many values were compared.
    Compared(u64),
    /// Redis does not answer, or is being filled.
    Unavailable(String),
}

/// A projection, verified.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Which.
    pub name: &'static str,
    /// The generation that readers see.
    pub generation: i32,
    /// Up to where the log was folded and compared.
    pub position: u64,
    /// Rows compared.
    pub checked: u64,
    /// Keys that wait behind a parked event: compared as they were before it.
    pub blocked: usize,
    /// How often the log was folded, each time for a part of the keys.
    pub passes: u32,
    /// What became of the comparison with Redis.
    pub redis: RedisOutcome,
    /// How much is not as the log says.
    pub differences: u64,
    /// The first of it.
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

    /// Whether all that was looked at is as the log says.
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
