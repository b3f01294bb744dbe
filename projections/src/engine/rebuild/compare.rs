//! Two generations of a projection, compared at the same position.
//!
//! Both are read in one snapshot. Their checkpoints may differ there, by events that one has folded
//! and the other has not yet. The rows that these events touch are compared again later, when
//! neither generation moves any more.

use crate::{
    Error,
    engine::{
        Engine, PartitionId,
        feed::{Decoded, Events},
        fold::{self, Exclusions},
        sandbox::Sandbox,
        store::{
            comparison::{self, Comparison, Difference},
            refolds,
        },
    },
};
use sqlx::PgConnection;
use std::{collections::BTreeSet, time::Duration};

const BATCH: usize = 4_000;
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys that events between two positions touch, without the event at the first position.
async fn touched(engine: &Engine, after: u64, until: u64) -> Result<BTreeSet<String>, Error> {
    let whole = PartitionId { generation: 0, partition: 0, partitions: 1 };
    let mut keys = BTreeSet::new();
    let mut reader = engine.log.reader(after + 1);
    let route = engine.route;
    let mut position = after;
    let mut sandbox = Sandbox::default();
    while position < until {
        let mut read = reader.next_batch(BATCH, READ_TIMEOUT).await?.events;
        read.retain(|event| event.position <= until);
        position = read.last().map_or(position, |event| event.position);
        let events = Events::of(read.into_iter().map(Decoded::from).collect());
        let job = sandbox.run(move |mark| {
            fold::keys(&route(&events, whole, &Exclusions::default(), None, mark))
        });
        // A fold that does not end touches nothing: its event is parked.
        keys.extend(job.await.unwrap_or_default());
    }
    Ok(keys)
}

/// Compares two generations; returns also the keys that are left to [`still_different`].
pub(crate) async fn compare(
    engine: &Engine,
    from: i32,
    to: i32,
) -> Result<(Comparison, BTreeSet<String>), Error> {
    let definition = engine.definition;
    let mut snapshot = comparison::snapshot(engine.database.pool()).await?;
    let (lowest, highest) = comparison::span(definition, &mut snapshot, from, to).await?;
    let mut moving = touched(engine, lowest, highest).await?;
    moving.extend(refolds::unfolded(definition, &mut snapshot, from, to).await?);
    let versions = comparison::versions(definition, &mut snapshot, from, to).await?;
    let still: Vec<_> = moving.iter().cloned().collect();
    let old = comparison::digest(definition, &mut snapshot, from, &still).await?;
    let new = comparison::digest(definition, &mut snapshot, to, &still).await?;
    let (difference_count, differences) = if old == new {
        (0, Vec::new())
    } else {
        comparison::differences(definition, &mut snapshot, from, to, &still).await?
    };
    snapshot.rollback().await?;
    let (rows, digest) = new;
    let comparison = Comparison {
        from_generation: from,
        to_generation: to,
        from_version: versions.0,
        to_version: versions.1,
        position: highest,
        rows,
        digest,
        difference_count,
        differences,
    };
    Ok((comparison, moving))
}

/// Those of these keys that differ, now that the first generation does not move and the second has
/// reached it.
pub(crate) async fn still_different(
    engine: &Engine,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
    keys: &BTreeSet<String>,
) -> Result<Vec<Difference>, Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (lowest, highest) = comparison::span(engine.definition, connection, from, to).await?;
    let ahead = touched(engine, lowest, highest).await?;
    let keys: Vec<_> = keys.difference(&ahead).cloned().collect();
    comparison::differences_of(engine.definition, connection, from, to, &keys).await
}

/// Copies from a generation every row that no event from a position on has touched; returns the
/// keys of the others, and the position up to which that is true.
pub(crate) async fn copy_untouched(
    engine: &Engine,
    from: i32,
    to: i32,
    since: u64,
) -> Result<(BTreeSet<String>, u64), Error> {
    let definition = engine.definition;
    let mut snapshot = comparison::copying(engine.database.pool()).await?;
    let (_, highest) = comparison::span(definition, &mut snapshot, from, from).await?;
    let touched = touched(engine, since.saturating_sub(1), highest).await?;
    let keys: Vec<_> = touched.iter().cloned().collect();
    comparison::copy(definition, &mut snapshot, from, to, since, &keys).await?;
    refolds::inherit(definition, &mut snapshot, from, to).await?;
    snapshot.commit().await?;
    Ok((touched, highest))
}
