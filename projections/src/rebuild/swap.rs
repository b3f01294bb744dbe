//! Giving readers another generation, in one transaction.

use super::{
    compare::{self, Comparison},
    jobs::{self, Job},
};
use crate::{
    Error,
    engine::Engine,
    store::{generations, refolds, to_u64},
};
use sqlx::{Connection, Postgres, Transaction};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How long the old generation is held still at most.
const HOLD: Duration = Duration::from_millis(500);

/// What came of an attempt.
pub(crate) enum Swapped {
    /// Readers see the new generation.
    Yes,
    /// The new generation did not reach the old one in time. Try again.
    NotLevel,
    /// Rows that moved during the comparison differ.
    Differs(Comparison),
}

/// Swaps, once the new generation has folded all that the old one has; the old
/// one is held still meanwhile.
pub(crate) async fn swap(
    engine: &Engine,
    job: &Job,
    comparison: &Comparison,
    moving: &BTreeSet<String>,
    may_differ: bool,
) -> Result<Swapped, Error> {
    let (from, to) = (comparison.from_generation, comparison.to_generation);
    let mut transaction = engine
        .database
        .pool()
        .begin_with("begin; set local lock_timeout = '500ms'; set local synchronous_commit = on")
        .await?;
    let before = sqlx::query!(
        "select active_generation, swaps from projections where name = $1 for update",
        engine.definition.name
    )
    .fetch_one(&mut *transaction)
    .await?;
    let barred = refolds::bars_swap(engine.definition, &mut transaction, from, to).await?;
    if before.active_generation != from || barred {
        return Ok(Swapped::NotLevel);
    }
    // Whoever writes the old one waits until we are done, and is then fenced.
    let held = sqlx::query_scalar!(
        "select position from checkpoints where projection = $1 and generation = $2
         order by partition for update",
        engine.definition.name,
        from
    )
    .fetch_all(&mut *transaction)
    .await?;
    let position = held.into_iter().max().unwrap_or(0);
    let began = Instant::now();
    while !reached(engine, &mut transaction, to, position).await? {
        if began.elapsed() > HOLD {
            transaction.rollback().await?;
            return Ok(Swapped::NotLevel);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut found = comparison.clone();
    let late = compare::still_different(engine, &mut transaction, from, to, moving);
    let late = late.await?;
    found.rows += i64::try_from(moving.len()).unwrap_or(0);
    found.position = to_u64(position);
    found.difference_count += i64::try_from(late.len()).unwrap_or(0);
    found.differences.extend(late);
    if found.difference_count > 0 && !may_differ {
        transaction.rollback().await?;
        return Ok(Swapped::Differs(found));
    }
    let swaps = before.swaps + 1;
    if engine.definition.cached {
        // Until the new generation is announced, readers ask Postgres: no view
        // of the old one is served after one of the new one.
        let versions = sqlx::query_scalar!(
            "select version from releases where projection = $1 union select $2",
            engine.definition.name,
            comparison.to_version
        )
        .fetch_all(&mut *transaction)
        .await?;
        let versions: Vec<_> = versions.into_iter().flatten().map(i32::unsigned_abs).collect();
        if let Err(error) = engine.cache.withdraw(engine.definition.name, &versions, swaps).await {
            tracing::warn!(
                projection = engine.definition.name,
                error = exodrive_runtime::error_chain(&error),
                "Redis could not be told of a swap; it takes effect there when it is back"
            );
        }
    }
    let withdrawn = job.kind == "rollback";
    sqlx::query!(
        "update generations set state = 'previous', replaced_at = $3, withdrawn = $4
         where projection = $1 and generation = $2",
        engine.definition.name,
        from,
        position,
        withdrawn
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update generations set state = 'active', withdrawn = false, replaced_at = null
         where projection = $1 and generation = $2",
        engine.definition.name,
        to
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update projections set active_generation = $2, swaps = $3 where name = $1",
        engine.definition.name,
        to,
        swaps
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update checkpoints set epoch = epoch + 1, lease_until = null, worker = null
         where projection = $1 and generation = $2",
        engine.definition.name,
        from
    )
    .execute(&mut *transaction)
    .await?;
    // One to roll back to is enough; another release may need its own.
    sqlx::query!(
        "update generations set state = 'dropping'
         where projection = $1 and state = 'previous' and generation <> $2
           and (version = $3 or version = $4)",
        engine.definition.name,
        from,
        comparison.from_version,
        comparison.to_version
    )
    .execute(&mut *transaction)
    .await?;
    generations::point_views(&mut transaction, engine.definition.name).await?;
    jobs::compared(&mut transaction, job, &found).await?;
    jobs::end(engine.definition, &mut transaction, job, "done").await?;
    transaction.commit().await?;
    if engine.definition.cached {
        // If not now, its writer does so within a second.
        let version = comparison.to_version.unsigned_abs();
        let _ = engine.cache.announce(engine.definition.name, version, to, swaps).await;
    }
    tracing::info!(
        projection = engine.definition.name,
        from,
        to,
        position,
        differences = found.difference_count,
        "Swapped generation {from} of `{}` for {to}",
        engine.definition.name
    );
    Ok(Swapped::Yes)
}

/// Whether a generation has folded everything up to a position, and Redis has
/// all of it. If so, it is held still too.
async fn reached(
    engine: &Engine,
    transaction: &mut Transaction<'static, Postgres>,
    generation: i32,
    position: i64,
) -> Result<bool, Error> {
    let mut attempt = transaction.begin().await?;
    let parts = sqlx::query!(
        "select position, published from checkpoints where projection = $1 and generation = $2
         order by partition for update",
        engine.definition.name,
        generation
    )
    .fetch_all(&mut *attempt)
    .await?;
    let level = parts.iter().all(|part| part.position >= position);
    let cached = !engine.definition.cached
        || parts.iter().all(|part| part.published >= part.position)
        || !engine.cache.answers().await;
    if level && cached {
        attempt.commit().await?;
        return Ok(true);
    }
    // Its writers must be able to go on.
    attempt.rollback().await?;
    Ok(false)
}

/// How far two generations are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// The checkpoint of the one that readers see.
    pub(crate) from: u64,
    /// The lowest checkpoint of the one that is to take its place.
    pub(crate) to: u64,
    /// Up to here Redis has the rows of the second.
    pub(crate) published: u64,
}

impl Positions {
    /// Whether the second is at most so many events behind the first, and Redis
    /// so many behind the second.
    pub(crate) fn are_near(&self, engine: &Engine, near: u64) -> bool {
        let redis = !engine.definition.cached || self.published + near >= self.to;
        self.to + near >= self.from && redis
    }
}

/// Reads how far two generations are.
pub(crate) async fn positions(engine: &Engine, from: i32, to: i32) -> Result<Positions, Error> {
    let found = sqlx::query!(
        r#"select coalesce(max(position) filter (where generation = $2), 0) as "old!",
               coalesce(min(position) filter (where generation = $3), 0) as "new!",
               coalesce(min(published) filter (where generation = $3), 0) as "published!"
           from checkpoints where projection = $1"#,
        engine.definition.name,
        from,
        to
    )
    .fetch_one(engine.database.pool())
    .await?;
    let (from, to, published) = (to_u64(found.old), to_u64(found.new), to_u64(found.published));
    Ok(Positions { from, to, published })
}
