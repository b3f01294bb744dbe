//! Ends the holds of bookings that nobody paid, by an event. The view of
//! bookings says which may be due; the decision is made on the log, by the
//! log's clock. Any number of workers may do so: the first one's event stands.

use chrono::{DateTime, Utc};
use exodrive_commands::{
    context::{Actor, CommandContext},
    rental::{RentalCommands, RentalError},
};
use exodrive_domain::booking::{BookingAction, BookingRejection};
use exodrive_projections::{Database, Error, Identity, views::bookings::read::due_holds};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often is looked.
const TICK: Duration = Duration::from_millis(500);
/// Holds ended in one go.
const BATCH: i64 = 200;

/// Looks and ends holds until `stop`.
pub async fn run(rental: RentalCommands, database: Database, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = end_due(&rental, &database).await {
            let error = exodrive_runtime::error_chain(&error);
            tracing::warn!(error, "Cannot look for holds that have ended, will look again");
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn end_due(rental: &RentalCommands, database: &Database) -> Result<(), Error> {
    let now = rental.now();
    let due = {
        let mut reader = database.read_as(&Identity::System).await?;
        due_holds(&mut reader, now, BATCH).await?
    };
    for booking_id in due {
        let Ok(id) = booking_id.parse() else { continue };
        let done = rental
            .change_booking(id, BookingAction::Expire, &command_context(&booking_id, now))
            .await;
        match done {
            Ok(_) => tracing::info!(booking_id, "Ended the hold of an unpaid booking"),
            // Paid, cancelled or ended by another worker meanwhile: the view
            // will know in a moment.
            Err(RentalError::Booking(
                BookingRejection::WrongStatus { .. } | BookingRejection::KeyReused,
            )) => {}
            Err(error) => {
                let error = exodrive_runtime::error_chain(&error);
                tracing::warn!(booking_id, error, "Cannot end a hold, will try again");
            }
        }
    }
    Ok(())
}

fn command_context(booking_id: &str, now: DateTime<Utc>) -> CommandContext {
    CommandContext {
        // A hold may begin again after a payment that failed.
        command_id: format!("expire-{booking_id}-{}", now.timestamp_micros()),
        request_hash: "expire".to_owned(),
        actor: Actor::System("hold-expiry"),
        if_position: None,
        happened_at: None,
        acted_by: None,
        traceparent: None,
        correlation: None,
    }
}
