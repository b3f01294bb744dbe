//! Applies operators' events to the database.

use crate::{
    Database, Error, Transaction,
    engine::store::{
        self,
        operations::{self, NewRebuild, UnrecordedSwap},
        states::RebuildKind,
    },
};
use chrono::{DateTime, Utc};
use exodrive_domain::operation::{Operation, OperationEvent};
use exodrive_log::Log;
use sqlx::PgConnection;
use uuid::Uuid;

/// An event of an operator, as the log holds it.
#[derive(Clone, Debug)]
pub struct OperatorCommand<'a> {
    /// Its position.
    pub position: u64,
    /// Its id, which becomes the id of a rebuild that it requests.
    pub id: Uuid,
    /// The operator.
    pub actor: &'a str,
    /// Time that the log stored it.
    pub at: DateTime<Utc>,
    /// The event.
    pub event: &'a OperationEvent,
}

impl Database {
    /// The position up to which operators' events have been applied.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn applied_position(&self) -> Result<u64, Error> {
        operations::position(self.pool()).await
    }

    /// The same, for a worker, which must not apply events of another log than the one that this
    /// database belongs to.
    ///
    /// # Errors
    /// When the database does not answer, or belongs to another log.
    pub async fn applied_position_in(&self, log: &Log) -> Result<u64, Error> {
        let made = exodrive_domain::time::format(&log.created_at());
        store::check_log(self.pool(), &made).await?;
        self.applied_position().await
    }

    /// Applies an event, unless a worker has: its effect and its position are one transaction.
    /// Returns true if this call applied it.
    ///
    /// # Errors
    /// When the database does not answer; the event must be applied again.
    pub async fn apply_command(&self, command: &OperatorCommand<'_>) -> Result<bool, Error> {
        // Commands from before the database was made have no effect on it.
        let made = operations::database_made(self.pool()).await?;
        let stale = made.is_some_and(|made| seconds(command.at) < made - CLOCKS_DIFFER);
        let mut transaction = Transaction::begin(self.pool()).await?;
        if !operations::claim_position(&mut transaction, command.position).await? {
            return Ok(false);
        }
        let projection = &command.event.projection;
        if !operations::knows(&mut transaction, projection).await? {
            tracing::warn!(
                projection,
                position = command.position,
                "An operator's event is about a projection that is not here, it has no effect"
            );
        } else if stale && !outlives_database(&command.event.operation) {
            tracing::info!(
                projection,
                position = command.position,
                "An operator's event is older than this database, it has no effect"
            );
        } else {
            apply_operation(&mut transaction, command).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Skips an event that cannot be applied.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn skip_command(&self, position: u64) -> Result<bool, Error> {
        let mut transaction = Transaction::begin(self.pool()).await?;
        let first = operations::claim_position(&mut transaction, position).await?;
        transaction.commit().await?;
        Ok(first)
    }

    /// Swaps that the log has not recorded yet.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn unrecorded_swaps(&self) -> Result<Vec<UnrecordedSwap>, Error> {
        operations::unrecorded_swaps(self.pool()).await
    }

    /// Remembers that the log has recorded a swap.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mark_recorded(&self, rebuild: &str) -> Result<(), Error> {
        operations::mark_recorded(self.pool(), rebuild).await
    }
}

/// Seconds by which the clocks of the log and of Postgres may differ.
const CLOCKS_DIFFER: f64 = 60.0;

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

/// True if an operator's event has an effect on a database that is made after it.
fn outlives_database(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Paused {} | Operation::Resumed {} | Operation::EventSkipped { .. }
    )
}

async fn apply_operation(
    connection: &mut PgConnection,
    command: &OperatorCommand<'_>,
) -> Result<(), Error> {
    let OperationEvent { projection, reason, operation } = command.event;
    match operation {
        Operation::RebuildRequested {
            version,
            key,
            from_position,
            partitions,
            accept_differences,
        } => {
            let kind = if key.is_some() { RebuildKind::Key } else { RebuildKind::Rebuild };
            let new = NewRebuild {
                key: key.as_deref(),
                from_position: from_position.map(store::to_i64),
                partitions: partitions.map(store::to_i32),
                accepted: *accept_differences,
                ..of(command, kind, *version)
            };
            insert_rebuild(connection, new).await
        }
        Operation::RollbackRequested { version, generation } => {
            let new = NewRebuild {
                generation: Some(*generation),
                ..of(command, RebuildKind::Rollback, *version)
            };
            insert_rebuild(connection, new).await
        }
        Operation::RebuildAccepted { rebuild } => {
            operations::accept(connection, projection, *rebuild).await
        }
        Operation::RebuildCancelled { rebuild } => {
            operations::cancel(connection, projection, *rebuild).await
        }
        Operation::Paused {} => {
            operations::pause(connection, projection, reason, command.actor).await
        }
        Operation::Resumed {} => operations::resume(connection, projection).await,
        Operation::RetryRequested { key } => {
            operations::retry(connection, projection, key.as_deref()).await
        }
        Operation::EventSkipped { key, position } => {
            let position = store::to_i64(*position);
            operations::skip(connection, projection, key, position, command.actor, reason).await?;
            operations::retry(connection, projection, Some(key)).await
        }
        Operation::PruneRequested { generations } => {
            operations::prune(connection, projection, generations).await
        }
        // A worker recorded it after it had done the swap.
        Operation::Swapped { .. } => Ok(()),
    }
}

fn of<'a>(command: &OperatorCommand<'a>, kind: RebuildKind, version: u32) -> NewRebuild<'a> {
    NewRebuild {
        id: command.id,
        projection: &command.event.projection,
        kind,
        version: store::to_i32(version),
        key: None,
        from_position: None,
        partitions: None,
        actor: command.actor,
        reason: &command.event.reason,
        accepted: false,
        generation: None,
        requested_at: seconds(command.at),
        error: None,
    }
}

/// Begins a rebuild or a rollback, or records why it cannot begin. The client that polls for it
/// finds it either way.
async fn insert_rebuild(
    connection: &mut PgConnection,
    mut new: NewRebuild<'_>,
) -> Result<(), Error> {
    let projection = new.projection;
    let under_way = operations::under_way(connection, projection).await?;
    new.error = under_way.map(|id| {
        format!(
            "rebuild {id} of {projection} was under way: wait for it, or cancel it, then ask again"
        )
    });
    operations::request(connection, &new).await
}
