//! Keeps one projection level with the log: read a batch, load its rows, fold,
//! write rows and checkpoint in one transaction, publish.
//!
//! Any number of workers may run an engine for the same projection. One holds
//! the lease; a worker that stops, dies or hangs loses it within [`store::LEASE`], and
//! the fencing epoch refuses whatever it still tries to write.

use crate::{
    Database, Error,
    cache::{Cache, Entry},
    feed::{Decoded, Events, Feed, Subscription},
    fold::{self, Folded, Keyed, Parked, Rows, Stored},
    projection::Projection,
    store::{self, Lease},
};
use exodrive_log::Log;
use sqlx::Connection;
use std::{
    collections::{BTreeSet, HashSet},
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often an idle engine shows a sign of life and looks for operators'
/// wishes.
const TICK: Duration = Duration::from_secs(1);
/// Rows published at a time when Redis has to be filled again.
const REPUBLISH: i64 = 1_000;
const REPUBLISH_PAGES: usize = 5;

/// Where in a batch the engine is. Told to [`Engine::on_step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Events were read.
    Read,
    /// Their rows were loaded.
    Loaded,
    /// Changed rows were written, not committed.
    Written,
    /// The checkpoint was moved, not committed.
    Advanced,
    /// Rows and checkpoint are committed.
    Committed,
    /// Redis has the rows.
    Published,
}

type OnStep = Arc<dyn Fn(Step) + Send + Sync>;

/// Runs one projection.
pub struct Engine<P> {
    log: Log,
    feed: Feed,
    database: Database,
    cache: Cache,
    worker: String,
    on_step: Option<OnStep>,
    projection: PhantomData<P>,
}

/// Runs every projection until `stop`, as the worker named `worker`.
///
/// # Errors
/// When the database belongs to another log or to another release, or an
/// engine panics: the worker must then be started again.
pub async fn run_all(
    log: &Log,
    database: &Database,
    cache: &Cache,
    worker: &str,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let feed = Feed::new(log.clone());
    let mut engines = tokio::task::JoinSet::new();
    crate::for_each_projection!(P => {
        let mut engine = Engine::<P>::new(log.clone(), database.clone(), cache.clone(), worker);
        engine.feed = feed.clone();
        let stop = stop.clone();
        engines.spawn(async move { engine.run(&stop).await });
    });
    while let Some(outcome) = engines.join_next().await {
        outcome.unwrap_or(Err(Error::Engine))?;
    }
    Ok(())
}

impl<P: Projection> Engine<P> {
    /// An engine that has not begun.
    pub fn new(log: Log, database: Database, cache: Cache, worker: &str) -> Self {
        let worker = worker.to_owned();
        let feed = Feed::new(log.clone());
        Self { log, feed, database, cache, worker, on_step: None, projection: PhantomData }
    }

    /// Calls `hook` after each step of each batch: for tests that stop the
    /// process there.
    #[must_use]
    pub fn on_step(mut self, hook: impl Fn(Step) + Send + Sync + 'static) -> Self {
        self.on_step = Some(Arc::new(hook));
        self
    }

    fn step(&self, step: Step) {
        if let Some(hook) = &self.on_step {
            hook(step);
        }
    }

