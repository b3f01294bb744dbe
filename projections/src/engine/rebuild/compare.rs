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
        fold::{self, Exclusions, RouteFn},
        sandbox::{HungFold, Sandbox},
        store::{
            comparison::{self, Comparison, Difference},
            parked, refolds,
        },
    },
};
use sqlx::PgConnection;
use std::{collections::BTreeSet, time::Duration};

const BATCH: usize = 4_000;
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys that events between two positions touch, without the event at the first position.
async fn touched(engine: &Engine, after: u64, until: u64) -> Result<BTreeSet<String>, Error> {
    let mut keys = BTreeSet::new();
    let mut reader = engine.log.reader(after + 1);
    let mut position = after;
    let mut sandbox = Sandbox::new(engine.settings.fold_limit);
    while position < until {
        let mut read = reader.next_batch(BATCH, READ_TIMEOUT).await?.events;
        read.retain(|event| event.position <= until);
        position = read.last().map_or(position, |event| event.position);
        let events = Events::of(read.into_iter().map(Decoded::from).collect());
        let found = keys_of(&mut sandbox, engine.route, &events).await;
        keys.extend(found.map_err(|hung| hung.error(engine.definition.name))?);
    }
    Ok(keys)
}

/// Keys of the rows that events touch. An event whose keys are not found in time touches nothing,
/// because it is parked; the others of its batch still count.
async fn keys_of(
    sandbox: &mut Sandbox,
    route: RouteFn,
    events: &Events,
) -> Result<Vec<String>, HungFold> {
    let whole = PartitionId { generation: 0, partition: 0, partitions: 1 };
    let mut exclusions = Exclusions::default();
    loop {
        let (batch, known) = (events.clone(), exclusions.clone());
        let job = sandbox.run(move |mark| fold::keys(&route(&batch, whole, &known, None, mark)));
        match job.await {
            Err(hung) if exclusions.leave_out(hung) => {}
            found => return found,
        }
    }
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
    let newly_parked = parked::newly(definition, &mut snapshot, (from, to), lowest).await?;
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
        newly_parked,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{fold::RoutedEvent, sandbox::Mark},
        views::inbox::Inbox,
    };
    use bytes::Bytes;
    use exodrive_domain::{Envelope, Recorded};
    use std::time::Instant;

    const ID: &str = "0190a0b1-0000-7000-8000-000000000001";

    fn sent(position: u64) -> Decoded {
        let body = format!(r#"{{"type":"email.sent","data":{{"email_id":"{ID}"}}}}"#);
        let now = chrono::DateTime::UNIX_EPOCH;
        Decoded::from(Recorded {
            position,
            subject: format!("exo.email.{ID}"),
            stored_at: now,
            envelope: Envelope {
                version: exodrive_domain::WEBHOOK_RECEIVED_VERSION,
                ..Envelope::decision(exodrive_domain::WEBHOOK_RECEIVED, "msg", now)
            },
            provider_headers: Vec::new(),
            body: Bytes::from(body),
            protection: None,
        })
    }

    /// Hangs at the event at position 1 until it is left out.
    fn hanging(
        events: &Events,
        part: PartitionId,
        exclusions: &Exclusions,
        only: Option<&str>,
        mark: &Mark,
    ) -> Vec<RoutedEvent> {
        mark.at(1);
        let began = Instant::now();
        while exclusions.hung_folds.is_empty() && began.elapsed() < Duration::from_secs(60) {
            std::hint::black_box(());
        }
        fold::route::<Inbox>(events, part, exclusions, only, mark)
    }

    #[tokio::test]
    async fn an_event_that_hangs_hides_no_row_of_the_others() {
        let events = Events::of(vec![sent(1), sent(2)]);
        let found = keys_of(&mut Sandbox::new(Duration::from_millis(300)), hanging, &events).await;
        assert_eq!(found, Ok(vec![ID.to_owned()]));
    }
}
