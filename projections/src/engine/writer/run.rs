//! The writer's loop: a batch of events from the log to readers, and once a second whatever else is
//! due.

use super::{
    refolding::Refold,
    turn::{BatchError, FOLDING, Outcome, PartitionWriter, TICK},
};
use crate::{
    Error,
    engine::{
        Engine, Step,
        feed::{Decoded, Events},
        fold::{self, Exclusions, Rows},
        projection::Projection,
        share::Slot,
        store::{
            self, GenerationState,
            leases::{Lease, NOTHING},
            parked,
        },
    },
};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Time between two checks if rows have been folded again by the task beside the writer.
const REFOLDING: Duration = Duration::from_millis(100);
/// Keys whose parked events are tried again at a time; folding continues between them.
const RETRIED_AT_ONCE: usize = 10;
/// Time that the checkpoint may wait to be moved past events that do not concern the partition.
/// Most events do not concern most projections: one statement for many of them leaves the database
/// to those that do.
const CHECKPOINT_WITHOUT_ROWS: Duration = Duration::from_millis(20);

/// Folds until `stop`, until the lease is lost, or until something fails; returns the lease in its
/// last state.
pub(crate) async fn write_until_lost<P: Projection>(
    engine: &Engine,
    lease: Lease,
    slot: Slot,
    stop: &CancellationToken,
) -> (Lease, Result<(), Error>) {
    match PartitionWriter::<P>::begin(engine, lease.clone(), slot).await {
        Ok(mut writer) => {
            let outcome = writer.fold_until(stop).await;
            (writer.lease, outcome)
        }
        Err(error) => (lease, Err(error)),
    }
}

