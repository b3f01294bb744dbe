//! Runs projections: what all of the engine works with, and its loop.

use crate::{
    Database, Error,
    engine::{
        cache::Cache,
        feed::Feed,
        fold::{self, KeyedFn},
        projection::{Definition, Projection},
        rebuild::{
            self, RebuildSettings,
            load::{self, LoadFn},
        },
        store::{
            self, Part, generations,
            leases::{self, Lease},
            refolds,
        },
        writer,
    },
};
use exodrive_log::Log;
use futures::future::BoxFuture;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often an engine looks for parts that nobody writes.
const LOOK: Duration = Duration::from_millis(300);
/// How often it looks after what changes rarely.
const HOUSEKEEPING: Duration = Duration::from_secs(2);

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

/// Runs one projection. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) definition: Definition,
    /// A projection's own code, behind pointers: the rest is compiled once for
    /// all of them.
    pub(crate) keyed: KeyedFn,
    pub(crate) load: LoadFn,
    turn: TurnFn,
    pub(crate) log: Log,
    pub(crate) feed: Feed,
    pub(crate) database: Database,
    pub(crate) cache: Cache,
    pub(crate) worker: String,
    pub(crate) share: Share,
    pub(crate) rebuilds: RebuildSettings,
    on_step: Option<OnStep>,
}

type TurnFn = for<'a> fn(
    &'a Engine,
    Lease,
    /* it is kept beyond the worker's share */ bool,
    &'a CancellationToken,
) -> BoxFuture<'a, (Lease, Result<(), Error>)>;

/// How many parts a worker has, and how many are its share while there are
/// other workers.
#[derive(Clone, Default)]
pub(crate) struct Share(Option<Arc<Counts>>);

struct Counts {
    held: AtomicUsize,
    fair: AtomicUsize,
}

impl Share {
    fn among_workers() -> Self {
        Self(Some(Arc::new(Counts {
            held: AtomicUsize::new(0),
            fair: AtomicUsize::new(usize::MAX),
        })))
    }

    /// Whether the worker should give a part up.
    pub(crate) fn surplus(&self) -> bool {
        self.0.as_ref().is_some_and(|counts| {
            counts.held.load(Ordering::Relaxed) > counts.fair.load(Ordering::Relaxed)
        })
    }

    /// Counts one more part, unless that is more than the worker's share and
    /// it need not be. Gives whether it is more.
    fn take(&self, anyway: bool) -> Option<(Held, bool)> {
        let Some(counts) = &self.0 else { return Some((Held(None), false)) };
        let fair = counts.fair.load(Ordering::Relaxed);
        let more = |held: usize| (held < fair || anyway).then_some(held + 1);
        let held = counts.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some((Held(Some(counts.clone())), held >= fair))
    }
}

