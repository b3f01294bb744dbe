//! Checkpoints, and the leases without which no worker may move them.

use super::{
    states::{GenerationState, RebuildKind, RebuildState},
    to_i64, to_u64,
};
use crate::{
    Error,
    engine::{PartitionId, fold::Counts, projection::Definition},
};
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

/// Time without a heartbeat after which another worker takes over.
pub const LEASE: Duration = Duration::from_secs(3);

/// The right to write one partition of a generation, until another worker takes over.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) part: PartitionId,
    pub(crate) epoch: i64,
    pub(crate) position: u64,
    pub(crate) published: u64,
}

/// Takes a partition over if no worker holds it. Raises the fencing epoch, so that the previous
/// holder can write no more.
pub(crate) async fn acquire(
    definition: Definition,
    pool: &PgPool,
    part: PartitionId,
    worker: &str,
) -> Result<Option<Lease>, Error> {
    let taken = sqlx::query!(
        "update checkpoints set epoch = epoch + 1, worker = $4, heartbeat_at = clock_timestamp(),
             lease_until = clock_timestamp() + make_interval(secs => $5)
         where projection = $1 and generation = $2 and partition = $3
           and (lease_until is null or lease_until < clock_timestamp())
         returning epoch, position, published",
        definition.name,
        part.generation,
        part.partition,
        worker,
        LEASE.as_secs_f64()
    )
    .fetch_optional(pool)
    .await?;
    Ok(taken.map(|taken| Lease {
        part,
        epoch: taken.epoch,
        position: to_u64(taken.position),
        published: to_u64(taken.published),
    }))
}

/// Directives that a worker reads with its heartbeat.
pub(crate) struct Directives {
    /// The generation's state.
    pub(crate) state: GenerationState,
    /// True if nothing may be folded.
    pub(crate) paused: bool,
    /// True if no reader uses the generation: its writer only folds rows again that must be, and
    /// then rests.
    pub(crate) unread: bool,
    /// Number of swaps so far.
    pub(crate) swaps: i64,
    /// True if events are left out of rows: parked or skipped ones.
    pub(crate) excludes: bool,
    /// True if rows may have to be folded again.
    pub(crate) refolds: bool,
}

/// Keeps the lease without moving the checkpoint, and reads the directives. One statement says what
/// else is to be read: mostly nothing.
pub(crate) async fn heartbeat(
    definition: Definition,
    pool: &PgPool,
    lease: &Lease,
    events_per_second: f64,
) -> Result<Directives, Error> {
    let saved = sqlx::query_as!(
        Directives,
        r#"update checkpoints set heartbeat_at = clock_timestamp(), published = $5,
             events_per_second = $6,
             lease_until = clock_timestamp() + make_interval(secs => $7)
         from generations, projections
         where checkpoints.projection = $1 and checkpoints.generation = $2 and partition = $3
           and epoch = $4 and generations.projection = $1 and generations.generation = $2
           and projections.name = $1
         returning generations.state as "state: GenerationState", projections.paused, projections.swaps,
             generations.state = $8 and (generations.withdrawn
                 or generations.version = (select version from generations as active
                     where active.projection = $1 and active.generation = active_generation))
                 as "unread!",
             exists (select from parked_events as parked where parked.projection = $1
                     and parked.generation = $2 and parked.partition = $3)
                 or exists (select from skipped_events as skipped where skipped.projection = $1)
                 as "excludes!",
             exists (select from rebuilds where rebuilds.projection = $1
                     and rebuilds.kind = $9 and rebuilds.state = $10)
                 or exists (select from refolds_due as due where due.projection = $1
                     and due.generation = $2 and due.partition = $3
                     and due.next_attempt_at <= clock_timestamp())
                 as "refolds!""#,
        definition.name,
        lease.part.generation,
        lease.part.partition,
        lease.epoch,
        to_i64(lease.published),
        events_per_second as f32,
        LEASE.as_secs_f64(),
        GenerationState::Previous as _,
        RebuildKind::Key as _,
        RebuildState::Queued as _
    );
    saved.fetch_optional(pool).await?.ok_or(Error::Fenced(definition.name))
}

/// Gives the lease up, so that another worker need not wait for it to end.
pub(crate) async fn release(
    definition: Definition,
    pool: &PgPool,
    lease: &Lease,
) -> Result<(), Error> {
    sqlx::query!(
        "update checkpoints set lease_until = null, worker = null, published = $5
         where projection = $1 and generation = $2 and partition = $3 and epoch = $4",
        definition.name,
        lease.part.generation,
        lease.part.partition,
        lease.epoch,
        to_i64(lease.published)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// No row was written: for [`advance`].
pub(crate) const NOTHING: (usize, &Counts) = (0, &Counts::new());

/// Moves the checkpoint and keeps the lease, unless the lease is lost. `folded` is the number of
/// rows that were written, and what they change in the numbers that lists show.
pub(crate) async fn advance(
    definition: Definition,
    connection: &mut PgConnection,
    lease: &Lease,
    position: u64,
    (folded, counts): (usize, &Counts),
) -> Result<(), Error> {
    let (names, changes): (Vec<_>, Vec<_>) =
        counts.iter().map(|(name, by)| (name.clone(), *by)).unzip();
    let moved = sqlx::query!(
        "update checkpoints set position = $6, folded = folded + $7, published = $8,
             heartbeat_at = clock_timestamp(),
             lease_until = clock_timestamp() + make_interval(secs => $9),
             counts = case when cardinality($10::text[]) = 0 or counts is null then counts else
                 (select jsonb_object_agg(name, rows) from (
                     select name, sum(rows) as rows from (
                         select key as name, value::bigint as rows from jsonb_each_text(counts)
                         union all
                         select * from unnest($10::text[], $11::bigint[])) as each
                     group by name) as sums) end
         where projection = $1 and generation = $2 and partition = $3 and epoch = $4
           and position = $5",
        definition.name,
        lease.part.generation,
        lease.part.partition,
        lease.epoch,
        to_i64(lease.position),
        to_i64(position),
        folded as i64,
        to_i64(lease.published),
        LEASE.as_secs_f64(),
        &names,
        &changes
    )
    .execute(connection)
    .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced(definition.name)) }
}

/// Records that a worker is alive, and returns the number of partitions that is its fair share.
pub(crate) async fn share(pool: &PgPool, worker: &str) -> Result<usize, Error> {
    sqlx::query!(
        "insert into workers (name, seen_at) values ($1, clock_timestamp())
         on conflict (name) do update set seen_at = excluded.seen_at",
        worker
    )
    .execute(pool)
    .await?;
    let counted = sqlx::query!(
        r#"select (select count(*) from checkpoints join generations using (projection, generation)
             where state = any($2)
               or heartbeat_at > clock_timestamp() - make_interval(secs => $1)) as "parts!",
             (select count(*) from workers
              where seen_at > clock_timestamp() - make_interval(secs => $1)) as "workers!""#,
        LEASE.as_secs_f64(),
        GenerationState::kept_level() as _
    )
    .fetch_one(pool)
    .await?;
    let share = to_u64(counted.parts).div_ceil(to_u64(counted.workers).max(1));
    Ok(usize::try_from(share).unwrap_or(usize::MAX))
}

/// Removes a worker that stops, so that the others get its share at once.
pub(crate) async fn leave(pool: &PgPool, worker: &str) -> Result<(), Error> {
    sqlx::query!(
        "delete from workers where name = $1 or seen_at < clock_timestamp() - interval '1 hour'",
        worker
    )
    .execute(pool)
    .await?;
    Ok(())
}
