//! Checkpoints, and who may move them.

use super::{states::GenerationState, to_i64, to_u64};
use crate::{
    Error,
    engine::{PartitionId, projection::Definition},
};
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

/// How long a worker may be silent before another takes over.
pub const LEASE: Duration = Duration::from_secs(3);

/// The right to write one part of a generation, until another worker takes
/// over.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) part: PartitionId,
    pub(crate) epoch: i64,
    pub(crate) position: u64,
    pub(crate) published: u64,
}

/// Takes a part over if nobody holds it. Raises the fencing epoch, so that
/// whoever held it before can write no more.
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

/// What a worker learns as it shows a sign of life.
pub(crate) struct Directives {
    /// The generation's state.
    pub(crate) state: GenerationState,
    /// Whether nothing is to be folded.
    pub(crate) paused: bool,
    /// Whether nobody reads the generation: only its rows that are to be folded
    /// afresh keep it from rest.
    pub(crate) unread: bool,
    /// How often readers were given another generation.
    pub(crate) swaps: i64,
}

/// Keeps the lease without moving the checkpoint, and asks what is wanted.
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
                 as "unread!""#,
        definition.name,
        lease.part.generation,
        lease.part.partition,
        lease.epoch,
        to_i64(lease.published),
        events_per_second as f32,
        LEASE.as_secs_f64(),
        GenerationState::Previous as _
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

/// Moves the checkpoint and keeps the lease, unless the lease is lost.
pub(crate) async fn advance(
    definition: Definition,
    connection: &mut PgConnection,
    lease: &Lease,
    position: u64,
    folded: usize,
) -> Result<(), Error> {
    let moved = sqlx::query!(
        "update checkpoints set position = $6, folded = folded + $7, published = $8,
             heartbeat_at = clock_timestamp(),
             lease_until = clock_timestamp() + make_interval(secs => $9)
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
        LEASE.as_secs_f64()
    )
    .execute(connection)
    .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced(definition.name)) }
}

/// Says that a worker is there, and gives how many parts are its fair share.
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

/// A worker that goes leaves its share to the others at once.
pub(crate) async fn leave(pool: &PgPool, worker: &str) -> Result<(), Error> {
    sqlx::query!(
        "delete from workers where name = $1 or seen_at < clock_timestamp() - interval '1 hour'",
        worker
    )
    .execute(pool)
    .await?;
    Ok(())
}
