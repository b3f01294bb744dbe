//! Ends the holds of bookings that nobody paid, by an event. The view of
//! bookings says which may be due; the decision is made on the log, by the
//! log's clock. Any number of workers may do so: the first one's event stands.

use chrono::{DateTime, Utc};
use exodrive_commands::{
    context::{Circumstances, Party},
    rental::{Desk, DeskError},
};
use exodrive_domain::booking::{Act, BookingRefusal};
use exodrive_projections::{Database, Error, Identity, views::bookings::read::due_holds};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often is looked.
const TICK: Duration = Duration::from_millis(500);
/// Holds ended in one go.
const BATCH: i64 = 200;

/// Looks and ends holds until `stop`.
pub async fn run(desk: Desk, database: Database, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = end_due(&desk, &database).await {
            let error = exodrive_runtime::error_chain(&error);
            tracing::warn!(error, "Cannot look for holds that have ended, will look again");
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn end_due(desk: &Desk, database: &Database) -> Result<(), Error> {
    let now = desk.now();
    let due = {
        let mut reader = database.read_as(&Identity::System).await?;
        due_holds(&mut reader, now, BATCH).await?
    };
    for booking_id in due {
        let Ok(id) = booking_id.parse() else { continue };
        let done = desk.act(id, Act::Expire, &circumstances(&booking_id, now)).await;
        match done {
            Ok(_) => tracing::info!(booking_id, "Ended the hold of an unpaid booking"),
            // Paid, cancelled or ended by another worker meanwhile: the view
            // will know in a moment.
            Err(DeskError::Booking(
                BookingRefusal::WrongStatus { .. } | BookingRefusal::KeyReused,
            )) => {}
            Err(error) => {
                let error = exodrive_runtime::error_chain(&error);
                tracing::warn!(booking_id, error, "Cannot end a hold, will try again");
            }
        }
    }
    Ok(())
}

fn circumstances(booking_id: &str, now: DateTime<Utc>) -> Circumstances {
    Circumstances {
        // A hold may begin again after a payment that failed.
        command_id: format!("expire-{booking_id}-{}", now.timestamp_micros()),
        request_hash: "expire".to_owned(),
        party: Party::System("hold-expiry"),
        if_position: None,
        happened_at: None,
        actor: None,
        traceparent: None,
        correlation: None,
    }
}
