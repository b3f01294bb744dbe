//! Takes the present product's tables over: reads them as CSV, and gives the
//! desk a command for each thing in them, with the time that it happened. What
//! was taken over before is left alone, so that an import can be repeated.

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

/// Begins the id of every command of an import.
const PREFIX: &str = "import-";
/// Cars worked on at a time.
const CONCURRENT: usize = 16;

/// What became of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was appended, or would be.
    Taken,
    /// It was taken over before.
    Known,
    /// It cannot be.
    Refused(String),
}

/// What an import came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// By table.
    pub tables: BTreeMap<String, Counts>,
    /// Rows that were not taken, and why.
    pub problems: Vec<Problem>,
    /// Rows that were taken as something else, and why.
    pub remarks: Vec<Problem>,
}

/// What became of a table's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// In the file.
    pub rows: usize,
    /// Taken now.
    pub taken: usize,
    /// Taken by an import before.
    pub known: usize,
    /// Not taken.
    pub refused: usize,
}

impl Report {
    /// A report of what was read, before anything was done.
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

    /// Counts what became of a step: its rows stand or fall with it.
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

/// The ids of the events that imports before have appended.
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

/// The desk's view of a step.
pub(crate) fn command_context(log: &Log, step: &Step) -> Result<CommandContext, serde_json::Error> {
    let (id, request) = (format!("{PREFIX}{}", step.id), keyed_request_hash(log, &step.source)?);
    Ok(CommandContext {
        happened_at: step.happened_at,
        acted_by: step.actor.clone(),
        ..CommandContext::new(id, request, Actor::System("import"))
    })
}

/// Carries a plan out; `done` is told of each step.
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
        // Of two cars with one slug the first gets it, as in the rehearsal.
        let adds =
            |step: &Step| matches!(&step.command, ImportCommand::Car(_, FleetCommand::Add { .. }));
        let at_once = if stage.values().flatten().any(adds) { 1 } else { CONCURRENT };
        // Steps about one car are taken one after the other.
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
        // It may have moved to another car since it was taken.
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

/// Customers' ids follow from the secret.
pub(crate) fn with_customer_id(secret: &BookingSecret, command: &BookingCommand) -> BookingCommand {
    let mut command = command.clone();
    if let BookingCommand::Import(import) = &mut command {
        import.customer_id = secret.customer_id(&import.customer);
    }
    command
}

/// Why a row cannot be taken; an error that is none of the row's stays one.
pub(crate) fn refusal(error: RentalError) -> Result<String, RentalError> {
    Ok(match error {
        RentalError::SlugTaken => "another car has this slug".to_owned(),
        RentalError::Fleet(FleetRejection::Faulty(faults)) => {
            let reported = faults.iter().map(|it| format!("{} {}", it.pointer, it.detail));
            reported.collect::<Vec<_>>().join("; ")
        }
        RentalError::Fleet(refusal) => match refusal {
            FleetRejection::KeyReused => {
                "was taken over from another row of this id: change the car here".to_owned()
            }
            FleetRejection::NoSuchCar => "its car is not here".to_owned(),
            FleetRejection::NoPrice => "has no price, and cannot be listed".to_owned(),
            FleetRejection::Archived => "the car is archived here".to_owned(),
            FleetRejection::Exists => "there is a car of this id here".to_owned(),
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
                "was taken over from another row of this id: change the booking here".to_owned()
            }
            BookingRejection::NoSuchCar => "its car is not here".to_owned(),
            BookingRejection::NoSuchBooking => "its booking is not here".to_owned(),
            BookingRejection::Faulty(faults) => {
                let reported = faults.iter().map(|it| format!("{} {}", it.pointer, it.detail));
                reported.collect::<Vec<_>>().join("; ")
            }
            other => format!("{other:?}"),
        },
        error => return Err(error),
    })
}
