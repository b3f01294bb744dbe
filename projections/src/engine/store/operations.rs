//! The position up to which operators' events have been applied, and the tables that they change.

use super::{
    states::{GenerationState, RebuildKind, RebuildState},
    to_i64, to_u64,
};
use crate::Error;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A swap that the log has not recorded yet.
#[derive(Clone, Debug)]
pub struct UnrecordedSwap {
    /// The rebuild that it ended.
    pub id: String,
    /// Its projection.
    pub projection: String,
    /// The reason, as the requester wrote it.
    pub reason: String,
    /// The requester.
    pub actor: String,
    /// The old and the new generation, compared.
    pub comparison: Option<Value>,
}

/// The position up to which operators' events have been applied.
pub(crate) async fn position(pool: &PgPool) -> Result<u64, Error> {
    let position = sqlx::query_scalar!("select position from operations");
    Ok(to_u64(position.fetch_one(pool).await?))
}

/// Time that the database was made, in seconds since 1970.
pub(crate) async fn database_made(pool: &PgPool) -> Result<Option<f64>, Error> {
    let made = sqlx::query_scalar(
        "select extract(epoch from min(installed_on))::float8 from _sqlx_migrations",
    );
    Ok(made.fetch_one(pool).await?)
}

/// Claims an event: locks the applied position, and moves it. Returns false if the event was
/// already applied.
pub(crate) async fn claim_position(
    connection: &mut PgConnection,
    position: u64,
) -> Result<bool, Error> {
    // A transaction that waited for the lock evaluates the condition again.
    let moved =
        sqlx::query!("update operations set position = $1 where position < $1", to_i64(position));
    Ok(moved.execute(connection).await?.rows_affected() == 1)
}

/// True if there is a projection of this name.
pub(crate) async fn knows(connection: &mut PgConnection, projection: &str) -> Result<bool, Error> {
    let known = sqlx::query_scalar!(
        r#"select exists (select from projections where name = $1) as "known!""#,
        projection
    );
    Ok(known.fetch_one(connection).await?)
}

/// Swaps that the log has not recorded yet.
pub(crate) async fn unrecorded_swaps(pool: &PgPool) -> Result<Vec<UnrecordedSwap>, Error> {
    let rows = sqlx::query_as!(
        UnrecordedSwap,
        r#"select id::text as "id!", projection, reason, actor, comparison from rebuilds
             where state = $1 and not told and kind <> $2
             order by finished_at limit 100"#,
        RebuildState::Done as _,
        RebuildKind::Key as _
    );
    Ok(rows.fetch_all(pool).await?)
}

/// Remembers that the log has recorded a swap.
pub(crate) async fn mark_recorded(pool: &PgPool, rebuild: &str) -> Result<(), Error> {
    sqlx::query!("update rebuilds set told = true where id = $1::text::uuid", rebuild)
        .execute(pool)
        .await?;
    Ok(())
}

/// The rebuild of a projection that has not ended.
pub(crate) async fn under_way(
    connection: &mut PgConnection,
    projection: &str,
) -> Result<Option<String>, Error> {
    let under_way = sqlx::query_scalar!(
        r#"select id::text as "id!" from rebuilds
         where projection = $1 and state <> all($2)"#,
        projection,
        RebuildState::over() as _
    );
    Ok(under_way.fetch_optional(connection).await?)
}

/// A rebuild or a rollback that an operator requests.
pub(crate) struct NewRebuild<'a> {
    pub(crate) id: Uuid,
    pub(crate) projection: &'a str,
    pub(crate) kind: RebuildKind,
    pub(crate) version: i32,
    pub(crate) key: Option<&'a str>,
    pub(crate) from_position: Option<i64>,
    pub(crate) partitions: Option<i32>,
    pub(crate) actor: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) accepted: bool,
    pub(crate) generation: Option<i32>,
    /// In seconds since 1970.
    pub(crate) requested_at: f64,
    /// The reason that it fails at once, if it does.
    pub(crate) error: Option<String>,
}

/// Requests a rebuild, unless it was requested before.
pub(crate) async fn request(
    connection: &mut PgConnection,
    new: &NewRebuild<'_>,
) -> Result<(), Error> {
    let state = if new.error.is_none() { RebuildState::Queued } else { RebuildState::Failed };
    sqlx::query!(
        "insert into rebuilds (id, projection, kind, version, key, from_position, partitions,
             actor, reason, accepted, generation, requested_at, error, state, finished_at)
         values ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
             to_timestamp($12::float8), $13,
             $14, case when $13::text is null then null else now() end)
         on conflict (id) do nothing",
        new.id.to_string(),
        new.projection,
        new.kind as _,
        new.version,
        new.key,
        new.from_position,
        new.partitions,
        new.actor,
        new.reason,
        new.accepted,
        new.generation,
        new.requested_at,
        new.error.as_deref(),
        state as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Accepts that rows of a rebuild differ.
pub(crate) async fn accept(
    connection: &mut PgConnection,
    projection: &str,
    rebuild: Uuid,
) -> Result<(), Error> {
    sqlx::query!(
        "update rebuilds set accepted = true where id = $1::text::uuid and projection = $2
                   and state <> all($3)",
        rebuild.to_string(),
        projection,
        RebuildState::over() as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Requests that a rebuild be cancelled.
pub(crate) async fn cancel(
    connection: &mut PgConnection,
    projection: &str,
    rebuild: Uuid,
) -> Result<(), Error> {
    sqlx::query!(
        "update rebuilds set cancel_wanted = true where id = $1::text::uuid and projection = $2
                   and state <> all($3)",
        rebuild.to_string(),
        projection,
        RebuildState::over() as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Pauses the fold of a projection.
pub(crate) async fn pause(
    connection: &mut PgConnection,
    projection: &str,
    reason: &str,
    actor: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "update projections set paused = true, pause_reason = $2, paused_by = $3
                 where name = $1",
        projection,
        reason,
        actor
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Resumes the fold of a projection.
pub(crate) async fn resume(connection: &mut PgConnection, projection: &str) -> Result<(), Error> {
    sqlx::query!(
        "update projections set paused = false, pause_reason = null, paused_by = null
                 where name = $1",
        projection
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Leaves an event out of a row.
pub(crate) async fn skip(
    connection: &mut PgConnection,
    projection: &str,
    key: &str,
    position: i64,
    actor: &str,
    reason: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "insert into skipped_events (projection, key, position, actor, reason)
                 values ($1, $2, $3, $4, $5) on conflict do nothing",
        projection,
        key,
        position,
        actor,
        reason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks previous generations for dropping.
pub(crate) async fn prune(
    connection: &mut PgConnection,
    projection: &str,
    generations: &[i32],
) -> Result<(), Error> {
    sqlx::query!(
        "update generations set state = $3
                 where projection = $1 and generation = any($2) and state = $4",
        projection,
        generations,
        GenerationState::Dropping as _,
        GenerationState::Previous as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Requests a retry of parked events, in the generation that readers see and in those that are
/// being built.
pub(crate) async fn retry(
    connection: &mut PgConnection,
    projection: &str,
    key: Option<&str>,
) -> Result<(), Error> {
    sqlx::query!(
        "update parked_events as parked set retry_wanted = true, next_attempt_at = now()
         from generations as of
         where parked.projection = $1 and ($2::text is null or parked.key = $2)
           and of.projection = parked.projection and of.generation = parked.generation
           and of.state = any($3)",
        projection,
        key,
        GenerationState::kept_level() as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
