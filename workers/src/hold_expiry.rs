//! Ends the holds of bookings that nobody paid, by an event.
//!
//! It follows the calendars in the log, and keeps the open holds in a table of
//! its own. It asks no view: a row that is parked or missing keeps no hold open.
//! The decision is made on the log, by the log's clock. Any number of processes
//! may do so: of two that move the table, the first one does, and of two that
//! end a hold, the first one's event stands.

use crate::{Next, StepError, System, Worker};
use chrono::{DateTime, Utc};
use exodrive_commands::{
    context::{Actor, CommandContext},
    rental::{RentalCommands, RentalError},
};
use exodrive_domain::{
    KnownEvent, Payload, Recorded, UnreadableEvent,
    booking::{BOOKING_SUBJECTS, BookingAction, BookingRejection, HoldUpdate},
    id::BookingId,
};
use exodrive_log::{Commands, Log, Reader};
use exodrive_projections::{Database, engine::store::OpenHold};
use std::{collections::BTreeMap, time::Duration};

/// The time for which a step waits for an event before it looks for holds that
/// have ended.
const TICK: Duration = Duration::from_millis(500);
/// Events that are followed in one step.
const BATCH: usize = 1_000;

/// Ends holds that are due.
pub struct HoldExpiry {
    rental: RentalCommands,
    log: Log,
    database: Database,
    following: Option<Following>,
}

/// A reader of the calendars that is level with the table, or behind it.
struct Following {
    reader: Reader,
    /// The position up to which it has read.
    position: u64,
}

/// How far the table is.
enum Progress {
    /// It has the newest events, or almost.
    Level,
    /// Many events are still to be read.
    Behind,
}

/// The log holds an event that may open or end a hold, and that this release
/// cannot read. A release that can read it goes on from there.
#[derive(Debug, thiserror::Error)]
#[error("holds of later events are not known: the event at position {position} cannot be read")]
struct Stopped {
    position: u64,
    #[source]
    source: UnreadableEvent,
}

impl Worker for HoldExpiry {
    const NAME: &'static str = "hold-expiry";
    const ABOUT: &'static str = "Ends the holds of bookings that nobody paid in time.";

    fn new(system: &System) -> Self {
        let System { log, database, readers, cache, .. } = system.clone();
        let commands = Commands::new(log.clone(), Some(cache.redis().clone()));
        let rental = RentalCommands::new(commands, readers, cache);
        Self { rental, log, database, following: None }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        let followed = self.follow().await;
        // Most holds of the past are over by an event that is still to be read.
        if matches!(followed, Ok(Progress::Behind)) {
            return Ok(Next::Now);
        }
        // The known holds end, whatever cannot be read after them.
        let ended = end_due(&self.rental, &self.database).await;
        followed?;
        ended?;
        Ok(Next::Now)
    }
}

impl HoldExpiry {
    /// Waits for events, and brings the open holds up to date.
    async fn follow(&mut self) -> Result<Progress, StepError> {
        let position = self.database.open_holds_position().await?;
        // Another process may have moved the table on, or begun it again.
        let mut following = match self.following.take() {
            Some(following) if following.position <= position => following,
            _ => {
                self.database.check_open_holds(&self.log, position).await?;
                let filters = [BOOKING_SUBJECTS.to_owned()];
                Following { reader: self.log.reader_of(&filters, position + 1), position }
            }
        };
        let batch = following.reader.next_batch(BATCH, TICK).await?;
        let new = batch.events.iter().filter(|event| event.position > position);
        let Changes { holds, read, stopped } = Changes::of(new);
        if let Some(read) = read {
            // If another process was first, it has made the same changes.
            self.database.change_open_holds(position, read, &holds).await?;
        }
        if let Some(stopped) = stopped {
            return Err(stopped.into());
        }
        following.position = batch.events.last().map_or(following.position, |last| last.position);
        self.following = Some(following);
        Ok(if batch.pending < BATCH as u64 { Progress::Level } else { Progress::Behind })
    }
}

/// What events change in the open holds.
#[derive(Default)]
struct Changes {
    /// The hold of each booking after them; `None` if it is over.
    holds: BTreeMap<BookingId, Option<OpenHold>>,
    /// The position of the last one that was read.
    read: Option<u64>,
    /// Why the others were not read, if they were not.
    stopped: Option<Stopped>,
}

impl Changes {
    fn of<'a>(events: impl Iterator<Item = &'a Recorded>) -> Self {
        let mut changes = Self::default();
        for recorded in events {
            let position = recorded.position;
            match KnownEvent::read(recorded) {
                Ok(known) => changes.apply(known.event().payload),
                Err(source) => {
                    changes.stopped = Some(Stopped { position, source });
                    break;
                }
            }
            changes.read = Some(position);
        }
        changes
    }

    fn apply(&mut self, payload: &Payload) {
        let Payload::Booking(event) = payload else { return };
        match HoldUpdate::of(event) {
            HoldUpdate::Opened { car_id, ends_at } => {
                self.holds.insert(event.booking_id, Some(OpenHold { car_id, ends_at }));
            }
            HoldUpdate::Over => {
                self.holds.insert(event.booking_id, None);
            }
            HoldUpdate::Unchanged => {}
        }
    }
}

async fn end_due(rental: &RentalCommands, database: &Database) -> Result<(), StepError> {
    let now = rental.now();
    let (mut ended, mut failed) = (0_u32, None);
    for (booking_id, car_id) in database.ended_holds(now).await? {
        let context = command_context(booking_id, now);
        let done =
            rental.change_booking_on(car_id, booking_id, BookingAction::Expire, &context).await;
        let booking_id = booking_id.to_string();
        match done {
            Ok(_) => {
                ended += 1;
                tracing::info!(booking_id, "Ended the hold of an unpaid booking");
            }
            // Paid, cancelled or ended by another worker meanwhile: the event is
            // about to be read.
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

fn command_context(booking_id: BookingId, now: DateTime<Utc>) -> CommandContext {
    // A hold may begin again after a payment that failed.
    let id = format!("expire-{booking_id}-{}", now.timestamp_micros());
    CommandContext::new(id, "expire", Actor::System("hold-expiry"))
}
