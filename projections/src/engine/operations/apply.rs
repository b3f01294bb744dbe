//! Events of operators, and what they come to.

use crate::{
    Database, Error,
    engine::store::{
        self,
        operations::{self, NewRebuild, Untold},
    },
};
use chrono::{DateTime, Utc};
use exodrive_domain::operation::{Operation, OperationEvent};
use exodrive_log::Log;
use sqlx::PgConnection;
use uuid::Uuid;

/// An event of an operator, as the log holds it.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Where it stands.
    pub position: u64,
    /// Its id, which a rebuild takes over.
    pub id: Uuid,
    /// Who.
    pub actor: &'a str,
    /// When the log stored it.
    pub at: DateTime<Utc>,
    /// What.
    pub event: &'a OperationEvent,
}

impl Database {
    /// How far the operators' events have been heeded.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn heeded(&self) -> Result<u64, Error> {
        operations::position(self.pool()).await
    }

    /// The same, for a worker, which refuses to heed another log than the one
    /// that this database belongs to.
    ///
    /// # Errors
    /// When the database does not answer, or belongs to another log.
    pub async fn heeded_of(&self, log: &Log) -> Result<u64, Error> {
        let made = exodrive_domain::time::format(&log.created_at());
        store::check_log(self.pool(), &made).await?;
        self.heeded().await
    }

    /// Heeds an event, unless a worker has: its effect and the place of it are
    /// one transaction. Gives whether this was the first to.
    ///
    /// # Errors
    /// When the database does not answer; the event is to be heeded again.
    pub async fn heed(&self, wish: &Wish<'_>) -> Result<bool, Error> {
        // When the database was made: what was wanted before is done with.
        let made = operations::database_made(self.pool()).await?;
        let stale = made.is_some_and(|made| seconds(wish.at) < made - CLOCKS_DIFFER);
        let mut transaction = self.pool().begin().await?;
        if !operations::take(&mut transaction, wish.position).await? {
            return Ok(false);
        }
        let projection = &wish.event.projection;
        if !operations::knows(&mut transaction, projection).await? {
            tracing::warn!(
                projection,
                position = wish.position,
                "An operator's event is about a projection that is not here, it has no effect"
            );
        } else if stale && !lasts(&wish.event.operation) {
            tracing::info!(
                projection,
                position = wish.position,
                "An operator's event is older than this database, it has no effect"
            );
        } else {
            affect(&mut transaction, wish).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Passes over an event that cannot be heeded.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pass_over(&self, position: u64) -> Result<bool, Error> {
        let mut transaction = self.pool().begin().await?;
        let first = operations::take(&mut transaction, position).await?;
        transaction.commit().await?;
        Ok(first)
    }

    /// Swaps that the log has not been told of.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn untold_swaps(&self) -> Result<Vec<Untold>, Error> {
        operations::untold_swaps(self.pool()).await
    }

    /// Remembers that the log has been told of a swap.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mark_told(&self, rebuild: &str) -> Result<(), Error> {
        operations::mark_told(self.pool(), rebuild).await
    }
}

/// By how much the clocks of the log and of Postgres may differ.
const CLOCKS_DIFFER: f64 = 60.0;

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

/// Whether an operator's event means something to a database that is made
/// after it.
fn lasts(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Paused {} | Operation::Resumed {} | Operation::EventSkipped { .. }
    )
}

async fn affect(connection: &mut PgConnection, wish: &Wish<'_>) -> Result<(), Error> {
    let OperationEvent { projection, reason, operation } = wish.event;
    match operation {
        Operation::RebuildRequested {
            version,
            key,
            from_position,
            partitions,
            accept_differences,
        } => {
            let new = NewRebuild {
                key: key.as_deref(),
                from_position: from_position.map(store::to_i64),
                partitions: partitions.map(store::to_i32),
                accepted: *accept_differences,
                ..of(wish, if key.is_some() { "key" } else { "rebuild" }, *version)
            };
            begin(connection, new).await
        }
        Operation::RollbackRequested { version, generation } => {
            let new =
                NewRebuild { generation: Some(*generation), ..of(wish, "rollback", *version) };
            begin(connection, new).await
        }
        Operation::RebuildAccepted { rebuild } => {
            operations::accept(connection, projection, *rebuild).await
        }
        Operation::RebuildCancelled { rebuild } => {
            operations::cancel(connection, projection, *rebuild).await
        }
        Operation::Paused {} => operations::pause(connection, projection, reason, wish.actor).await,
        Operation::Resumed {} => operations::resume(connection, projection).await,
        Operation::RetryRequested { key } => {
            operations::retry(connection, projection, key.as_deref()).await
        }
        Operation::EventSkipped { key, position } => {
            let position = store::to_i64(*position);
            operations::skip(connection, projection, key, position, wish.actor, reason).await?;
            operations::retry(connection, projection, Some(key)).await
        }
        Operation::PruneRequested { generations } => {
            operations::prune(connection, projection, generations).await
        }
        // A worker told it, after it was done.
        Operation::Swapped { .. } => Ok(()),
    }
}

fn of<'a>(wish: &Wish<'a>, kind: &'static str, version: u32) -> NewRebuild<'a> {
    NewRebuild {
        id: wish.id,
        projection: &wish.event.projection,
        kind,
        version: store::to_i32(version),
        key: None,
        from_position: None,
        partitions: None,
        actor: wish.actor,
        reason: &wish.event.reason,
        accepted: false,
        generation: None,
        requested_at: seconds(wish.at),
        error: None,
    }
}

/// Begins a rebuild or a rollback, or says why it cannot be. Whoever waits for
/// it finds it either way.
async fn begin(connection: &mut PgConnection, mut new: NewRebuild<'_>) -> Result<(), Error> {
    let projection = new.projection;
    let under_way = operations::under_way(connection, projection).await?;
    new.error = under_way.map(|id| {
        format!(
            "rebuild {id} of {projection} was under way: wait for it, or cancel it, then ask again"
        )
    });
    operations::request(connection, &new).await
}
