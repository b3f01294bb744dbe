//! Imports the tables of the present product: reads them as CSV, and gives one
//! command for each car, booking and email in them, with the time that it
//! happened. Rows that an earlier import took are left alone, so an import can
//! be repeated.
//!
//! [`Tables`] are read, [`plan`] makes steps of their rows, [`run_import`] sends
//! the steps (a [`Rehearsal`] only decides them), and a [`Ledger`] counts what
//! became of each row.

mod csv;
mod plan;
mod precedents;
mod rehearsal;
mod report;
mod tables;
#[cfg(test)]
mod tests;

pub use plan::{ImportCommand, Plan, Step, plan};
pub use rehearsal::Rehearsal;
pub use report::{Counts, Ledger, Outcome, Report};
pub use tables::{Problem, RowRef, Tables};

use crate::{
    context::{Actor, CommandContext},
    digest::keyed_request_hash,
    rental::{RentalCommands, RentalError},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    EMAIL_IMPORTED, Envelope, Meta, Subject,
    booking::{BookingCommand, BookingRejection, Taken},
    fleet::{self, FleetRejection},
};
use exodrive_log::{AppendError, Log, NewEvent};
use futures::{StreamExt, stream};
use precedents::Precedents;

/// Prefix of the id of every command of an import.
const PREFIX: &str = "import-";
/// Cars imported at a time.
const CONCURRENT: usize = 16;

/// Command context of a step.
fn command_context(log: &Log, step: &Step) -> Result<CommandContext, serde_json::Error> {
    let (id, request) = (format!("{PREFIX}{}", step.id), keyed_request_hash(log, &step.source)?);
    Ok(CommandContext {
        happened_at: step.happened_at,
        acted_by: step.actor.clone(),
        ..CommandContext::new(id, request, Actor::System("import"))
    })
}

/// What the domain decides a step by.
fn meta(context: &CommandContext, now: DateTime<Utc>) -> Meta {
    Meta {
        command_id: context.command_id.clone(),
        request_hash: context.request_hash.clone(),
        now: context.happened_at.unwrap_or(now),
        if_position: None,
        by_staff: true,
    }
}

/// Executes a plan. `done` is called with each step: with the steps about one
/// car in their order, and with those of a stage before those of the next.
///
/// # Errors
/// When the log or the views fail: the import can be repeated from there.
pub async fn run_import(
    rental: &RentalCommands,
    log: &Log,
    plan: &Plan,
    mut done: impl FnMut(&Step, Outcome),
) -> Result<(), RentalError> {
    let precedents = &Precedents::read(log).await?;
    for stage in &plan.stages {
        // Steps about one car run one after the other.
        let mut outcomes = stream::iter(stage.values())
            .map(|steps| async move {
                let mut outcomes = Vec::with_capacity(steps.len());
                for step in steps {
                    let send =
                        async |context: CommandContext| send_step(rental, log, step, context).await;
                    outcomes.push((step, precedents.settle(log, step, send).await?));
                }
                Ok::<_, RentalError>(outcomes)
            })
            .buffer_unordered(CONCURRENT);
        while let Some(outcomes) = outcomes.next().await {
            for (step, outcome) in outcomes? {
                done(step, outcome);
            }
        }
    }
    Ok(())
}

async fn send_step(
    rental: &RentalCommands,
    log: &Log,
    step: &Step,
    context: CommandContext,
) -> Result<Outcome, RentalError> {
    match &step.command {
        ImportCommand::Car(car_id, command) => {
            let car = rental.car(*car_id).await?;
            let decided = fleet::decide(car.as_ref(), command, &meta(&context, rental.now()));
            if decided == Err(FleetRejection::Unchanged) {
                return Ok(Outcome::Known);
            }
            rental.change_car(*car_id, command, &context).await?;
        }
        // The booking may have moved to another car since it was taken.
        ImportCommand::Booking(car_id, BookingCommand::Change(id, act)) => {
            rental.change_booking_on(*car_id, *id, act.clone(), &context).await?;
        }
        ImportCommand::Booking(car_id, command) => {
            rental.book(*car_id, command, &context).await?;
        }
        ImportCommand::Block(car_id, block_id, days, reason) => {
            rental.block((*car_id, *block_id), *days, reason, false, &context).await?;
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
            log.append_fact(&event).await?;
        }
    }
    Ok(Outcome::Taken)
}

/// Returns the reason why a row cannot be taken. An error that is not about the
/// row stays an error.
fn refusal(error: RentalError) -> Result<String, RentalError> {
    Ok(match error {
        RentalError::SlugTaken => "another car has this slug".to_owned(),
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
        RentalError::Append(AppendError::TooLarge) => "is larger than an event can be".to_owned(),
        error => return Err(error),
    })
}
