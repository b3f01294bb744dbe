//! The stages of a rebuild: fill another generation, let it catch up, compare it with the one that
//! readers see, and swap it in.
//!
//! Any worker of the right version executes a rebuild. It holds the rebuild's lease. If it dies,
//! another worker takes over: rows that were being loaded are discarded and loaded again, every
//! later stage continues where it was. A swap is one transaction, so that it is never half done. So it
//! does itself when a connection of it is dead: it has some of its own ([`Apart`]).

use super::{
    compare,
    governor::Governor,
    load::{self, LoadFn},
    progress::Progress,
    swap::{self, Permitted, Swapped},
};
use crate::{
    Error, Transaction,
    engine::{
        Apart, Engine, alive,
        store::{
            self,
            comparison::Comparison,
            generations, parked,
            rebuilds::{self, Job},
            refolds,
            states::{GenerationState, RebuildKind, RebuildState},
        },
    },
};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Time between two polls for rebuilds.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two polls for a generation that catches up.
const POLL: Duration = Duration::from_millis(20);
/// Two generations that differ by at most this many events count as level.
const NEAR: u64 = 2_000;
/// Time between two warnings that a generation does not become level.
const WARN: Duration = Duration::from_secs(30);
/// Longest time for finding a rebuild, and for ending one.
const LONGEST_ROUND: Duration = Duration::from_secs(20);
/// Time that a swap waits for Redis to have the new views.
const REDIS_WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Executes the rebuilds of a projection until `stop`.
pub(crate) async fn run(
    engine: &Engine,
    load: LoadFn,
    stop: &CancellationToken,
) -> Result<(), Error> {
    while !stop.is_cancelled() {
        let outcome = tokio::select! {
            outcome = run_pending(engine, load) => outcome,
            () = stop.cancelled() => return Ok(()),
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_final() => return Err(error),
            Err(error) => tracing::warn!(
                projection = engine.definition.name,
                error = exodrive_runtime::error_chain(&error),
                "Rebuild interrupted, will continue"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

async fn run_pending(engine: &Engine, load: LoadFn) -> Result<(), Error> {
    let pool = engine.database.pool();
    let Some(job) = alive::within(LONGEST_ROUND, take(engine)).await? else { return Ok(()) };
    let apart = engine.database.apart("rebuild");
    let own = Engine { database: apart.database().clone(), ..engine.clone() };
    let progress = Progress::start(engine.definition, pool.clone(), job.clone());
    let mut rebuild = Rebuild { engine: &own, load, job, progress, apart: &apart };
    // On the heap: it is large, and is passed on.
    let outcome = apart.run(Box::pin(rebuild.run_or_fail())).await;
    let job = rebuild.job;
    let over = alive::within(LONGEST_ROUND, end(engine, &job, outcome)).await;
    apart.close().await;
    over
}

/// Takes the lease of a rebuild that nobody executes.
async fn take(engine: &Engine) -> Result<Option<Job>, Error> {
    let pool = engine.database.pool();
    let job = rebuilds::acquire(engine.definition, pool, &engine.worker).await?;
    if job.is_some() {
        store::check_log(pool, &exodrive_domain::time::format(&engine.log.created_at())).await?;
    }
    Ok(job)
}

/// Leaves a rebuild to whoever tries again, or fails it for good.
async fn end(engine: &Engine, job: &Job, outcome: Result<(), Error>) -> Result<(), Error> {
    let pool = engine.database.pool();
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if may_pass(&error) => {
            let _ = rebuilds::release(pool, job).await;
            Err(error)
        }
        Err(error) => {
            let mut connection = pool.acquire().await?;
            discard(engine, job).await?;
            let error = exodrive_runtime::error_chain(&error);
            rebuilds::fail(&mut connection, job.id, job.epoch, &error).await
        }
    }
}

/// True if a retry may succeed.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Fenced(_) | Error::Log(_) => true,
        Error::Database(_) => !store::is_refused_value(error),
        _ => false,
    }
}

/// Gives up a generation that will not be swapped in.
async fn discard(engine: &Engine, job: &Job) -> Result<(), Error> {
    let Some(generation) = job.generation else { return Ok(()) };
    generations::let_go(engine.definition, engine.database.pool(), generation, job.kind).await
}

struct Rebuild<'a> {
    engine: &'a Engine,
    load: LoadFn,
    job: Job,
    progress: Progress,
    apart: &'a Apart,
}

