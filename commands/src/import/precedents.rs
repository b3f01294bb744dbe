//! What decides a step before it is sent: what earlier imports took, what was
//! made in this system under the same id, and what this import refused. The
//! import and its rehearsal ask the same.

use super::{ImportCommand, Outcome, PREFIX, Step, command_context, refusal};
use crate::{context::CommandContext, rental::RentalError};
use exodrive_domain::{
    Recorded,
    booking::{BOOKING_SUBJECTS, BookingCommand},
    id::BookingId,
};
use exodrive_log::{Log, ReadError};
use serde::Deserialize;
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Events that are read at a time.
const BATCH: usize = 5_000;

/// What decides a step before it is sent.
pub(super) struct Precedents {
    /// Hash of the request of each command that an import sent, by its id in
    /// small letters. Events of emails have none.
    imported: HashMap<String, Option<String>>,
    /// Every booking of the log.
    bookings: HashSet<BookingId>,
    /// Steps that this import refused, with the reason.
    refused: Mutex<HashMap<String, String>>,
}

/// What events of bookings and cars have in common.
#[derive(Deserialize)]
struct Body {
    request_hash: Option<String>,
    booking_id: Option<BookingId>,
}

impl Precedents {
    /// Reads the log to its present end.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) async fn read(log: &Log) -> Result<Self, ReadError> {
        let end = log.last_position().await?;
        let mut reader = log.reader(1);
        let (mut imported, mut bookings) = (HashMap::new(), HashSet::new());
        let mut position = 0;
        while position < end {
            let batch = reader.next_batch(BATCH, Duration::from_secs(5)).await?;
            let Some(last) = batch.events.last() else { break };
            position = last.position;
            for event in &batch.events {
                let ours = event.envelope.id.starts_with(PREFIX);
                if !ours && !is_of_calendar(event) {
                    continue;
                }
                // The body of an email is the provider's, or is erased.
                let body = serde_json::from_slice::<Body>(&event.body).ok();
                bookings.extend(body.as_ref().and_then(|body| body.booking_id));
                if ours {
                    let hash = body.and_then(|body| body.request_hash);
                    imported.insert(event.envelope.id.to_ascii_lowercase(), hash);
                }
            }
        }
        Ok(Self { imported, bookings, refused: Mutex::default() })
    }

    /// The outcome of a step. `send` is called if nothing has decided it yet.
    ///
    /// # Errors
    /// An error of `send` that is not about the step's rows.
    pub(super) async fn settle(
        &self,
        log: &Log,
        step: &Step,
        send: impl AsyncFnOnce(CommandContext) -> Result<Outcome, RentalError>,
    ) -> Result<Outcome, RentalError> {
        let context = command_context(log, step)?;
        let outcome = match self.decided(step, &context) {
            Some(outcome) => outcome,
            None => match send(context).await {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Refused(refusal(error)?),
            },
        };
        if let Outcome::Refused(why) = &outcome {
            self.refused().insert(step.id.clone(), why.clone());
        }
        Ok(outcome)
    }

    fn decided(&self, step: &Step, context: &CommandContext) -> Option<Outcome> {
        if let Some((what, needed)) = &step.needs
            && let Some(why) = self.refused().get(needed)
        {
            return Some(Outcome::Refused(format!("its {what} was refused: {why}")));
        }
        match self.imported.get(&context.command_id.to_ascii_lowercase()) {
            Some(Some(hash)) if *hash != context.request_hash => Some(Outcome::Changed),
            Some(_) => Some(Outcome::Known),
            None => match &step.command {
                ImportCommand::Booking(_, BookingCommand::Import(import))
                    if self.bookings.contains(&import.id) =>
                {
                    let why = "a booking with this id exists here, and no import made it";
                    Some(Outcome::Refused(why.to_owned()))
                }
                _ => None,
            },
        }
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if the event changes a booking or a block.
fn is_of_calendar(event: &Recorded) -> bool {
    event.subject.starts_with(BOOKING_SUBJECTS.trim_end_matches('>'))
}
