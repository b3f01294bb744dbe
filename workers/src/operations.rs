//! Heeds what operators want of the projections, as the log tells it, and tells
//! the log of finished swaps. Any number of workers may do so: each event is
//! heeded once.

use chrono::{DateTime, Utc};
use exodrive_commands::event::operation_event;
use exodrive_domain::{
    Payload, Recorded, decode,
    operation::{OPERATION_SUBJECTS, Operation, OperationEvent},
};
use exodrive_log::{AppendError, Log, NewEvent, ReadError, Reader};
use exodrive_projections::{
    Database, Error,
    engine::operations::{OperatorCommand, UnrecordedSwap},
};
use serde::Deserialize;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often is looked for finished swaps while no event comes.
const TICK: Duration = Duration::from_millis(500);
/// Events taken in one go.
const BATCH: usize = 100;
/// After an outage.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Why the next step could not be made. Every one is tried again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the event log cannot be read")]
    Read(#[from] ReadError),
    #[error("the database does not answer")]
    Database(#[from] Error),
    #[error("the event log does not take the event")]
    Append(#[from] AppendError),
    #[error("an event cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}

/// Heeds and tells until `stop`.
pub async fn run(log: Log, database: Database, stop: CancellationToken) {
    let mut reader = None;
    while !stop.is_cancelled() {
        let done = tokio::select! {
            done = apply_new_commands(&log, &database, &mut reader) => done,
            () = stop.cancelled() => return,
        };
        if let Err(error) = done {
            let error = exodrive_runtime::error_chain(&error);
            tracing::warn!(error, "Cannot heed operators' events, will try again");
            reader = None;
            tokio::select! {
                () = tokio::time::sleep(RETRY_DELAY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn apply_new_commands(
    log: &Log,
    database: &Database,
    reader: &mut Option<Reader>,
) -> Result<(), StepError> {
    let current = match reader {
        Some(reader) => reader,
        None => {
            let applied = database.applied_position_in(log).await?;
            reader.insert(log.reader_of(&[OPERATION_SUBJECTS.to_owned()], applied + 1))
        }
    };
    for event in current.next_batch(BATCH, TICK).await?.events {
        apply_event(database, &event).await?;
    }
    for swap in database.unrecorded_swaps().await? {
        if let Some(event) = swap_event(&swap, log.now())? {
            log.append_fact(&event).await?;
        }
        database.mark_recorded(&swap.id).await?;
    }
    Ok(())
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
        tracing::info!(projection, position, actor, "Heeded {kind}");
    }
    Ok(())
}

/// What a rebuild's `comparison` says.
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

/// The event that tells the log of a swap; none if it says too little of it.
fn swap_event(
    swap: &UnrecordedSwap,
    now: DateTime<Utc>,
) -> Result<Option<NewEvent>, serde_json::Error> {
    let comparison = swap.comparison.clone().unwrap_or_default();
    let compared = serde_json::from_value::<Comparison>(comparison);
    let (Ok(compared), Ok(rebuild)) = (compared, swap.id.parse()) else {
        tracing::error!(rebuild = swap.id, "A swap cannot be told to the log: it was not compared");
        return Ok(None);
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
    let mut event = operation_event(&event, format!("{}/swapped", swap.id), &swap.actor, now)?;
    event.envelope.causation = Some(swap.id.clone());
    Ok(Some(event))
}
