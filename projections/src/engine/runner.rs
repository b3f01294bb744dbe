//! Runs projections: finds partitions without a writer and starts one, and starts rebuilds.

use super::{
    PartitionId, alive,
    cache::Cache,
    context::{Engine, EngineSettings, Step},
    database::Database,
    feed::Feed,
    projection::Projection,
    rebuild::{
        self,
        load::{self, LoadFn},
    },
    share::{Share, Slot},
    store::{
        self, generations,
        leases::{self, Lease},
        refolds,
    },
    writer,
};
use crate::Error;
use exodrive_log::Log;
use futures::future::BoxFuture;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Time between two polls for partitions without a writer.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Time between two runs of the housekeeping.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// Longest time for finding partitions without a writer, and for the housekeeping.
const LONGEST_ROUND: Duration = Duration::from_secs(10);
/// Time after the end of its lease after which a writer is ended: it would have noticed that, if
/// it did not wait for a dead connection.
const HUNG: Duration = Duration::from_secs(7);
/// Longest time for reading the share.
const LONGEST_BALANCE: Duration = Duration::from_secs(5);
/// Names of a runner's tasks in errors.
const REBUILDING: &str = "The task that carries out a projection's rebuilds";
const WRITING: &str = "The writer of a projection's partition";

/// Runs one projection. Cheap to clone.
#[derive(Clone)]
pub struct Runner {
    engine: Engine,
    /// Code that is compiled for each projection, behind pointers: the rest is compiled once for
    /// all of them.
    turn: WriterFn,
    load: LoadFn,
}

/// The task that writes a partition.
struct Writing {
    part: PartitionId,
    task: AbortHandle,
    /// Since when nobody has its lease, though the task runs.
    lost: Option<Instant>,
}

