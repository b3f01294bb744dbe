//! Applies operators' events about projections, each once, and records finished
//! swaps in the log.

use crate::{Next, StepError, System, Worker};
use chrono::{DateTime, Utc};
use exodrive_commands::event::decided_event;
use exodrive_domain::{
    Envelope, Payload, Recorded, Subject, decode,
    operation::{OPERATION_SUBJECTS, Operation, OperationEvent},
};
use exodrive_log::{Log, NewEvent, Reader};
use exodrive_projections::{
    Database, Error,
    engine::operations::{OperatorCommand, UnrecordedSwap},
};
use serde::Deserialize;
use std::time::Duration;

/// The time for which a step waits for an event before it looks for finished swaps.
const TICK: Duration = Duration::from_millis(500);
/// Events of one step.
const BATCH: usize = 100;

/// Applies operators' events.
pub struct ApplyOperations {
    log: Log,
    database: Database,
    reader: Option<Reader>,
}

impl Worker for ApplyOperations {
    const NAME: &'static str = "operations";
    const ABOUT: &'static str =
        "Applies operators' events (rebuild, pause, retry, ...) and records finished swaps.";

    fn new(system: &System) -> Self {
        Self { log: system.log.clone(), database: system.database.clone(), reader: None }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        // After a failure it reads again from the last event that was applied.
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let applied = self.database.applied_position_in(&self.log).await?;
                self.log.reader_of(&[OPERATION_SUBJECTS.to_owned()], applied + 1)
            }
        };
        for event in reader.next_batch(BATCH, TICK).await?.events {
            apply_event(&self.database, &event).await?;
        }
        for swap in self.database.unrecorded_swaps().await? {
            if let Some(event) = swap_event(&swap, self.log.now())? {
                self.log.append_fact(&event).await?;
            }
            self.database.mark_recorded(&swap.id).await?;
        }
        self.reader = Some(reader);
        Ok(Next::Now)
    }
}

async fn apply_event(database: &Database, recorded: &Recorded) -> Result<(), Error> {
    let position = recorded.position;
    let unreadable = |reason: String| {
        tracing::error!(
            position,
            reason,
            "An operator's event cannot be read, it is passed over: deploy the release that \
             wrote it, then ask again"
        );
    };
    let event = match decode(recorded) {
        Ok(Payload::Operation(event)) => event,
        Ok(_) => {
            unreadable(format!("its type {} is not known here", recorded.envelope.kind));
            return database.skip_command(position).await.map(drop);
        }
        Err(error) => {
            unreadable(error.to_string());
            return database.skip_command(position).await.map(drop);
        }
    };
    let id = match (recorded.envelope.id.parse(), &event.operation) {
        (Ok(id), _) => id,
        (Err(_), Operation::Swapped { rebuild, .. }) => *rebuild,
        (Err(_), _) => {
            unreadable("its id is no UUID".to_owned());
            return database.skip_command(position).await.map(drop);
        }
    };
    let actor = recorded.envelope.actor.as_deref().unwrap_or("unknown");
    let command = OperatorCommand { position, id, actor, at: recorded.stored_at, event: &event };
    if database.apply_command(&command).await? {
        let (projection, kind) = (&event.projection, event.operation.kind());
        tracing::info!(projection, position, actor, "Applied {kind}");
    }
    Ok(())
}

/// The comparison of a rebuild, as the database has it.
#[derive(Deserialize)]
struct Comparison {
    from_generation: i32,
    to_generation: i32,
    from_version: u32,
    to_version: u32,
    position: u64,
    rows: u64,
    digest: String,
    difference_count: u64,
}

impl Comparison {
    /// The comparison of a swap, or the reason that there is none.
    fn of(swap: &UnrecordedSwap) -> Result<Self, String> {
        let comparison = swap.comparison.as_ref().ok_or("it was not compared")?;
        Self::deserialize(comparison)
            .map_err(|error| format!("its comparison cannot be read: {error}"))
    }
}

/// The event that records a swap in the log; `None` if the swap cannot be recorded.
fn swap_event(
    swap: &UnrecordedSwap,
    now: DateTime<Utc>,
) -> Result<Option<NewEvent>, serde_json::Error> {
    let rebuild = swap.id.parse().map_err(|error| format!("its id is no UUID: {error}"));
    let (compared, rebuild) = match Comparison::of(swap).and_then(|it| Ok((it, rebuild?))) {
        Ok(found) => found,
        Err(reason) => {
            tracing::error!(rebuild = swap.id, reason, "A swap cannot be recorded in the log");
            return Ok(None);
        }
    };
    let operation = Operation::Swapped {
        rebuild,
        from_generation: compared.from_generation,
        to_generation: compared.to_generation,
        from_version: compared.from_version,
        to_version: compared.to_version,
        position: compared.position,
        rows: compared.rows,
        digest: compared.digest,
        differences: compared.difference_count,
    };
    let (projection, reason) = (swap.projection.clone(), swap.reason.clone());
    let event = OperationEvent { projection, reason, operation };
    let id = format!("{}/swapped", swap.id);
    let envelope = Envelope::decision(event.operation.kind(), id, now)
        .by(&*swap.actor)
        .because_of(Some(swap.id.clone()));
    let subject = Subject::Projection(event.projection.clone());
    decided_event(subject, envelope, &event).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn reason(comparison: Option<Value>) -> Option<String> {
        let swap = UnrecordedSwap {
            id: "0190a0b1-0000-7000-8000-000000000001".to_owned(),
            projection: "inbox".to_owned(),
            reason: "test".to_owned(),
            actor: "test".to_owned(),
            comparison,
        };
        Comparison::of(&swap).err()
    }

    #[test]
    fn a_comparison_that_cannot_be_read_is_not_one_that_was_never_made() {
        assert_eq!(reason(None).as_deref(), Some("it was not compared"));
        let broken = reason(Some(json!({ "from_generation": "one" }))).unwrap();
        assert!(broken.starts_with("its comparison cannot be read: "), "{broken}");
    }
}