/// A part that counts as held until this is dropped.
struct Held(Option<Arc<Counts>>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(counts) = &self.0 {
            counts.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs every projection until `stop`, as the worker named `worker`, which
/// shares the work with others.
///
/// # Errors
/// When the database belongs to another log, or an engine panics: the worker
/// must then be started again.
pub async fn run_all(
    log: &Log,
    database: &Database,
    cache: &Cache,
    worker: &str,
    rebuilds: RebuildSettings,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let (feed, share) = (Feed::new(log.clone()), Share::among_workers());
    let mut engines = JoinSet::new();
    crate::for_each_projection!(P => {
        let engine = Engine {
            feed: feed.clone(),
            share: share.clone(),
            rebuilds,
            ..Engine::new::<P>(log.clone(), database.clone(), cache.clone(), worker)
        };
        let stop = stop.clone();
        engines.spawn(async move { engine.run(&stop).await });
    });
    let balance = balance(database, worker, &share, stop);
    let run = async {
        while let Some(outcome) = engines.join_next().await {
            outcome.unwrap_or(Err(Error::Engine))?;
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = run => outcome,
        never = balance => match never {},
    };
    let _ = leases::leave(database.pool(), worker).await;
    outcome
}

/// Twice a second: says that the worker is there, and learns its share.
async fn balance(
    database: &Database,
    worker: &str,
    share: &Share,
    stop: &CancellationToken,
) -> std::convert::Infallible {
    loop {
        if !stop.is_cancelled()
            && let Some(counts) = &share.0
            && let Ok(fair) = leases::share(database.pool(), worker).await
        {
            counts.fair.store(fair.max(1), Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

impl Engine {
    /// An engine that has not begun.
    pub fn new<P: Projection>(log: Log, database: Database, cache: Cache, worker: &str) -> Self {
        Self {
            definition: Definition::of::<P>(),
            keyed: fold::keyed::<P>,
            load: |engine, filling| Box::pin(load::load::<P>(engine, filling)),
            turn: |engine, lease, beyond, stop| {
                Box::pin(writer::take::<P>(engine, lease, beyond, stop))
            },
            feed: Feed::new(log.clone()),
            log,
            database,
            cache,
            worker: worker.to_owned(),
            share: Share::default(),
            rebuilds: RebuildSettings::default(),
            on_step: None,
        }
    }

    /// An engine for the projection of this name; `None` if there is none.
    pub fn named(
        name: &str,
        log: Log,
        database: Database,
        cache: Cache,
        worker: &str,
    ) -> Option<Self> {
        crate::for_each_projection!(P => {
            if P::NAME == name {
                return Some(Self::new::<P>(log, database, cache, worker));
            }
        });
        None
    }

    /// Calls `hook` after each step of each batch: for tests that stop the
    /// process there.
    #[must_use]
    pub fn on_step(mut self, hook: impl Fn(Step) + Send + Sync + 'static) -> Self {
        self.on_step = Some(Arc::new(hook));
        self
    }

    /// With these settings for rebuilds.
    #[must_use]
    pub fn with_rebuilds(mut self, settings: RebuildSettings) -> Self {
        self.rebuilds = settings;
        self
    }

    pub(crate) fn step(&self, step: Step) {
        if let Some(hook) = &self.on_step {
            hook(step);
        }
    }

    /// Runs until `stop`, through outages of the log, Postgres and Redis.
    ///
    /// # Errors
    /// Only what no retry can mend: another log, a log that lost events.
    pub async fn run(&self, stop: &CancellationToken) -> Result<(), Error> {
        // Ends everything that was begun when this ends.
        let stop = stop.child_token();
        let _end = stop.clone().drop_guard();
        let mut tasks = JoinSet::new();
        let mut running: HashMap<tokio::task::Id, Part> = HashMap::new();
        let rebuilding = {
            let (engine, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move { rebuild::run(&engine, &stop).await }).id()
        };
        let mut kept_house: Option<Instant> = None;
        while !stop.is_cancelled() {
            let mut looked = self.look(&stop, &mut tasks, &mut running).await;
            if looked.is_ok() && kept_house.is_none_or(|at| at.elapsed() > HOUSEKEEPING) {
                kept_house = Some(Instant::now());
                looked = self.keep_house().await;
            }
            let pause = match looked {
                Ok(()) => LOOK,
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    self.interrupted(&error);
                    LOOK
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok(ended) => ended,
                        Err(error) => (error.id(), Err(Error::Engine)),
                    };
                    running.remove(&id);
                    outcome?;
                    if id == rebuilding && !stop.is_cancelled() {
                        return Err(Error::Engine);
                    }
                }
            }
        }
        // Leases are given back.
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap_or(Err(Error::Engine))?;
        }
        Ok(())
    }

    /// Starts to keep the parts that nobody keeps.
    async fn look(
        &self,
        stop: &CancellationToken,
        tasks: &mut JoinSet<Result<(), Error>>,
        running: &mut HashMap<tokio::task::Id, Part>,
    ) -> Result<(), Error> {
        let pool = self.database.pool();
        for (part, orphaned) in generations::without_writer(self.definition, pool).await? {
            if running.values().any(|running| *running == part) {
                continue;
            }
            let (engine, stop) = (self.clone(), stop.clone());
            let task = tasks.spawn(async move {
                match engine.take_turn(part, orphaned, &stop).await {
                    Err(Error::Fenced(projection)) => {
                        tracing::info!(projection, "Another worker has taken over");
                    }
                    Err(error) if error.is_final() => return Err(error),
                    Err(error) => engine.interrupted(&error),
                    Ok(()) => {}
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = stop.cancelled() => {}
                }
                Ok(())
            });
            running.insert(task.id(), part);
        }
        Ok(())
    }

    fn interrupted(&self, error: &Error) {
        tracing::warn!(
            projection = self.definition.name,
            error = exodrive_runtime::error_chain(error),
            "Projection interrupted, will go on from its checkpoint"
        );
    }

    /// Takes a part's lease if nobody has it, then folds until the lease is
    /// lost or something fails.
    async fn take_turn(
        &self,
        part: Part,
        orphaned: bool,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        // What nobody takes, others cannot: it is of a version that they do not
        // know.
        let Some((_held, beyond)) = self.share.take(orphaned) else { return Ok(()) };
        let pool = self.database.pool();
        store::check_log(pool, &exodrive_domain::time::format(&self.log.created_at())).await?;
        let Some(lease) = leases::acquire(self.definition, pool, part, &self.worker).await? else {
            return Ok(());
        };
        let end = self.log.last_position().await?;
        if lease.position > end {
            let position = lease.position;
            return Err(Error::AheadOfLog { projection: self.definition.name, position, end });
        }
        tracing::info!(
            projection = self.definition.name,
            generation = part.generation,
            partition = part.partition,
            position = lease.position,
            end,
            "Projection `{}` begins at {}, {} behind",
            self.definition.name,
            lease.position,
            end - lease.position
        );
        let (lease, outcome) = (self.turn)(self, lease, beyond, stop).await;
        if !matches!(outcome, Err(Error::Fenced(_))) {
            let _ = leases::release(self.definition, pool, &lease).await;
        }
        outcome
    }

    /// What changes rarely: a version that is not built yet, generations on
    /// their way out, readers of a release whose workers have gone.
    async fn keep_house(&self) -> Result<(), Error> {
        let pool = self.database.pool();
        generations::ensure_version(self.definition, pool).await?;
        refolds::drop_forsaken(self.definition, pool).await?;
        for generation in generations::dropping(pool, self.definition.name).await? {
            generations::drop_generation(pool, self.definition.name, generation).await?;
            if self.definition.cached {
                let _ = self.cache.sweep(self.definition.name, generation).await;
            }
            tracing::info!(projection = self.definition.name, generation, "Dropped a generation");
        }
        generations::refresh_views(pool, self.definition.name).await
    }
}
