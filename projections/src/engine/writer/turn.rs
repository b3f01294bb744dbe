//! The state of one partition's writer while this worker holds the lease.

use super::{
    backlog::{Backlog, Page, PageCursor},
    refolding::Refold,
};
use crate::{
    Error,
    engine::{
        Engine, Step,
        feed::{Events, Subscription},
        fold::{self, Counts, Exclusions, Loaded, Parked, RoutedEvent, Rows},
        projection::Projection,
        sandbox::{HungFold, Sandbox},
        share::Slot,
        store::{self, leases::Lease, parked, refolds},
    },
};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// Time between two heartbeats, which also read operators' directives.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Time for folding before what was folded is written: a small part of the lease, which no
/// heartbeat extends meanwhile.
pub(super) const FOLDING: Duration = Duration::from_millis(500);

/// Writes one partition of one generation for as long as this worker holds its lease.
pub(super) struct PartitionWriter<'a, P: Projection> {
    pub(super) engine: &'a Engine,
    pub(super) lease: Lease,
    pub(super) events: Subscription,
    pub(super) exclusions: Exclusions,
    pub(super) sandbox: Sandbox,
    /// The way in which the partition counts against the worker's share.
    pub(super) slot: Slot,
    /// True if readers see the generation; known after the first tick.
    pub(super) seen: bool,
    pub(super) paused: bool,
    /// True if no reader uses the generation: the writer only folds rows again that must be.
    pub(super) unread: bool,
    /// True if no rows are left for such a writer.
    pub(super) at_rest: bool,
    /// The position up to which no event since the checkpoint concerned the partition, and the time
    /// since when.
    pub(super) passed: Option<(u64, Instant)>,
    /// Rows changed after `lease.published` may not be in Redis.
    pub(super) backlog: Option<Backlog>,
    /// The next page of the backlog, which is being read.
    pub(super) ahead: Option<(PageCursor, AbortOnDropHandle<Result<Page, Error>>)>,
    pub(super) ticked: Option<(Instant, u64)>,
    pub(super) refolding: Option<Refold<P>>,
}

impl<'a, P: Projection> PartitionWriter<'a, P> {
    /// A writer that has not begun to fold.
    pub(super) async fn begin(engine: &'a Engine, lease: Lease, slot: Slot) -> Result<Self, Error> {
        let (definition, pool) = (engine.definition, engine.database.pool());
        let mut events = engine.feed.subscribe(lease.position + 1);
        events.read_again(refolds::erased_until(definition, pool).await?);
        let exclusions = parked::exclusions(definition, pool, lease.part).await?;
        let mut writer = Self {
            engine,
            events,
            exclusions,
            sandbox: Sandbox::new(engine.settings.fold_limit),
            slot,
            seen: false,
            paused: false,
            unread: false,
            at_rest: false,
            passed: None,
            backlog: None,
            ahead: None,
            ticked: None,
            refolding: None,
            lease,
        };
        if writer.lease.published < writer.lease.position {
            writer.miss(Duration::ZERO);
        }
        Ok(writer)
    }

    /// The events of a batch that concern the partition.
    pub(super) async fn route(
        &mut self,
        events: &Events,
        only: Option<&str>,
    ) -> Result<Vec<RoutedEvent>, HungFold> {
        let (events, part, exclusions) = (events.clone(), self.lease.part, self.exclusions.clone());
        let only = only.map(str::to_owned);
        self.sandbox
            .run(move |mark| fold::route::<P>(&events, part, &exclusions, only.as_deref(), mark))
            .await
    }

    /// Loads rows and folds events over them: as many, at least one, as `time` allows.
    ///
    /// No transaction is open meanwhile, since Postgres ends one that waits for long. Nobody else
    /// changes the rows: whoever has taken the lease over makes the transaction fail that writes
    /// what was folded, when it moves the checkpoint.
    pub(super) async fn fold(
        &mut self,
        events: &Events,
        routed: Vec<RoutedEvent>,
        mut exclusions: Exclusions,
        time: Duration,
    ) -> Result<Outcome<P::Row>, BatchError> {
        let keys = fold::keys(&routed);
        let rows = {
            let mut connection =
                self.engine.database.pool().acquire().await.map_err(Error::from)?;
            store::load::<P>(&mut connection, self.lease.part.generation, &keys).await?
        };
        self.engine.step(Step::Loaded);
        let events = events.clone();
        let outcome = self.sandbox.run(move |mark| {
            let mut table = Loaded { rows, changed: Rows::new() };
            let began = Instant::now();
            let has_time = || began.elapsed() < time;
            let (parked, folded) = fold::fold_while::<P>(
                &events,
                &routed,
                &mut table,
                &mut exclusions,
                mark,
                has_time,
            );
            let until = fold::position_before(&events, &routed, folded);
            let counts = fold::counts::<P>(&table.rows, &table.changed);
            Outcome { changed: table.changed, counts, parked, exclusions, routed, until }
        });
        Ok(outcome.await?)
    }

    /// Redis has missed rows: all that changed after `lease.published` are published again,
    /// beginning after `pause`.
    pub(super) fn miss(&mut self, pause: Duration) {
        let due = Instant::now() + pause;
        self.backlog = P::CACHED.then(|| Backlog { due, after: String::new() });
    }
}

/// Result of folding a batch.
pub(super) struct Outcome<R> {
    pub(super) changed: Rows<R>,
    pub(super) counts: Counts,
    pub(super) parked: Vec<Parked>,
    pub(super) exclusions: Exclusions,
    pub(super) routed: Vec<RoutedEvent>,
    /// The position up to which events were folded, if there was no time for all.
    pub(super) until: Option<u64>,
}

/// Reason that a batch was not folded.
pub(super) enum BatchError {
    Error(Error),
    HungFold(HungFold),
}

impl BatchError {
    pub(super) fn into_error(self, projection: &'static str) -> Error {
        match self {
            Self::Error(error) => error,
            Self::HungFold(hung) => hung.error(projection),
        }
    }
}

impl From<HungFold> for BatchError {
    fn from(hung: HungFold) -> Self {
        Self::HungFold(hung)
    }
}

impl From<Error> for BatchError {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}