impl<P: Projection> PartitionWriter<'_, P> {
    /// Folds until `stop`, until the worker has more than its share of the work, or until there is
    /// no work. A batch in flight is finished.
    async fn fold_until(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        self.tick().await?;
        while !stop.is_cancelled()
            && !self.at_rest
            && (self.slot == Slot::BeyondShare || !self.engine.share.surplus())
        {
            let mut wait = if self.refolding.is_some() { REFOLDING } else { TICK };
            let due = self.backlog.as_ref().map(|backlog| backlog.due);
            for due in [due, self.passed.map(|(_, since)| since + CHECKPOINT_WITHOUT_ROWS)]
                .into_iter()
                .flatten()
            {
                wait = wait.min(due.saturating_duration_since(Instant::now()));
            }
            if self.paused {
                tokio::select! {
                    () = tokio::time::sleep(wait.max(Duration::from_millis(100))) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            } else {
                let events = tokio::select! {
                    events = self.events.next(wait) => events?,
                    () = stop.cancelled() => return Ok(()),
                };
                let lag = events.as_ref().map_or(0, Events::pending);
                if let Some(events) = events {
                    self.apply(&events).await?;
                }
                if self.seen {
                    metrics::gauge!("exodrive_projection_lag_events", "projection" => P::NAME)
                        .set(lag as f64);
                }
            }
            if let Some((position, since)) = self.passed
                && since.elapsed() >= CHECKPOINT_WITHOUT_ROWS
            {
                self.pass(position).await?;
            }
            if self.ticked.is_none_or(|(at, _)| at.elapsed() >= TICK) {
                self.tick().await?;
            }
            if self.refolding.as_ref().is_some_and(Refold::is_finished) {
                self.refold().await?;
            }
            self.publish_backlog().await?;
        }
        Ok(())
    }

    /// One batch, from log to readers. What takes long to fold is written bit by bit.
    async fn apply(&mut self, events: &Events) -> Result<(), Error> {
        self.engine.step(Step::Read);
        let Some(last) = events.all().last().map(|event| event.recorded.position) else {
            return Ok(());
        };
        metrics::counter!("exodrive_projection_events_total", "projection" => P::NAME)
            .increment(events.all().len() as u64);
        while self.lease.position < last {
            if !self.apply_some(events, last).await? {
                let since = self.passed.map_or_else(Instant::now, |(_, since)| since);
                self.passed = Some((last, since));
                break;
            }
        }
        trace::<P>(events.all());
        Ok(())
    }

    /// Folds events of a batch, as many as there is time for, and shows readers the rows. False if
    /// none of them concerns the partition.
    async fn apply_some(&mut self, events: &Events, last: u64) -> Result<bool, Error> {
        let started = Instant::now();
        let (changed, reached) = loop {
            let failed = match self.write(events, last).await {
                Ok(Some(written)) => break written,
                Ok(None) => return Ok(false),
                // The batch is folded again without the events after which Postgres refuses rows.
                Err(BatchError::Error(error)) if store::is_refused_value(&error) => {
                    let mut exclusions = self.exclusions.clone();
                    let found = self.leave_out_refused(events, None, &mut exclusions, error);
                    match found.await {
                        Ok(()) => {
                            self.exclusions = exclusions;
                            continue;
                        }
                        Err(failed) => failed,
                    }
                }
                Err(failed) => failed,
            };
            match failed {
                // The batch is folded again without the event.
                BatchError::HungFold(hung) if self.exclusions.leave_out(hung) => {
                    let position = hung.position;
                    tracing::error!(projection = P::NAME, position, "An event's fold does not end");
                }
                failed => return Err(failed.into_error(P::NAME)),
            }
        };
        self.exclusions.refused.clear();
        self.exclusions.hung_folds.clear();
        self.passed = None;
        self.lease.position = reached;
        self.engine.step(Step::Committed);
        metrics::counter!("exodrive_projection_rows_written_total", "projection" => P::NAME)
            .increment(changed.len() as u64);
        if self.seen {
            metrics::gauge!("exodrive_projection_position", "projection" => P::NAME)
                .set(reached as f64);
        }
        metrics::histogram!("exodrive_projection_batch_seconds", "projection" => P::NAME)
            .record(started.elapsed());
        self.publish(&changed, reached).await;
        self.engine.step(Step::Published);
        self.record_published().await?;
        Ok(true)
    }

    /// Folds events of a batch that come after the checkpoint, writes the rows and moves the
    /// checkpoint, these in one transaction. Returns the rows and the checkpoint. Does nothing if
    /// none of the events concerns the partition.
    async fn write(
        &mut self,
        events: &Events,
        last: u64,
    ) -> Result<Option<(Rows<P::Row>, u64)>, BatchError> {
        let part = self.lease.part;
        let mut routed = self.route(events, None).await?;
        fold::retain_after(events, &mut routed, self.lease.position);
        if routed.is_empty() {
            return Ok(None);
        }
        let exclusions = self.exclusions.clone();
        let Outcome { changed, counts, parked, exclusions, until, .. } =
            self.fold(events, routed, exclusions, FOLDING).await?;
        let reached = until.unwrap_or(last);
        let mut transaction = store::begin_transaction(self.engine.database.pool()).await?;
        store::write::<P>(&mut transaction, part.generation, &changed).await?;
        parked::park(self.engine.definition, &mut transaction, part, &parked, 0).await?;
        parked::retry_refused(self.engine.definition, &mut transaction, part, &parked).await?;
        self.engine.step(Step::Written);
        store::leases::advance(
            self.engine.definition,
            &mut transaction,
            &self.lease,
            reached,
            (changed.len(), &counts),
        )
        .await?;
        self.engine.step(Step::Advanced);
        transaction.commit().await.map_err(Error::from)?;
        self.exclusions = exclusions;
        for parked in parked.iter().filter(|parked| !parked.error.is_empty()) {
            tracing::error!(
                projection = P::NAME,
                position = parked.position,
                error = parked.error,
                "Parked an event: its key is blocked until `exodrive projections retry {}`",
                P::NAME
            );
            metrics::counter!("exodrive_projection_parked_total", "projection" => P::NAME)
                .increment(1);
        }
        Ok(Some((changed, reached)))
    }

    /// Moves the checkpoint past events that do not concern the partition.
    async fn pass(&mut self, last: u64) -> Result<(), Error> {
        // The statement commits itself: there is no step between it and the commit.
        for step in [Step::Loaded, Step::Written, Step::Advanced] {
            self.engine.step(step);
        }
        let mut connection = self.engine.database.pool().acquire().await?;
        let (definition, lease) = (self.engine.definition, &self.lease);
        store::leases::advance(definition, &mut connection, lease, last, NOTHING).await?;
        self.passed = None;
        self.lease.position = last;
        self.engine.step(Step::Committed);
        if self.seen {
            metrics::gauge!("exodrive_projection_position", "projection" => P::NAME)
                .set(last as f64);
        }
        self.publish(&Rows::new(), last).await;
        self.engine.step(Step::Published);
        self.record_published().await
    }

    /// Once a second: sends a heartbeat, reads operators' directives, and fills Redis again if
    /// needed.
    async fn tick(&mut self) -> Result<(), Error> {
        let pool = self.engine.database.pool();
        let rate = match self.ticked {
            Some((at, position)) => {
                (self.lease.position - position) as f64 / at.elapsed().as_secs_f64()
            }
            None => 0.0,
        };
        self.ticked = Some((Instant::now(), self.lease.position));
        let directives =
            store::leases::heartbeat(self.engine.definition, pool, &self.lease, rate).await?;
        let catches_up = directives.state == GenerationState::CatchingUp;
        self.unread = directives.unread;
        self.paused = directives.unread || directives.paused && !catches_up;
        self.seen = !directives.unread && !catches_up;
        let Exclusions { hung_folds, refused, .. } = std::mem::take(&mut self.exclusions);
        let stored = if directives.excludes {
            parked::exclusions(self.engine.definition, pool, self.lease.part).await?
        } else {
            Exclusions::default()
        };
        self.exclusions = Exclusions { hung_folds, refused, ..stored };
        if !self.exclusions.blocked.is_empty() && !self.unread {
            for _ in 0..RETRIED_AT_ONCE {
                if !self.retry_parked().await? {
                    break;
                }
            }
        }
        if directives.refolds || self.refolding.is_some() {
            self.refold().await?;
        } else {
            self.at_rest = self.unread;
        }
        if self.unread {
            self.backlog = None;
        }
        if !P::CACHED || self.unread {
            return Ok(());
        }
        let (version, generation) = (P::VERSION, self.lease.part.generation);
        if self.seen {
            // A reader that misses it stops trusting its cache.
            let cache = &self.engine.cache;
            let _ = cache.announce(P::NAME, version, generation, directives.swaps).await;
        }
        if self.backlog.is_none() {
            match self.engine.cache.is_complete(P::NAME, self.lease.part).await {
                Ok(true) => {}
                Ok(false) => {
                    self.lease.published = 0;
                    self.miss(Duration::ZERO);
                }
                Err(_) => self.miss(TICK),
            }
        }
        Ok(())
    }
}

/// Links each event's trace to its projection, for people who follow a request.
fn trace<P: Projection>(events: &[Decoded]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for Decoded { recorded: event, .. } in events {
        tracing::debug!(
            trace_id = event.envelope.trace_id(),
            projection = P::NAME,
            position = event.position,
            "Projected {} to `{}`",
            event.position,
            P::NAME
        );
    }
}