impl Rebuild<'_> {
    async fn run_or_fail(&mut self) -> Result<(), Error> {
        let (engine, job) = (self.engine, self.job.clone());
        let ended = tokio::select! {
            outcome = build_or_swap(engine, self.load, &mut self.job, &self.progress, self.apart) =>
                return outcome,
            () = self.progress.ended() => self.progress.is_cancelled(),
        };
        if !ended {
            return Err(Error::Fenced(engine.definition.name));
        }
        let mut connection = engine.database.pool().acquire().await?;
        // The job may have got its generation since.
        discard(engine, &Job { generation: self.job.generation.or(job.generation), ..job.clone() })
            .await?;
        let next = RebuildState::Cancelled;
        rebuilds::enter(engine.definition, &mut connection, &job, next).await?;
        tracing::info!(projection = engine.definition.name, "Cancelled a rebuild");
        Ok(())
    }
}

async fn build_or_swap(
    engine: &Engine,
    load: LoadFn,
    job: &mut Job,
    progress: &Progress,
    apart: &Apart,
) -> Result<(), Error> {
    let pool = engine.database.pool();
    let found = match job.generation {
        Some(generation) => generations::state(engine.definition, pool, generation)
            .await?
            .map(|state| (generation, state)),
        None => None,
    };
    let to = match (found, job.kind) {
        (Some((to, GenerationState::CatchingUp)), _) => to,
        (Some((to, GenerationState::Previous)), RebuildKind::Rollback) => {
            let mut transaction = Transaction::begin(pool).await?;
            generations::catch_up(engine.definition, &mut transaction, to).await?;
            let next = RebuildState::CatchingUp;
            rebuilds::enter(engine.definition, &mut transaction, job, next).await?;
            transaction.commit().await?;
            to
        }
        (_, RebuildKind::Rollback) => {
            let mut connection = pool.acquire().await?;
            let error = "there is no such previous generation: it was dropped";
            return rebuilds::fail(&mut connection, job.id, job.epoch, error).await;
        }
        _ => build(engine, load, job, progress, apart).await?,
    };
    swap_in(engine, job, progress, to).await
}

/// Creates a generation, fills it with the log up to its present end, and returns it.
async fn build(
    engine: &Engine,
    load: LoadFn,
    job: &mut Job,
    progress: &Progress,
    apart: &Apart,
) -> Result<i32, Error> {
    let pool = engine.database.pool();
    // The generation that another worker had begun to load.
    discard(engine, job).await?;
    let active = generations::active(engine.definition, pool).await?;
    let from_position = job.from_position.filter(|_| active.version == engine.definition.version);
    let partitions = match from_position {
        Some(_) => active.partitions,
        None => job.partitions.unwrap_or(active.partitions),
    };
    let mut transaction = Transaction::begin(pool).await?;
    let generation = generations::next_number(engine.definition, &mut transaction).await?;
    let state = GenerationState::Building;
    generations::insert(engine.definition, &mut transaction, generation, partitions, state).await?;
    generations::create_table(engine.definition, &mut transaction, generation).await?;
    let mut indexes =
        generations::take_indexes(engine.definition, &mut transaction, generation).await?;
    job.generation = Some(generation);
    rebuilds::enter(engine.definition, &mut transaction, job, RebuildState::Building).await?;
    transaction.commit().await?;
    let end = engine.log.last_position().await?;
    progress.total(end);
    tracing::info!(
        projection = engine.definition.name,
        generation,
        end,
        "Rebuilding `{}`",
        engine.definition.name
    );
    let (only, until) = match from_position {
        None => (None, end),
        Some(since) => {
            let (touched, until) =
                compare::copy_untouched(engine, active.generation, generation, since).await?;
            (Some(Arc::new(touched.into_iter().collect::<HashSet<_>>())), until)
        }
    };
    progress.total(until);
    let governor = Governor::watch(
        engine.definition,
        progress.pool().clone(),
        engine.cache.clone(),
        active.generation,
        engine.settings.rebuilds,
    );
    let plan = load::Plan { generation, partitions, until, only };
    let filling = load::Filling {
        plan: &plan,
        indexes: &mut indexes,
        governor: &governor,
        progress,
        pulse: apart.pulse(),
    };
    load(engine, filling).await?;
    enter(engine, job, RebuildState::Indexing).await?;
    load::finish(engine, generation, &mut indexes).await?;
    let mut transaction = Transaction::begin(pool).await?;
    rebuilds::enter(engine.definition, &mut transaction, job, RebuildState::CatchingUp).await?;
    generations::catch_up(engine.definition, &mut transaction, generation).await?;
    generations::set_position(engine.definition, &mut transaction, generation, until).await?;
    generations::count_rows(engine.definition, &mut transaction, generation).await?;
    transaction.commit().await?;
    Ok(generation)
}

