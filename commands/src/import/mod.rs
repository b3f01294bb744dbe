//! Imports the tables of the present product: reads them as CSV, and gives one
//! command for each car, booking and email in them, with the time that it
//! happened. Rows that an earlier import took are left alone, so an import can
//! be repeated.

mod plan;
mod rehearsal;
mod tables;

pub use plan::{ImportCommand, Plan, Step, plan};
pub use rehearsal::Rehearsal;
pub use tables::{Problem, Tables};

use crate::{
    context::{Actor, CommandContext},
    digest::keyed_request_hash,
    rental::{BookingSecret, RentalCommands, RentalError},
};
use chrono::Utc;
use exodrive_domain::{
    EMAIL_IMPORTED, Envelope, Subject,
    booking::{BookingCommand, BookingRejection, Taken},
    fleet::{FleetCommand, FleetRejection},
};
use exodrive_log::{Log, NewEvent};
use futures::{StreamExt, stream};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

/// Prefix of the id of every command of an import.
const PREFIX: &str = "import-";
/// Cars imported at a time.
const CONCURRENT: usize = 16;

/// Outcome of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its event was appended, or would be in a rehearsal.
    Taken,
    /// An earlier import took it.
    Known,
    /// It was rejected; the text says why.
    Refused(String),
}

/// Result of an import.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Counts by table.
    pub tables: BTreeMap<String, Counts>,
    /// Rows that were not taken, with the reason.
    pub problems: Vec<Problem>,
    /// Rows that were taken with other values than they hold, with the reason.
    pub remarks: Vec<Problem>,
}

/// Counts of a table's rows by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows in the file.
    pub rows: usize,
    /// Rows taken now.
    pub taken: usize,
    /// Rows that an earlier import took.
    pub known: usize,
    /// Rows that were not taken.
    pub refused: usize,
}

impl Report {
    /// Report of the rows that were read, before any step is done.
    pub fn of(tables: &Tables, plan: &Plan) -> Self {
        let mut report = Self::default();
        for (table, rows) in tables.counts() {
            report.tables.entry(table.to_owned()).or_default().rows = rows;
        }
        report.remarks.clone_from(&plan.remarks);
        for problem in tables.problems.iter().chain(&plan.problems) {
            report.refuse(problem.clone());
        }
        report
    }

    fn refuse(&mut self, problem: Problem) {
        self.tables.entry(problem.table.clone()).or_default().refused += 1;
        self.problems.push(problem);
    }

    /// Counts the outcome of a step, which is the outcome of its rows.
    pub fn count(&mut self, step: &Step, outcome: Outcome) {
        for (table, line, id) in &step.rows {
            let counts = self.tables.entry((*table).to_owned()).or_default();
            match &outcome {
                Outcome::Taken => counts.taken += 1,
                Outcome::Known => counts.known += 1,
                Outcome::Refused(why) => self.refuse(Problem {
                    table: (*table).to_owned(),
                    line: *line,
                    id: id.clone(),
                    why: why.clone(),
                }),
            }
        }
    }
}

/// Ids of the events that earlier imports have appended.
///
/// # Errors
/// When the log cannot be read.
pub async fn known(log: &Log) -> Result<HashSet<String>, exodrive_log::ReadError> {
    let end = log.last_position().await?;
    let mut reader = log.reader(1);
    let (mut known, mut position) = (HashSet::new(), 0);
    while position < end {
        let batch = reader.next_batch(5_000, Duration::from_secs(5)).await?;
        let Some(last) = batch.events.last() else { break };
        position = last.position;
        let ids = batch.events.into_iter().map(|event| event.envelope.id);
        known.extend(ids.filter(|id| id.starts_with(PREFIX)));
    }
    Ok(known)
}

/// Command context of a step.
pub(crate) fn command_context(log: &Log, step: &Step) -> Result<CommandContext, serde_json::Error> {
    let (id, request) = (format!("{PREFIX}{}", step.id), keyed_request_hash(log, &step.source)?);
    Ok(CommandContext {
        happened_at: step.happened_at,
        acted_by: step.actor.clone(),
        ..CommandContext::new(id, request, Actor::System("import"))
    })
}

/// Executes a plan. `done` is called with each step.
///
/// # Errors
/// When the log or the views fail: the import can be repeated from there.
pub async fn run_import(
    rental: &RentalCommands,
    secret: &BookingSecret,
    log: &Log,
    plan: &Plan,
    mut done: impl FnMut(&Step, Outcome),
) -> Result<(), RentalError> {
    let known = &known(log).await?;
    for stage in &plan.stages {
        // If two cars have one slug, the first gets it, as in the rehearsal.
        let adds =
            |step: &Step| matches!(&step.command, ImportCommand::Car(_, FleetCommand::Add { .. }));
        let at_once = if stage.values().flatten().any(adds) { 1 } else { CONCURRENT };
        // Steps about one car run one after the other.
        let mut outcomes = stream::iter(stage.values())
            .map(|steps| async move {
                let mut outcomes = Vec::with_capacity(steps.len());
                for step in steps {
                    let id = format!("{PREFIX}{}", step.id);
                    let outcome = if known.contains(&id) {
                        Outcome::Known
                    } else {
                        send_step((rental, secret), log, step).await?
                    };
                    outcomes.push((step, outcome));
                }
                Ok::<_, RentalError>(outcomes)
            })
            .buffer_unordered(at_once);
        while let Some(outcomes) = outcomes.next().await {
            for (step, outcome) in outcomes? {
                done(step, outcome);
            }
        }
    }
    Ok(())
}

