//! Rebuilds that operators and releases request, from the request to the end.

use super::{
    LEASE,
    comparison::Comparison,
    states::{RebuildKind, RebuildState},
    to_i64, to_u64,
};
use crate::{
    Error,
    engine::{PartitionId, projection::Definition},
};
use serde_json::json;
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

/// A rebuild that this worker executes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: Uuid,
    pub(crate) kind: RebuildKind,
    pub(crate) epoch: i64,
    pub(crate) generation: Option<i32>,
    pub(crate) partitions: Option<i32>,
    pub(crate) from_position: Option<u64>,
}

/// Takes over a rebuild of this projection and version, if there is one that no worker executes.
pub(crate) async fn acquire(
    definition: Definition,
    pool: &PgPool,
    worker: &str,
) -> Result<Option<Job>, Error> {
    let taken = sqlx::query!(
        r#"update rebuilds set worker = $3, epoch = epoch + 1,
             started_at = coalesce(started_at, clock_timestamp()),
             lease_until = clock_timestamp() + make_interval(secs => $4)
         where id = (select id from rebuilds
             where projection = $1 and version = $2 and kind <> $5
               and state <> all($6)
               and (lease_until is null or lease_until < clock_timestamp())
             limit 1 for update skip locked)
         returning id, kind as "kind: RebuildKind", epoch, generation, partitions,
             from_position"#,
        definition.name,
        definition.version,
        worker,
        LEASE.as_secs_f64(),
        RebuildKind::Key as _,
        RebuildState::over() as _
    )
    .fetch_optional(pool)
    .await?;
    Ok(taken.map(|taken| Job {
        id: taken.id,
        kind: taken.kind,
        epoch: taken.epoch,
        generation: taken.generation,
        partitions: taken.partitions,
        from_position: taken.from_position.map(to_u64),
    }))
}

/// Progress of a rebuild.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RebuildProgress {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) events_per_second: f64,
    pub(crate) resident: u64,
    pub(crate) resident_limit: u64,
    pub(crate) yielded_seconds: f64,
}

/// An operator's input to a rebuild while it runs.
pub(crate) struct OperatorInput {
    pub(crate) accepted: bool,
    pub(crate) cancel_wanted: bool,
}

/// Keeps the lease of a rebuild and stores its progress.
pub(crate) async fn heartbeat(
    definition: Definition,
    pool: &PgPool,
    job: &Job,
    reached: RebuildProgress,
) -> Result<OperatorInput, Error> {
    let said = sqlx::query_as!(
        OperatorInput,
        "update rebuilds set lease_until = clock_timestamp() + make_interval(secs => $3),
             done = $4, total = $5, events_per_second = $6, resident = $7, resident_limit = $8,
             yielded_seconds = $9
         where id = $1 and epoch = $2 and state <> all($10)
         returning accepted, cancel_wanted",
        job.id,
        job.epoch,
        LEASE.as_secs_f64(),
        to_i64(reached.done),
        to_i64(reached.total),
        reached.events_per_second as f32,
        to_i64(reached.resident),
        to_i64(reached.resident_limit),
        reached.yielded_seconds as f32,
        RebuildState::over() as _
    );
    said.fetch_optional(pool).await?.ok_or(Error::Fenced(definition.name))
}

/// Moves a rebuild to its next state, from one that this may follow; if it is
/// over then, its lease ends.
///
/// # Errors
/// When another worker has taken it over, or ended it.
pub(crate) async fn enter(
    definition: Definition,
    connection: &mut PgConnection,
    job: &Job,
    next: RebuildState,
) -> Result<(), Error> {
    let moved = sqlx::query!(
        "update rebuilds set state = $3, generation = coalesce($4, generation),
             finished_at = case when $5 then clock_timestamp() end,
             worker = case when not $5 then worker end,
             lease_until = case when not $5 then lease_until end
         where id = $1 and epoch = $2 and state = any($6)",
        job.id,
        job.epoch,
        next as _,
        job.generation,
        next.is_over(),
        next.predecessors() as _
    )
    .execute(connection)
    .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced(definition.name)) }
}

/// Stores the comparison of the two generations.
pub(crate) async fn compared(
    connection: &mut PgConnection,
    job: &Job,
    comparison: &Comparison,
) -> Result<(), Error> {
    sqlx::query!(
        "update rebuilds set comparison = $3, done = $4, total = greatest(total, $4)
         where id = $1 and epoch = $2",
        job.id,
        job.epoch,
        Json(comparison) as _,
        to_i64(comparison.position)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Fails a rebuild, for a reason that no retry resolves, unless another worker has taken it over. A
/// rebuild of a single row has no lease and epoch 0.
pub(crate) async fn fail(
    connection: &mut PgConnection,
    id: Uuid,
    epoch: i64,
    error: &str,
) -> Result<(), Error> {
    let next = RebuildState::Failed;
    sqlx::query!(
        "update rebuilds set state = $4, error = $3, finished_at = clock_timestamp(),
             worker = null, lease_until = null
         where id = $1 and epoch = $2 and state = any($5)",
        id,
        epoch,
        error,
        next as _,
        next.predecessors() as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives up the lease of a rebuild, so that another worker takes it over.
pub(crate) async fn release(pool: &PgPool, job: &Job) -> Result<(), Error> {
    sqlx::query!(
        "update rebuilds set lease_until = null, worker = null where id = $1 and epoch = $2",
        job.id,
        job.epoch
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// One row of this partition of the active generation that an operator requested to be folded
/// again.
pub(crate) async fn key_requested(
    definition: Definition,
    pool: &PgPool,
    part: PartitionId,
) -> Result<Option<(Uuid, String)>, Error> {
    let requested = sqlx::query!(
        r#"select id, key as "key!" from rebuilds
           join projections on name = projection and active_generation = $2
           where projection = $1 and kind = $3 and state = $4"#,
        definition.name,
        part.generation,
        RebuildKind::Key as _,
        RebuildState::Queued as _
    )
    .fetch_all(pool)
    .await?;
    let own = requested.into_iter().find(|requested| part.holds(&requested.key));
    Ok(own.map(|requested| (requested.id, requested.key)))
}

/// Records that a row was folded again.
pub(crate) async fn key_done(
    definition: Definition,
    connection: &mut PgConnection,
    id: Uuid,
    part: PartitionId,
    position: u64,
    key: &str,
    differs: bool,
) -> Result<(), Error> {
    let differences: Vec<_> =
        differs.then(|| json!({ "key": key, "change": "changed" })).into_iter().collect();
    let comparison = json!({
        "from_generation": part.generation, "to_generation": part.generation,
        "from_version": definition.version, "to_version": definition.version,
        "position": position, "rows": 1, "digest": "",
        "difference_count": differences.len(), "differences": differences,
    });
    let next = RebuildState::Done;
    sqlx::query!(
        "update rebuilds set state = $5, comparison = $2, generation = $3,
             started_at = coalesce(started_at, requested_at), finished_at = clock_timestamp(),
             done = $4, total = $4
         where id = $1 and state = any($6)",
        id,
        comparison,
        part.generation,
        to_i64(position),
        next as _,
        next.predecessors() as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