    /// Runs until `stop`, through outages of the log, Postgres and Redis.
    ///
    /// # Errors
    /// Only what no retry can mend: another log, a log that lost events,
    /// another version of the fold.
    pub async fn run(&self, stop: &CancellationToken) -> Result<(), Error> {
        while !stop.is_cancelled() {
            let pause = match self.take_turn(stop).await {
                Ok(()) => Duration::from_millis(300),
                Err(Error::Fenced(projection)) => {
                    tracing::info!(projection, "Another worker has taken over");
                    Duration::from_millis(300)
                }
                Err(
                    error @ (Error::OtherLog { .. }
                    | Error::AheadOfLog { .. }
                    | Error::Version { .. }
                    | Error::Log(exodrive_log::ReadError::Hole { .. })),
                ) => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        projection = P::NAME,
                        error = exodrive_runtime::error_chain(&error),
                        "Projection interrupted, will go on from its checkpoint"
                    );
                    Duration::from_millis(500)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Waits for the lease's turn, then folds until the lease is lost or
    /// something fails.
    async fn take_turn(&self, stop: &CancellationToken) -> Result<(), Error> {
        let pool = self.database.pool();
        store::check_log(pool, &exodrive_domain::time::format(&self.log.created_at())).await?;
        let Some(lease) = store::acquire::<P>(pool, &self.worker).await? else { return Ok(()) };
        let end = self.log.last_position().await?;
        if lease.position > end {
            let position = lease.position;
            return Err(Error::AheadOfLog { projection: P::NAME, position, end });
        }
        tracing::info!(
            projection = P::NAME,
            position = lease.position,
            end,
            "Projection `{}` begins at {}, {} behind",
            P::NAME,
            lease.position,
            end - lease.position
        );
        let mut turn = Turn {
            engine: self,
            events: self.feed.subscribe(lease.position + 1),
            blocked: store::blocked::<P>(pool, lease.generation).await?,
            backlog: None,
            ticked: None,
            lease,
        };
        if turn.lease.published < turn.lease.position {
            turn.miss(Duration::ZERO);
        }
        // A batch in flight is finished; the lease is then given back.
        let outcome = turn.fold_until(stop).await;
        if !matches!(outcome, Err(Error::Fenced(_))) {
            let _ = store::release::<P>(pool, &turn.lease).await;
        }
        outcome
    }
}

/// One worker's time as the writer of a generation.
struct Turn<'a, P> {
    engine: &'a Engine<P>,
    lease: Lease,
    events: Subscription,
    blocked: HashSet<String>,
    /// Rows changed after `lease.published` may not be in Redis.
    backlog: Option<Backlog>,
    ticked: Option<Instant>,
}

/// Publishing rows that Redis has missed, page by page in the order of keys.
#[derive(Clone)]
struct Backlog {
    /// When to go on.
    due: Instant,
    /// The last key published.
    after: String,
    /// What Redis has once every page is published. Rows changed later are
    /// published as they change.
    end: u64,
}

impl<P: Projection> Turn<'_, P> {
    async fn fold_until(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        while !stop.is_cancelled() {
            let wait = match &self.backlog {
                Some(backlog) => backlog.due.saturating_duration_since(Instant::now()).min(TICK),
                None => TICK,
            };
            let events = tokio::select! {
                events = self.events.next(wait) => events?,
                () = stop.cancelled() => return Ok(()),
            };
            let lag = events.as_ref().map_or(0, Events::pending);
            if let Some(events) = events {
                self.apply(events.all()).await?;
            }
            metrics::gauge!("exodrive_projection_lag_events", "projection" => P::NAME)
                .set(lag as f64);
            if self.ticked.is_none_or(|ticked| ticked.elapsed() >= TICK) {
                self.tick().await?;
                self.ticked = Some(Instant::now());
            }
            self.publish_backlog().await?;
        }
        Ok(())
    }

    /// One batch, from log to readers.
    async fn apply(&mut self, batch: &[Decoded]) -> Result<(), Error> {
        let started = Instant::now();
        self.engine.step(Step::Read);
        let Some(last) = batch.last().map(|event| event.recorded.position) else { return Ok(()) };
        let events: Vec<_> = batch.iter().filter_map(fold::keyed::<P>).collect();
        let changed = match self.write(&events, last, Vec::new()).await {
            Err(error) if store::is_refused_value(&error) => {
                let refused = self.refused(&events).await?;
                self.write(&events, last, refused).await?
            }
            outcome => outcome?,
        };
        self.lease.position = last;
        self.engine.step(Step::Committed);
        trace::<P>(batch);
        metrics::counter!("exodrive_projection_events_total", "projection" => P::NAME)
            .increment(batch.len() as u64);
        metrics::counter!("exodrive_projection_rows_written_total", "projection" => P::NAME)
            .increment(changed.len() as u64);
        metrics::gauge!("exodrive_projection_position", "projection" => P::NAME).set(last as f64);
        metrics::histogram!("exodrive_projection_batch_seconds", "projection" => P::NAME)
            .record(started.elapsed());
        self.publish(&changed, last).await;
        self.engine.step(Step::Published);
        Ok(())
    }