type WriterFn = for<'a> fn(
    &'a Engine,
    Lease,
    Slot,
    &'a CancellationToken,
) -> BoxFuture<'a, (Lease, Result<(), Error>)>;

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
    settings: EngineSettings,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let (feed, share) = (Feed::new(log.clone()), Share::among_workers());
    let mut runners = JoinSet::new();
    crate::for_each_projection!(P => {
        let mut runner = Runner::new::<P>(log.clone(), database.clone(), cache.clone(), worker)
            .with_settings(settings);
        runner.engine.feed = feed.clone();
        runner.engine.share = share.clone();
        let stop = stop.clone();
        runners.spawn(async move { runner.run(&stop).await });
    });
    let balance = balance(database, worker, &share, stop);
    let run = async {
        while let Some(outcome) = runners.join_next().await {
            outcome.map_err(|error| Error::lost("A projection's runner", &error))??;
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

/// Twice a second: records that the worker is alive, and reads its share.
async fn balance(
    database: &Database,
    worker: &str,
    share: &Share,
    stop: &CancellationToken,
) -> std::convert::Infallible {
    loop {
        if !stop.is_cancelled()
            && let Ok(Ok(fair)) =
                timeout(LONGEST_BALANCE, leases::share(database.pool(), worker)).await
        {
            share.set_fair(fair);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

impl Runner {
    /// A runner that has not begun.
    pub fn new<P: Projection>(log: Log, database: Database, cache: Cache, worker: &str) -> Self {
        Self {
            engine: Engine::new::<P>(log, database, cache, worker),
            load: |engine, filling| Box::pin(load::load::<P>(engine, filling)),
            turn: |engine, lease, slot, stop| {
                Box::pin(writer::write_until_lost::<P>(engine, lease, slot, stop))
            },
        }
    }

    /// A runner for the projection of this name; `None` if there is no such projection.
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

    /// Calls `hook` after each step of each batch: for tests that stop the process there.
    #[must_use]
    pub fn on_step(mut self, hook: impl Fn(Step) + Send + Sync + 'static) -> Self {
        self.engine.on_step = Some(Arc::new(hook));
        self
    }

    /// With these settings.
    #[must_use]
    pub fn with_settings(mut self, settings: EngineSettings) -> Self {
        self.engine.settings = settings;
        self
    }

    /// Runs until `stop`, through outages of the log, Postgres and Redis.
    ///
    /// # Errors
    /// Only for errors that no retry resolves: another log, a log that lost events.
    pub async fn run(&self, stop: &CancellationToken) -> Result<(), Error> {
        // Cancels everything that was begun when this function ends.
        let stop = stop.child_token();
        let _end = stop.clone().drop_guard();
        let mut tasks = JoinSet::new();
        let mut running: HashMap<tokio::task::Id, Writing> = HashMap::new();
        let rebuilding = {
            let (engine, load, stop) = (self.engine.clone(), self.load, stop.clone());
            tasks.spawn(async move { rebuild::run(&engine, load, &stop).await }).id()
        };
        let task = |id: tokio::task::Id| if id == rebuilding { REBUILDING } else { WRITING };
        let mut kept_house: Option<Instant> = None;
        while !stop.is_cancelled() {
            let assigning = self.assign_partitions(&stop, &mut tasks, &mut running);
            let mut assigned = alive::within(LONGEST_ROUND, assigning).await;
            if assigned.is_ok() && kept_house.is_none_or(|at| at.elapsed() > HOUSEKEEPING) {
                kept_house = Some(Instant::now());
                assigned = alive::within(LONGEST_ROUND, self.run_housekeeping()).await;
            }
            let pause = match assigned {
                Ok(()) => POLL_INTERVAL,
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    self.interrupted(&error);
                    POLL_INTERVAL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok(ended) => ended,
                        // It hung.
                        Err(error) if error.is_cancelled() => (error.id(), Ok(())),
                        Err(error) => (error.id(), Err(Error::lost(task(error.id()), &error))),
                    };
                    running.remove(&id);
                    outcome?;
                    if id == rebuilding && !stop.is_cancelled() {
                        return Err(Error::TaskEnded(REBUILDING));
                    }
                }
            }
        }
        // The tasks give their leases back.
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Err(error) if error.is_cancelled() => {}
                ended => ended.map_err(|error| Error::lost(task(error.id()), &error))??,
            }
        }
        Ok(())
    }

    /// Starts writers for partitions that have none, and ends those that hang.
    async fn assign_partitions(
        &self,
        stop: &CancellationToken,
        tasks: &mut JoinSet<Result<(), Error>>,
        running: &mut HashMap<tokio::task::Id, Writing>,
    ) -> Result<(), Error> {
        let pool = self.engine.database.pool();
        let orphans = generations::without_writer(self.engine.definition, pool).await?;
        for writing in running.values_mut() {
            let lost = orphans.iter().any(|(part, _)| *part == writing.part);
            self.end_if_hung(writing, lost);
        }
        for (part, orphaned) in orphans {
            if running.values().any(|writing| writing.part == part) {
                continue;
            }
            let (runner, stop) = (self.clone(), stop.clone());
            let task = tasks.spawn(async move {
                match runner.write_partition(part, orphaned, &stop).await {
                    Err(Error::Fenced(projection)) => {
                        tracing::info!(projection, "Another worker has taken over");
                    }
                    Err(error) if error.is_final() => return Err(error),
                    Err(error) => runner.interrupted(&error),
                    Ok(()) => {}
                }
                tokio::select! {
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                    () = stop.cancelled() => {}
                }
                Ok(())
            });
            running.insert(task.id(), Writing { part, task, lost: None });
        }
        Ok(())
    }

    /// Ends a writer whose lease has ended a while ago.
    fn end_if_hung(&self, writing: &mut Writing, lost: bool) {
        if !lost {
            writing.lost = None;
        } else if writing.lost.get_or_insert_with(Instant::now).elapsed() >= HUNG
            && !writing.task.is_finished()
        {
            tracing::warn!(
                projection = self.engine.definition.name,
                partition = writing.part.partition,
                "The writer hangs: it is ended, and another begins"
            );
            writing.task.abort();
        }
    }

    fn interrupted(&self, error: &Error) {
        tracing::warn!(
            projection = self.engine.definition.name,
            error = exodrive_runtime::error_chain(error),
            "Projection interrupted, will continue from its checkpoint"
        );
    }

    /// Takes a partition's lease if no worker has it, then folds until the lease is lost or
    /// something fails.
    async fn write_partition(
        &self,
        part: PartitionId,
        orphaned: bool,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        // A partition that no worker takes for a while belongs to a version that the other workers
        // do not know.
        let Some((_held, slot)) = self.engine.share.claim_slot(orphaned) else {
            return Ok(());
        };
        let pool = self.engine.database.pool();
        store::check_log(pool, &exodrive_domain::time::format(&self.engine.log.created_at()))
            .await?;
        let Some(lease) =
            leases::acquire(self.engine.definition, pool, part, &self.engine.worker).await?
        else {
            return Ok(());
        };
        let end = self.engine.log.last_position_expecting(lease.position).await?;
        if lease.position > end {
            let position = lease.position;
            return Err(Error::AheadOfLog {
                projection: self.engine.definition.name,
                position,
                end,
            });
        }
        tracing::info!(
            projection = self.engine.definition.name,
            generation = part.generation,
            partition = part.partition,
            position = lease.position,
            end,
            "Projection `{}` begins at {}, {} behind",
            self.engine.definition.name,
            lease.position,
            end - lease.position
        );
        let (lease, outcome) = (self.turn)(&self.engine, lease, slot, stop).await;
        if !matches!(outcome, Err(Error::Fenced(_))) {
            let _ = leases::release(self.engine.definition, pool, &lease).await;
        }
        outcome
    }

    /// Housekeeping: a version that is not built yet, generations to be dropped, readers of a
    /// release whose workers have gone.
    async fn run_housekeeping(&self) -> Result<(), Error> {
        let pool = self.engine.database.pool();
        generations::ensure_version(self.engine.definition, pool).await?;
        refolds::drop_abandoned(self.engine.definition, pool).await?;
        for generation in generations::dropping(pool, self.engine.definition.name).await? {
            generations::drop_generation(pool, self.engine.definition.name, generation).await?;
            if self.engine.definition.cached {
                let _ = self.engine.cache.sweep(self.engine.definition.name, generation).await;
            }
            tracing::info!(
                projection = self.engine.definition.name,
                generation,
                "Dropped a generation"
            );
        }
        generations::refresh_views(pool, self.engine.definition.name).await
    }
}
