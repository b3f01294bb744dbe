//! The accounting of an import: every row of every file has one outcome.

use super::{
    Plan, Step, Tables,
    tables::{Problem, RowRef},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Outcome of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its event was appended, or would be in a rehearsal.
    Taken,
    /// An earlier import took it, or the system holds what it says.
    Known,
    /// An earlier import took it when its rows had another content.
    Changed,
    /// It was rejected; the text says why.
    Refused(String),
}

/// Result of an import. In each table, the rows taken, known and refused add up
/// to the rows of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Counts by table.
    pub tables: BTreeMap<String, Counts>,
    /// Files that were refused whole, with the line to look at. Each of their
    /// rows is refused.
    pub broken: Vec<Problem>,
    /// Rows that were refused, with the reason.
    pub problems: Vec<Problem>,
    /// Rows that were taken with other values than they hold, with the reason.
    pub remarks: Vec<Problem>,
    /// Columns that are not read, as `<table>.<column>`.
    pub ignored_columns: Vec<String>,
}

/// Counts of a table's rows by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows in the file: the sum of the others.
    pub rows: usize,
    /// Rows taken now.
    pub taken: usize,
    /// Rows that an earlier import took, and rows that say what the system
    /// holds anyway.
    pub known: usize,
    /// Rows that were not taken, or not entirely.
    pub refused: usize,
}

impl Report {
    /// True if every row of every file was taken or known.
    pub fn is_complete(&self) -> bool {
        self.problems.is_empty() && self.broken.is_empty()
    }
}

/// The rows of the files, and what became of each. It is the one place that
/// counts them: a row has one outcome, so that the sums cannot differ.
pub struct Ledger {
    rows: BTreeMap<RowRef, Entry>,
    report: Report,
}

#[derive(Debug)]
struct Entry {
    id: String,
    outcome: Option<Outcome>,
}

impl Ledger {
    /// The rows that were read, before any step is done.
    pub fn of(tables: &Tables, plan: &Plan) -> Self {
        let entry = |(row, id): &(RowRef, String)| (*row, Entry { id: id.clone(), outcome: None });
        let report = Report {
            tables: Tables::NAMES
                .iter()
                .map(|name| ((*name).to_owned(), Counts::default()))
                .collect(),
            broken: tables.broken.clone(),
            remarks: plan.remarks.clone(),
            ignored_columns: tables.ignored_columns.clone(),
            ..Report::default()
        };
        let mut ledger = Self { rows: tables.rows.iter().map(entry).collect(), report };
        for problem in tables.problems.iter().chain(&plan.problems) {
            ledger.note(problem.row(), Outcome::Refused(problem.why.clone()));
        }
        for row in &plan.known {
            ledger.note(*row, Outcome::Known);
        }
        ledger
    }

    /// Counts the outcome of a step for the rows that it is made of.
    pub fn count(&mut self, step: &Step, outcome: &Outcome) {
        for row in &step.rows {
            let outcome = match (outcome, step.part) {
                (Outcome::Refused(why), Some(part)) => {
                    Outcome::Refused(format!("was taken, but {part} was not: {why}"))
                }
                (Outcome::Refused(why), None) if row.table == CUSTOMERS => {
                    Outcome::Refused(format!("none of its bookings was taken; of the first: {why}"))
                }
                (outcome, _) => outcome.clone(),
            };
            self.note(*row, outcome);
        }
    }

    fn note(&mut self, row: RowRef, outcome: Outcome) {
        let Some(entry) = self.rows.get_mut(&row) else { return };
        let rank = |outcome: &Outcome| match outcome {
            Outcome::Known => 0,
            Outcome::Taken => 1,
            Outcome::Changed => 2,
            Outcome::Refused(_) => 3,
        };
        let replaces = entry.outcome.as_ref().is_none_or(|noted| {
            if row.table == CUSTOMERS {
                // Each booking has its customer's data: one is enough.
                rank(&outcome) < rank(noted)
            } else {
                rank(&outcome) > rank(noted)
            }
        });
        if replaces {
            entry.outcome = Some(outcome);
        }
    }

    /// The report.
    pub fn finish(self) -> Report {
        let Self { rows, mut report } = self;
        for (RowRef { table, line }, Entry { id, outcome }) in rows {
            let counts = report.tables.entry(table.to_owned()).or_default();
            counts.rows += 1;
            let why = match outcome {
                Some(Outcome::Taken) => {
                    counts.taken += 1;
                    continue;
                }
                Some(Outcome::Known) => {
                    counts.known += 1;
                    continue;
                }
                Some(Outcome::Changed) => CHANGED.to_owned(),
                Some(Outcome::Refused(why)) => why,
                None => UNREACHED.to_owned(),
            };
            counts.refused += 1;
            report.problems.push(Problem { table, line, id, why });
        }
        report
    }
}

const CUSTOMERS: &str = "customers";
/// A car is made of several rows, and a booking has its customer's data.
const CHANGED: &str = "this row, or one that was imported with it, has changed since the earlier \
                       import: make the change in this system";
/// Of a row that no step is made of and nothing refused.
pub(super) const UNREACHED: &str = "nothing took it, which is a defect of the import";