    /// Folds and writes a batch and moves the checkpoint, in one transaction.
    /// Keys in `refused` are parked instead of folded.
    async fn write(
        &mut self,
        events: &[Keyed<'_>],
        last: u64,
        refused: Vec<Parked>,
    ) -> Result<Rows<P::Row>, Error> {
        let generation = self.lease.generation;
        if events.is_empty() && refused.is_empty() {
            self.skip(last).await?;
            return Ok(Rows::new());
        }
        let mut transaction = store::begin(self.engine.database.pool()).await?;
        let mut blocked = self.blocked.clone();
        blocked.extend(refused.iter().map(|parked| parked.key.clone()));
        let keys = keys(events);
        let rows = if keys.is_empty() {
            Default::default()
        } else {
            store::load::<P>(&mut transaction, generation, &keys).await?
        };
        self.engine.step(Step::Loaded);
        let Folded { changed, parked } = fold::fold::<P>(events, rows, &mut blocked);
        store::write::<P>(&mut transaction, generation, &changed).await?;
        // The reasons come first: what only waits does not overwrite them.
        store::park::<P>(&mut transaction, generation, &refused).await?;
        store::park::<P>(&mut transaction, generation, &parked).await?;
        self.engine.step(Step::Written);
        store::advance::<P>(&mut transaction, &self.lease, last, changed.len()).await?;
        self.engine.step(Step::Advanced);
        transaction.commit().await?;
        self.blocked = blocked;
        for parked in refused.iter().chain(&parked).filter(|parked| !parked.error.is_empty()) {
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
        Ok(changed)
    }

    /// Moves the checkpoint past a batch that is none of the projection's: one
    /// statement, most often for most projections.
    async fn skip(&self, last: u64) -> Result<(), Error> {
        let mut connection = self.engine.database.pool().acquire().await?;
        // The statement commits itself: nothing is between it and the commit.
        for step in [Step::Loaded, Step::Written, Step::Advanced] {
            self.engine.step(step);
        }
        store::advance::<P>(&mut connection, &self.lease, last, 0).await
    }

    /// Finds the rows of a batch that Postgres refuses, by writing each alone
    /// in a transaction that is then undone.
    async fn refused(&mut self, events: &[Keyed<'_>]) -> Result<Vec<Parked>, Error> {
        let generation = self.lease.generation;
        let mut transaction = store::begin(self.engine.database.pool()).await?;
        let rows = store::load::<P>(&mut transaction, generation, &keys(events)).await?;
        let changed = fold::fold::<P>(events, rows, &mut self.blocked.clone()).changed;
        let mut refused = Vec::new();
        for (key, row) in changed {
            let mut attempt = transaction.begin().await?;
            let alone = Rows::from([(key.clone(), row)]);
            match store::write::<P>(&mut attempt, generation, &alone).await {
                Ok(()) => attempt.commit().await?,
                Err(error) if store::is_refused_value(&error) => {
                    attempt.rollback().await?;
                    let of_key = events.iter().find(|event| event.keys.contains(&key));
                    if let Some(position) = of_key.map(Keyed::position) {
                        let error = "Postgres refused the row's value".to_owned();
                        refused.push(Parked { key, position, error });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        transaction.rollback().await?;
        Ok(refused)
    }

    /// Publishes the rows of a batch. What Redis does not take is published
    /// later, from the rows.
    async fn publish(&mut self, changed: &Rows<P::Row>, last: u64) {
        if !P::CACHED {
            self.lease.published = last;
            return;
        }
        let entries: Vec<_> = changed
            .iter()
            .filter_map(|(key, stored)| Some((key, stored.as_ref()?)))
            .flat_map(|(key, stored)| entries::<P>(key, stored))
            .collect();
        match self.engine.cache.publish(P::NAME, &entries).await {
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

    /// Redis has missed rows: all that changed after `lease.published` are
    /// published again, beginning after `pause`.
    fn miss(&mut self, pause: Duration) {
        let (due, end) = (Instant::now() + pause, self.lease.position);
        self.backlog = P::CACHED.then(|| Backlog { due, after: String::new(), end });
    }

    /// Once a second: a sign of life, operators' wishes, and Redis made whole.
    async fn tick(&mut self) -> Result<(), Error> {
        let pool = self.engine.database.pool();
        store::heartbeat::<P>(pool, &self.lease).await?;
        self.blocked = store::blocked::<P>(pool, self.lease.generation).await?;
        if !self.blocked.is_empty() {
            self.retry_parked().await?;
        }
        if P::CACHED {
            // Whoever misses it stops trusting what it keeps.
            let _ = self.engine.cache.announce(P::NAME).await;
        }
        if P::CACHED && self.backlog.is_none() {
            match self.engine.cache.is_complete(P::NAME).await {
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

    /// Publishes some pages of the backlog, if one is due; folding goes on
    /// between.
    async fn publish_backlog(&mut self) -> Result<(), Error> {
        let (pool, generation) = (self.engine.database.pool(), self.lease.generation);
        for _ in 0..REPUBLISH_PAGES {
            let Some(backlog) = self.backlog.clone().filter(|it| it.due <= Instant::now()) else {
                return Ok(());
            };
            let since = self.lease.published;
            let page =
                store::changed_since::<P>(pool, generation, since, &backlog.after, REPUBLISH);
            let rows = page.await?;
            let next = rows.last().map(|(key, _)| key.clone());
            let full = rows.len() as i64 == REPUBLISH;
            let entries: Vec<_> =
                rows.iter().flat_map(|(key, stored)| entries::<P>(key, stored)).collect();
            let published = match self.engine.cache.publish(P::NAME, &entries).await {
                Ok(()) if !full => self.engine.cache.mark_complete(P::NAME).await,
                outcome => outcome,
            };
            match (published, next) {
                (Err(_), _) => {
                    self.backlog = Some(Backlog { due: Instant::now() + TICK, ..backlog });
                }
                (Ok(()), Some(after)) if full => self.backlog = Some(Backlog { after, ..backlog }),
                (Ok(()), _) => {
                    self.lease.published = backlog.end;
                    self.backlog = None;
                    tracing::debug!(projection = P::NAME, "Redis has all views of `{}`", P::NAME);
                }
            }
        }
        Ok(())
    }

    /// Folds the parked events of one key that an operator wants retried.
    async fn retry_parked(&mut self) -> Result<(), Error> {
        let (pool, generation) = (self.engine.database.pool(), self.lease.generation);
        let Some((key, positions)) = store::retry_wanted::<P>(pool, generation).await? else {
            return Ok(());
        };
        let mut decoded = Vec::new();
        for position in positions {
            decoded.extend(self.engine.log.read(position).await?.map(Decoded::from));
        }
        let events: Vec<_> =
            decoded.iter().filter_map(fold::keyed::<P>).map(|event| event.only(&key)).collect();
        let mut blocked = self.blocked.clone();
        blocked.remove(&key);
        let mut transaction = store::begin(pool).await?;
        let rows = store::load::<P>(&mut transaction, generation, &keys(&events)).await?;
        let Folded { changed, parked } = fold::fold::<P>(&events, rows, &mut blocked);
        store::unpark::<P>(&mut transaction, generation, &key).await?;
        if let Err(error) = store::write::<P>(&mut transaction, generation, &changed).await {
            if !store::is_refused_value(&error) {
                return Err(error);
            }
            transaction.rollback().await?;
            tracing::error!(
                projection = P::NAME,
                "Postgres refuses the row still, it stays parked"
            );
            return store::keep_parked::<P>(pool, generation, &key).await;
        }
        store::park::<P>(&mut transaction, generation, &parked).await?;
        let position = self.lease.position;
        store::advance::<P>(&mut transaction, &self.lease, position, changed.len()).await?;
        transaction.commit().await?;
        self.blocked = blocked;
        tracing::info!(
            projection = P::NAME,
            events = events.len(),
            still_parked = parked.len(),
            "Retried parked events"
        );
        // Their positions lie behind what Redis is known to have.
        if let Some(first) = decoded.first() {
            let before = first.recorded.position.saturating_sub(1);
            self.lease.published = self.lease.published.min(before);
            self.miss(Duration::ZERO);
        }
        Ok(())
    }
}

/// What Redis gets of a row, under its key and its aliases.
fn entries<P: Projection>(key: &str, stored: &Stored<P::Row>) -> Vec<Entry> {
    let Some(json) = P::cached(&stored.row, stored.position) else { return Vec::new() };
    let entry = |key| Entry { key, position: stored.position, json: json.clone() };
    std::iter::once(key.to_owned()).chain(P::aliases(&stored.row)).map(entry).collect()
}

fn keys(events: &[Keyed<'_>]) -> Vec<String> {
    let keys: BTreeSet<_> = events.iter().flat_map(|event| &event.keys).collect();
    keys.into_iter().cloned().collect()
}

/// Ties each event's trace to its projection, for whoever follows a request.
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
