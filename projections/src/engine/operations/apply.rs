//! Events of operators, and what they come to.

use crate::{Database, Error, engine::store};
use chrono::{DateTime, Utc};
use exodrive_domain::operation::{Operation, OperationEvent};
use exodrive_log::Log;
use serde_json::Value;
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

/// A swap that the log has not been told of.
#[derive(Clone, Debug)]
pub struct Untold {
    /// The rebuild that it ended.
    pub id: String,
    /// Of which projection.
    pub projection: String,
    /// Why, and who wanted it.
    pub reason: String,
    /// Who wanted it.
    pub actor: String,
    /// The old and the new generation, compared.
    pub comparison: Option<Value>,
}

impl Database {
    /// How far the operators' events have been heeded.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn heeded(&self) -> Result<u64, Error> {
        let position = sqlx::query_scalar!("select position from operations");
        Ok(store::to_u64(position.fetch_one(self.pool()).await?))
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
        let made: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from min(installed_on))::float8 from _sqlx_migrations",
        )
        .fetch_one(self.pool())
        .await?;
        let stale = made.is_some_and(|made| seconds(wish.at) < made - CLOCKS_DIFFER);
        let mut transaction = self.pool().begin().await?;
        if !take(&mut transaction, wish.position).await? {
            return Ok(false);
        }
        let projection = &wish.event.projection;
        let known = sqlx::query_scalar!(
            r#"select exists (select from projections where name = $1) as "known!""#,
            projection
        );
        if !known.fetch_one(&mut *transaction).await? {
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
        let first = take(&mut transaction, position).await?;
        transaction.commit().await?;
        Ok(first)
    }

    /// Swaps that the log has not been told of.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn untold_swaps(&self) -> Result<Vec<Untold>, Error> {
        let rows = sqlx::query_as!(
            Untold,
            r#"select id::text as "id!", projection, reason, actor, comparison from rebuilds
             where state = 'done' and not told and kind in ('rebuild', 'version', 'rollback')
             order by finished_at limit 100"#
        );
        Ok(rows.fetch_all(self.pool()).await?)
    }

    /// Remembers that the log has been told of a swap.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mark_told(&self, rebuild: &str) -> Result<(), Error> {
        sqlx::query!("update rebuilds set told = true where id = $1::text::uuid", rebuild)
            .execute(self.pool())
            .await?;
        Ok(())
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

/// Takes an event's turn: locks the place, and moves it. Gives whether nobody
/// has been there.
async fn take(connection: &mut PgConnection, position: u64) -> Result<bool, Error> {
    // For whoever waits for the lock the condition is looked at again.
    let moved = sqlx::query!(
        "update operations set position = $1 where position < $1",
        store::to_i64(position)
    );
    Ok(moved.execute(connection).await?.rows_affected() == 1)
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
            let begun = New {
                kind: if key.is_some() { "key" } else { "rebuild" },
                version: store::to_i32(*version),
                key: key.as_deref(),
                from_position: from_position.map(store::to_i64),
                partitions: partitions.map(store::to_i32),
                accepted: *accept_differences,
                generation: None,
            };
            begin(connection, wish, &begun).await?;
        }
        Operation::RollbackRequested { version, generation } => {
            let begun = New {
                kind: "rollback",
                version: store::to_i32(*version),
                key: None,
                from_position: None,
                partitions: None,
                accepted: false,
                generation: Some(*generation),
            };
            begin(connection, wish, &begun).await?;
        }
        Operation::RebuildAccepted { rebuild } => {
            sqlx::query!(
                "update rebuilds set accepted = true where id = $1::text::uuid and projection = $2
                   and state not in ('done', 'cancelled', 'failed')",
                rebuild.to_string(),
                projection
            )
            .execute(connection)
            .await?;
        }
        Operation::RebuildCancelled { rebuild } => {
            sqlx::query!(
                "update rebuilds set cancel_wanted = true where id = $1::text::uuid and projection = $2
                   and state not in ('done', 'cancelled', 'failed')",
                rebuild.to_string(),
                projection
            )
            .execute(connection)
            .await?;
        }
        Operation::Paused {} => {
            sqlx::query!(
                "update projections set paused = true, pause_reason = $2, paused_by = $3
                 where name = $1",
                projection,
                reason,
                wish.actor
            )
            .execute(connection)
            .await?;
        }
        Operation::Resumed {} => {
            sqlx::query!(
                "update projections set paused = false, pause_reason = null, paused_by = null
                 where name = $1",
                projection
            )
            .execute(connection)
            .await?;
        }
        Operation::RetryRequested { key } => retry(connection, projection, key.as_deref()).await?,
        Operation::EventSkipped { key, position } => {
            sqlx::query!(
                "insert into skipped_events (projection, key, position, actor, reason)
                 values ($1, $2, $3, $4, $5) on conflict do nothing",
                projection,
                key,
                store::to_i64(*position),
                wish.actor,
                reason
            )
            .execute(&mut *connection)
            .await?;
            retry(connection, projection, Some(key)).await?;
        }
        Operation::PruneRequested { generations } => {
            sqlx::query!(
                "update generations set state = 'dropping'
                 where projection = $1 and generation = any($2) and state = 'previous'",
                projection,
                generations
            )
            .execute(connection)
            .await?;
        }
        // A worker told it, after it was done.
        Operation::Swapped { .. } => {}
    }
    Ok(())
}

struct New<'a> {
    kind: &'static str,
    version: i32,
    key: Option<&'a str>,
    from_position: Option<i64>,
    partitions: Option<i32>,
    accepted: bool,
    generation: Option<i32>,
}

/// Begins a rebuild or a rollback, or says why it cannot be. Whoever waits for
/// it finds it either way.
async fn begin(connection: &mut PgConnection, wish: &Wish<'_>, new: &New<'_>) -> Result<(), Error> {
    let projection = &wish.event.projection;
    let under_way = sqlx::query_scalar!(
        r#"select id::text as "id!" from rebuilds
         where projection = $1 and state not in ('done', 'cancelled', 'failed')"#,
        projection
    )
    .fetch_optional(&mut *connection)
    .await?;
    let error = under_way.map(|id| {
        format!(
            "rebuild {id} of {projection} was under way: wait for it, or cancel it, then ask again"
        )
    });
    sqlx::query!(
        "insert into rebuilds (id, projection, kind, version, key, from_position, partitions,
             actor, reason, accepted, generation, requested_at, error, state, finished_at)
         values ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
             to_timestamp($12::float8), $13,
             case when $13::text is null then 'queued' else 'failed' end,
             case when $13::text is null then null else now() end)
         on conflict (id) do nothing",
        wish.id.to_string(),
        projection,
        new.kind,
        new.version,
        new.key,
        new.from_position,
        new.partitions,
        wish.actor,
        wish.event.reason,
        new.accepted,
        new.generation,
        seconds(wish.at),
        error
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Wants parked events retried, in the generation that readers see and in one
/// that is on its way to them.
async fn retry(
    connection: &mut PgConnection,
    projection: &str,
    key: Option<&str>,
) -> Result<(), Error> {
    sqlx::query!(
        "update parked_events as parked set retry_wanted = true, next_attempt_at = now()
         from generations as of
         where parked.projection = $1 and ($2::text is null or parked.key = $2)
           and of.projection = parked.projection and of.generation = parked.generation
           and of.state in ('active', 'catching_up')",
        projection,
        key
    )
    .execute(connection)
    .await?;
    Ok(())
}
