//! The generation that readers see, and how a swap changes it.

use super::{
    comparison::Comparison,
    generations,
    states::{GenerationState, RebuildKind},
};
use crate::{Error, Transaction, engine::projection::Definition};
use sqlx::{PgConnection, PgPool};

/// A transaction that swaps generations. It fails soon if it would have to wait for a lock; its
/// commit waits for the disk.
pub(crate) async fn begin_transaction(pool: &PgPool) -> Result<Transaction, Error> {
    let begin = "begin; set local lock_timeout = '500ms'; set local synchronous_commit = on";
    Ok(Transaction::begin_with(pool, begin).await?)
}

/// The state that readers see before a swap.
pub(crate) struct Before {
    pub(crate) active_generation: i32,
    /// Number of swaps so far.
    pub(crate) swaps: i64,
}

/// Prevents other swaps until the transaction ends.
pub(crate) async fn lock(
    definition: Definition,
    connection: &mut PgConnection,
) -> Result<Before, Error> {
    let before = sqlx::query_as!(
        Before,
        "select active_generation, swaps from projections where name = $1 for update",
        definition.name
    );
    Ok(before.fetch_one(connection).await?)
}

/// Prevents writes to a generation until the transaction ends; returns the position that it has
/// reached.
pub(crate) async fn hold_still(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<i64, Error> {
    let held = sqlx::query_scalar!(
        "select position from checkpoints where projection = $1 and generation = $2
         order by partition for update",
        definition.name,
        generation
    );
    Ok(held.fetch_all(connection).await?.into_iter().max().unwrap_or(0))
}

/// Positions up to which a partition has been written and published.
pub(crate) struct Progress {
    pub(crate) position: i64,
    pub(crate) published: i64,
}

/// Progress of the partitions of a generation; no worker writes them until the transaction ends.
pub(crate) async fn parts(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<Vec<Progress>, Error> {
    let parts = sqlx::query_as!(
        Progress,
        "select position, published from checkpoints where projection = $1 and generation = $2
         order by partition for update",
        definition.name,
        generation
    );
    Ok(parts.fetch_all(connection).await?)
}

/// Positions of two generations.
pub(crate) struct Distance {
    pub(crate) old: i64,
    pub(crate) new: i64,
    /// Published position of the new one.
    pub(crate) published: i64,
}

/// Reads the positions of two generations.
pub(crate) async fn distance(
    definition: Definition,
    pool: &PgPool,
    from: i32,
    to: i32,
) -> Result<Distance, Error> {
    let found = sqlx::query_as!(
        Distance,
        r#"select coalesce(max(position) filter (where generation = $2), 0) as "old!",
               coalesce(min(position) filter (where generation = $3), 0) as "new!",
               coalesce(min(published) filter (where generation = $3), 0) as "published!"
           from checkpoints where projection = $1"#,
        definition.name,
        from,
        to
    );
    Ok(found.fetch_one(pool).await?)
}

/// The versions of the fold that readers read, and one more.
pub(crate) async fn versions_read(
    definition: Definition,
    connection: &mut PgConnection,
    more: i32,
) -> Result<Vec<u32>, Error> {
    let versions = sqlx::query_scalar!(
        "select version from releases where projection = $1 union select $2",
        definition.name,
        more
    );
    let versions = versions.fetch_all(connection).await?;
    Ok(versions.into_iter().flatten().map(i32::unsigned_abs).collect())
}

/// Gives readers the second generation instead of the first, which was held still at a position.
/// The writers of the first are fenced.
pub(crate) async fn swap(
    definition: Definition,
    connection: &mut PgConnection,
    comparison: &Comparison,
    position: i64,
    swaps: i64,
    kind: RebuildKind,
) -> Result<(), Error> {
    let (from, to) = (comparison.from_generation, comparison.to_generation);
    // Whoever rolls back does not want what they roll back from.
    let withdrawn = kind == RebuildKind::Rollback;
    sqlx::query!(
        "update generations set state = $5, replaced_at = $3, withdrawn = $4
         where projection = $1 and generation = $2",
        definition.name,
        from,
        position,
        withdrawn,
        GenerationState::Previous as _
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update generations set state = $3, withdrawn = false, replaced_at = null
         where projection = $1 and generation = $2",
        definition.name,
        to,
        GenerationState::Active as _
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update projections set active_generation = $2, swaps = $3 where name = $1",
        definition.name,
        to,
        swaps
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update checkpoints set epoch = epoch + 1, lease_until = null, worker = null
         where projection = $1 and generation = $2",
        definition.name,
        from
    )
    .execute(&mut *connection)
    .await?;
    // One generation to roll back to is enough; another release may need its own.
    sqlx::query!(
        "update generations set state = $5
         where projection = $1 and state = $6 and generation <> $2
           and (version = $3 or version = $4)",
        definition.name,
        from,
        comparison.from_version,
        comparison.to_version,
        GenerationState::Dropping as _,
        GenerationState::Previous as _
    )
    .execute(&mut *connection)
    .await?;
    generations::point_views(connection, definition.name).await
}