/// Waits until the generation is level, compares it, and swaps it in.
async fn swap_in(engine: &Engine, job: &Job, progress: &Progress, to: i32) -> Result<(), Error> {
    let pool = engine.database.pool();
    'compare: loop {
        let from = generations::active(engine.definition, pool).await?;
        caught_up(engine, progress, from.generation, to).await?;
        enter(engine, job, RebuildState::Comparing).await?;
        let (comparison, moving) = compare::compare(engine, from.generation, to).await?;
        let mut connection = pool.acquire().await?;
        rebuilds::compared(&mut connection, job, &comparison).await?;
        drop(connection);
        // A new version, or one that an operator rolls back to, may have other rows.
        let may_differ =
            job.kind != RebuildKind::Rebuild || comparison.from_version != comparison.to_version;
        let permitted =
            || Permitted { rows: may_differ || progress.accepted(), parking: progress.accepted() };
        if !decided(engine, job, progress, &comparison, permitted).await? {
            continue;
        }
        enter(engine, job, RebuildState::Swapping).await?;
        for _ in 0..50 {
            match swap::swap(engine, job, &comparison, &moving, permitted()).await {
                Ok(Swapped::Yes) => return Ok(()),
                Ok(Swapped::NotLevel) => {}
                Ok(Swapped::Differs(found)) => {
                    let mut connection = pool.acquire().await?;
                    rebuilds::compared(&mut connection, job, &found).await?;
                    drop(connection);
                    if !decided(engine, job, progress, &found, permitted).await? {
                        continue 'compare;
                    }
                    enter(engine, job, RebuildState::Swapping).await?;
                }
                // A lock was not available in time.
                Err(Error::Database(error)) if is_lock_timeout(&error) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(POLL).await;
        }
        let at = swap::positions(engine, from.generation, to).await?;
        tracing::warn!(
            projection = engine.definition.name,
            rebuild = %job.id,
            from = from.generation,
            from_position = at.from,
            to,
            to_position = at.to,
            to_published = at.published,
            "Generation {to} of `{}` cannot be swapped in yet: it is not level, or locks are \
             held; both are compared again",
            engine.definition.name
        );
    }
}

async fn enter(engine: &Engine, job: &Job, next: RebuildState) -> Result<(), Error> {
    let mut connection = engine.database.pool().acquire().await?;
    rebuilds::enter(engine.definition, &mut connection, job, next).await
}

/// Waits until a generation is level or nearly level with the one that readers see, and no row of
/// either is to be folded again.
async fn caught_up(engine: &Engine, progress: &Progress, from: i32, to: i32) -> Result<(), Error> {
    let began = tokio::time::Instant::now();
    let mut warned = began;
    loop {
        progress.total(engine.log.last_position().await?);
        let at = swap::positions(engine, from, to).await?;
        progress.follows(at.to);
        let mut connection = engine.database.pool().acquire().await?;
        let is_blocked = refolds::blocks_swap(engine.definition, &mut connection, from, to).await?;
        drop(connection);
        if warned.elapsed() > WARN {
            warned = tokio::time::Instant::now();
            tracing::warn!(
                projection = engine.definition.name,
                from,
                from_position = at.from,
                to,
                to_position = at.to,
                to_published = at.published,
                is_blocked,
                "Generation {to} of `{}` is not level yet{}",
                engine.definition.name,
                if is_blocked {
                    ": rows are still to be folded again after an erasure"
                } else {
                    ""
                }
            );
        }
        if is_blocked {
            tokio::time::sleep(POLL).await;
            continue;
        }
        if at.are_near(engine, NEAR) {
            return Ok(());
        }
        // Without Redis readers ask Postgres.
        if began.elapsed() > REDIS_WAIT_TIMEOUT && !engine.cache.answers().await {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until what differs is permitted: an operator accepts it. If they cancel instead, the caller
/// drops this future. Returns false if the generations are to be compared again: what the new one
/// had parked has been folded meanwhile.
async fn decided(
    engine: &Engine,
    job: &Job,
    progress: &Progress,
    found: &Comparison,
    permitted: impl Fn() -> Permitted,
) -> Result<bool, Error> {
    if permitted().covers(found) {
        return Ok(true);
    }
    let (from, to) = (found.from_generation, found.to_generation);
    tracing::warn!(
        projection = engine.definition.name,
        rebuild = %job.id,
        from,
        to,
        differences = found.difference_count,
        newly_parked = found.newly_parked.len(),
        "Generation {to} of `{}` waits for an operator: its rows differ, or it has parked events \
         that the present one has folded",
        engine.definition.name
    );
    enter(engine, job, RebuildState::Waiting).await?;
    while !progress.accepted() {
        tokio::time::sleep(POLL_INTERVAL).await;
        if found.newly_parked.is_empty() {
            continue;
        }
        let mut connection = engine.database.pool().acquire().await?;
        let still = parked::newly(engine.definition, &mut connection, (from, to), found.position);
        if still.await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    // lock_not_available, deadlock_detected
    error.code().is_some_and(|code| ["55P03", "40P01"].contains(&code.as_ref()))
}
