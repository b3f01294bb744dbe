//! Swaps another generation in for readers, in one transaction.

use super::compare;
use crate::{
    Error, Transaction,
    engine::{
        Engine,
        store::{
            comparison::Comparison,
            parked,
            rebuilds::{self, Job},
            refolds,
            states::RebuildState,
            swaps, to_u64,
        },
    },
};
use sqlx::Connection;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Longest time that the old generation is held still.
const HOLD: Duration = Duration::from_millis(500);

/// Result of an attempt.
pub(crate) enum Swapped {
    /// Readers see the new generation.
    Yes,
    /// The new generation did not reach the old one in time. Try again.
    NotLevel,
    /// The new generation differs in a way that is not permitted.
    Differs(Comparison),
}

/// The differences that are swapped in without asking an operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permitted {
    /// Rows may differ.
    pub(crate) rows: bool,
    /// The new generation may have parked events that the old one has folded.
    pub(crate) parking: bool,
}

impl Permitted {
    /// True if two generations that were compared differ in no other way.
    pub(crate) fn covers(self, found: &Comparison) -> bool {
        (self.rows || found.difference_count == 0)
            && (self.parking || found.newly_parked.is_empty())
    }
}

/// Swaps, once the new generation has folded every event that the old one has; the old one is held
/// still meanwhile.
pub(crate) async fn swap(
    engine: &Engine,
    job: &Job,
    comparison: &Comparison,
    moving: &BTreeSet<String>,
    permitted: Permitted,
) -> Result<Swapped, Error> {
    let (from, to) = (comparison.from_generation, comparison.to_generation);
    let definition = engine.definition;
    let mut transaction = swaps::begin_transaction(engine.database.pool()).await?;
    let before = swaps::lock(definition, &mut transaction).await?;
    let is_blocked = refolds::blocks_swap(definition, &mut transaction, from, to).await?;
    if before.active_generation != from || is_blocked {
        return Ok(Swapped::NotLevel);
    }
    // The writers of the old one wait until we are done, and are then fenced.
    let position = swaps::hold_still(definition, &mut transaction, from).await?;
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
    found.newly_parked =
        parked::newly(definition, &mut transaction, (from, to), found.position).await?;
    if !permitted.covers(&found) {
        transaction.rollback().await?;
        return Ok(Swapped::Differs(found));
    }
    let count = before.swaps + 1;
    withdraw_views(engine, &mut transaction, comparison, count).await?;
    swaps::swap(definition, &mut transaction, comparison, position, count, job.kind).await?;
    rebuilds::compared(&mut transaction, job, &found).await?;
    rebuilds::enter(definition, &mut transaction, job, RebuildState::Done).await?;
    transaction.commit().await?;
    if engine.definition.cached {
        // If this fails, its writer does so within a second.
        let version = comparison.to_version.unsigned_abs();
        let _ = engine.cache.announce(engine.definition.name, version, to, count).await;
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

/// Withdraws the views of the old generation from Redis. Until the new generation is announced,
/// readers use Postgres: no view of the old generation is served after one of the new.
async fn withdraw_views(
    engine: &Engine,
    transaction: &mut Transaction,
    comparison: &Comparison,
    swaps: i64,
) -> Result<(), Error> {
    let definition = engine.definition;
    if !definition.cached {
        return Ok(());
    }
    let versions = swaps::versions_read(definition, transaction, comparison.to_version).await?;
    if let Err(error) = engine.cache.withdraw(definition.name, &versions, swaps).await {
        tracing::warn!(
            projection = definition.name,
            error = exodrive_runtime::error_chain(&error),
            "Redis does not know of a swap yet; it takes effect there when Redis is back"
        );
    }
    Ok(())
}

/// True if a generation has folded everything up to a position, and Redis has all of it. If so, it
/// is held still too.
async fn reached(
    engine: &Engine,
    transaction: &mut Transaction,
    generation: i32,
    position: i64,
) -> Result<bool, Error> {
    let mut attempt = transaction.begin().await?;
    let parts = swaps::parts(engine.definition, &mut attempt, generation).await?;
    let level = parts.iter().all(|part| part.position >= position);
    let cached = !engine.definition.cached
        || parts.iter().all(|part| part.published >= part.position)
        || !engine.cache.answers().await;
    if level && cached {
        attempt.commit().await?;
        return Ok(true);
    }
    // Its writers must be able to continue.
    attempt.rollback().await?;
    Ok(false)
}

/// Positions of two generations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// The checkpoint of the one that readers see.
    pub(crate) from: u64,
    /// The lowest checkpoint of the one that is to replace it.
    pub(crate) to: u64,
    /// Redis has the rows of the second up to here.
    pub(crate) published: u64,
}

impl Positions {
    /// True if the second is at most this many events behind the first, and Redis at most this many
    /// behind the second.
    pub(crate) fn are_near(&self, engine: &Engine, near: u64) -> bool {
        let redis = !engine.definition.cached || self.published + near >= self.to;
        self.to + near >= self.from && redis
    }
}

/// Reads the positions of two generations.
pub(crate) async fn positions(engine: &Engine, from: i32, to: i32) -> Result<Positions, Error> {
    let found = swaps::distance(engine.definition, engine.database.pool(), from, to).await?;
    let (from, to, published) = (to_u64(found.old), to_u64(found.new), to_u64(found.published));
    Ok(Positions { from, to, published })
}