async fn send_step(
    (rental, secret): (&RentalCommands, &BookingSecret),
    log: &Log,
    step: &Step,
) -> Result<Outcome, RentalError> {
    let context = command_context(log, step)?;
    let outcome = match &step.command {
        ImportCommand::Car(car_id, command) => {
            rental.change_car(*car_id, command, &context).await.map(|_| ())
        }
        // The booking may have moved to another car since it was taken.
        ImportCommand::Booking(_, BookingCommand::Change(id, act)) => {
            rental.change_booking(*id, act.clone(), &context).await.map(|_| ())
        }
        ImportCommand::Booking(car_id, command) => {
            let command = with_customer_id(secret, command);
            rental.book(*car_id, &command, &context).await.map(|_| ())
        }
        ImportCommand::Block(car_id, block_id, days, reason) => {
            rental.block((*car_id, *block_id), *days, reason, false, &context).await.map(|_| ())
        }
        ImportCommand::Email(email_id, body) => {
            let event = NewEvent {
                subject: Subject::Email(email_id.clone()),
                envelope: Envelope::decision(
                    EMAIL_IMPORTED,
                    context.command_id,
                    step.happened_at.unwrap_or_else(Utc::now),
                )
                .by(context.actor.audit_name()),
                provider_headers: Vec::new(),
                body: body.to_string().into_bytes().into(),
            };
            log.append_fact(&event).await.map(|_| ()).map_err(RentalError::Append)
        }
    };
    match outcome {
        Ok(()) => Ok(Outcome::Taken),
        Err(error) => refusal(error).map(Outcome::Refused),
    }
}

/// Fills in the customer's id, which is derived from the link secret.
pub(crate) fn with_customer_id(secret: &BookingSecret, command: &BookingCommand) -> BookingCommand {
    let mut command = command.clone();
    if let BookingCommand::Import(import) = &mut command {
        import.customer_id = secret.customer_id(&import.customer);
    }
    command
}

/// Returns the reason why a row cannot be taken. An error that is not about the
/// row stays an error.
pub(crate) fn refusal(error: RentalError) -> Result<String, RentalError> {
    Ok(match error {
        RentalError::SlugTaken => "another car has this slug".to_owned(),
        RentalError::Fleet(FleetRejection::Faulty(faults)) => {
            let reported = faults.iter().map(|it| format!("{} {}", it.pointer, it.detail));
            reported.collect::<Vec<_>>().join("; ")
        }
        RentalError::Fleet(refusal) => match refusal {
            FleetRejection::KeyReused => {
                "was taken over from another row with this id: change the car here".to_owned()
            }
            FleetRejection::NoSuchCar => "its car is not in this system".to_owned(),
            FleetRejection::NoPrice => "has no price, and cannot be listed".to_owned(),
            FleetRejection::Archived => "the car is archived here".to_owned(),
            FleetRejection::Exists => "a car with this id exists here".to_owned(),
            other => format!("{other:?}"),
        },
        RentalError::Booking(BookingRejection::DaysTaken { taken, .. }) => {
            let mut by: Vec<_> = taken
                .iter()
                .map(|day| match day.by {
                    Taken::Held(id) | Taken::Booked(id) => format!("booking {id}"),
                    Taken::Blocked(id) => format!("block {id}"),
                })
                .collect();
            by.dedup();
            let days = (taken.first().map(|it| it.date), taken.last().map(|it| it.date));
            let (Some(first), Some(last)) = days else { return Ok("its days are taken".into()) };
            format!("{first} to {last} are taken by {}", by.join(", "))
        }
        RentalError::Booking(refusal) => match refusal {
            BookingRejection::KeyReused => {
                "was taken over from another row with this id: change the booking here".to_owned()
            }
            BookingRejection::NoSuchCar => "its car is not in this system".to_owned(),
            BookingRejection::NoSuchBooking => "its booking is not in this system".to_owned(),
            BookingRejection::Faulty(faults) => {
                let reported = faults.iter().map(|it| format!("{} {}", it.pointer, it.detail));
                reported.collect::<Vec<_>>().join("; ")
            }
            other => format!("{other:?}"),
        },
        error => return Err(error),
    })
}
