//! Ends the holds of bookings that nobody paid, by an event. The view of
//! bookings says which may be due; the decision is made on the log, by the
//! log's clock. Any number of workers may do so: the first one's event stands.

use crate::{Next, StepError, System, Worker};
use chrono::{DateTime, Utc};
use exodrive_commands::{
    context::{Actor, CommandContext},
    rental::{RentalCommands, RentalError},
};
use exodrive_domain::booking::{BookingAction, BookingRejection};
use exodrive_log::Commands;
use exodrive_projections::{Database, Identity, views::bookings::read::due_holds};
use std::time::Duration;

/// The pause between two steps.
const TICK: Duration = Duration::from_millis(500);
/// Holds ended in one go.
const BATCH: i64 = 200;

/// Ends holds that are due.
pub struct HoldExpiry {
    rental: RentalCommands,
    database: Database,
}

impl Worker for HoldExpiry {
    const NAME: &'static str = "hold-expiry";
    const ABOUT: &'static str = "Ends the holds of bookings that nobody paid in time.";

    fn new(system: &System) -> Self {
        let commands = Commands::new(system.log.clone(), Some(system.cache.redis().clone()));
        let (database, cache) = (system.readers.clone(), system.cache.clone());
        let rental = RentalCommands::new(commands, database.clone(), cache);
        Self { rental, database }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        end_due(&self.rental, &self.database).await?;
        Ok(Next::After(TICK))
    }
}

async fn end_due(rental: &RentalCommands, database: &Database) -> Result<(), StepError> {
    let now = rental.now();
    let due = {
        let mut reader = database.read_as(&Identity::System).await?;
        due_holds(&mut reader, now, BATCH).await?
    };
    let (mut ended, mut failed) = (0_u32, None);
    for booking_id in due {
        let Ok(id) = booking_id.parse() else { continue };
        let done = rental
            .change_booking(id, BookingAction::Expire, &command_context(&booking_id, now))
            .await;
        match done {
            Ok(_) => {
                ended += 1;
                tracing::info!(booking_id, "Ended the hold of an unpaid booking");
            }
            // Paid, cancelled or ended by another worker meanwhile: the view
            // will know in a moment.
            Err(RentalError::Booking(
                BookingRejection::WrongStatus { .. } | BookingRejection::KeyReused,
            )) => {}
            // No other hold can be ended either.
            Err(error) if is_log_outage(&error) => return Err(error.into()),
            // The others need not wait for this one.
            Err(error) => {
                let cause = exodrive_runtime::error_chain(&error);
                tracing::warn!(booking_id, cause, "Cannot end a hold, will try again");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if ended == 0 => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_log_outage(error: &RentalError) -> bool {
    match error {
        RentalError::Read(error) => error.outage().is_some(),
        RentalError::Append(error) => error.outage().is_some(),
        _ => false,
    }
}

fn command_context(booking_id: &str, now: DateTime<Utc>) -> CommandContext {
    // A hold may begin again after a payment that failed.
    let id = format!("expire-{booking_id}-{}", now.timestamp_micros());
    CommandContext::new(id, "expire", Actor::System("hold-expiry"))
}
