//! The part of the writer that publishes rows to Redis.

use super::{
    backlog::{Backlog, PageCursor, entries, fetch},
    turn::{PartitionWriter, TICK},
};
use crate::{
    Error,
    engine::{fold::Rows, projection::Projection, store},
};
use std::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Pages published at a time; folding continues between them.
const REPUBLISH_PAGES: usize = 5;

impl<P: Projection> PartitionWriter<'_, P> {
    /// Records the published position at once: a swap may be waiting for Redis to have the views.
    pub(super) async fn record_published(&self) -> Result<(), Error> {
        if self.seen || !P::CACHED {
            return Ok(());
        }
        let (definition, pool) = (self.engine.definition, self.engine.database.pool());
        store::leases::heartbeat(definition, pool, &self.lease, 0.0).await?;
        Ok(())
    }

    /// Publishes the rows of a batch. Rows that Redis does not take are published later, from the
    /// table.
    pub(super) async fn publish(&mut self, changed: &Rows<P::Row>, last: u64) {
        if !P::CACHED {
            self.lease.published = last;
            return;
        }
        let entries: Vec<_> = changed
            .iter()
            .filter_map(|(key, stored)| Some((key, stored.as_ref()?)))
            .flat_map(|(key, stored)| entries::<P>(key, stored))
            .collect();
        let generation = self.lease.part.generation;
        match self.engine.cache.publish(P::NAME, generation, &entries).await {
            Ok(()) if self.backlog.is_none() => self.lease.published = last,
            Ok(()) => {}
            Err(error) => {
                if self.backlog.is_none() {
                    tracing::warn!(
                        projection = P::NAME,
                        error = exodrive_runtime::error_chain(&error),
                        "Redis did not take the views, will publish them again"
                    );
                }
                self.miss(TICK);
            }
        }
    }

    /// Publishes some pages of the backlog, if it is due; folding continues between them.
    pub(super) async fn publish_backlog(&mut self) -> Result<(), Error> {
        let (pool, part) = (self.engine.database.pool(), self.lease.part);
        for _ in 0..REPUBLISH_PAGES {
            let Some(backlog) = self.backlog.clone().filter(|it| it.due <= Instant::now()) else {
                return Ok(());
            };
            let since = self.lease.published;
            let fetch = |after: String| {
                let (pool, page) = (pool.clone(), PageCursor { since, after });
                AbortOnDropHandle::new(tokio::spawn(fetch::<P>(pool, part, page)))
            };
            let place = PageCursor { since, after: backlog.after.clone() };
            let page = match self.ahead.take() {
                Some((ahead, page)) if ahead == place => page,
                _ => fetch(backlog.after.clone()),
            };
            let (entries, next) = page.await.map_err(|error| {
                Error::lost("The task that reads the rows that Redis lacks", &error)
            })??;
            if let Some(after) = &next {
                // While Redis takes this page, Postgres reads the next.
                let place = PageCursor { since, after: after.clone() };
                self.ahead = Some((place, fetch(after.clone())));
            }
            let cache = &self.engine.cache;
            let whole = since == 0;
            if whole && backlog.after.is_empty() {
                // If Redis forgets the rows half way, it forgets this mark too.
                let _ = cache.begin_filling(P::NAME, part).await;
            }
            let published = match cache.publish(P::NAME, part.generation, &entries).await {
                // If only a part of the rows was published, Redis may have forgotten the rest
                // meanwhile.
                Ok(()) if next.is_none() && whole => cache.mark_complete(P::NAME, part).await,
                outcome => outcome,
            };
            match (published, next) {
                (Err(_), _) => {
                    self.backlog = Some(Backlog { due: Instant::now() + TICK, ..backlog });
                }
                (Ok(()), Some(after)) => self.backlog = Some(Backlog { after, ..backlog }),
                (Ok(()), None) => {
                    // Rows changed since the backlog began were published as
                    // they changed: one that Redis did not take would have begun
                    // it again. A swap waits until this reaches the checkpoint,
                    // and no event may come that would move it.
                    self.lease.published = self.lease.position;
                    self.backlog = None;
                    self.record_published().await?;
                    tracing::debug!(projection = P::NAME, "Redis has all views of `{}`", P::NAME);
                }
            }
        }
        Ok(())
    }
}
