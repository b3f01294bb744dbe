//! Fills a generation in bulk: the log is read once, rows are folded in memory and copied into a
//! table that has no index yet.
//!
//! Memory is bounded. When the rows in memory take half of the limit, those that no event has
//! touched for longest are copied out. An event that touches a row which was copied out takes it
//! back; for that the table gets its primary key first. The keys of such rows are remembered as
//! hashes. When these take too much memory, every row that is not in memory is searched for in the
//! table.
//!
//! Rows that Postgres refuses are folded again by [`refused`](crate::engine::refused): the log is
//! read once more to find the events, and a third time to fold these rows without them.

use super::{governor::Governor, progress::Progress};
use crate::{
    Error, Transaction,
    engine::{
        Engine, PartitionId,
        apart::Pulse,
        feed::{Decoded, Events},
        fold::{self, Exclusions, Parked, RoutedEvent, Stored, Table},
        projection::Projection,
        refused::{States, judge},
        sandbox::{HungFold, Mark, Sandbox},
        store::{
            self,
            copy::{self, Copy, Line},
            generations, parked,
        },
    },
};
use exodrive_domain::Subject;
use exodrive_log::Log;
use futures::future::BoxFuture;
use sqlx::PgPool;
use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

/// Events read at a time.
const BATCH: usize = 4_000;
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Batches that are read ahead.
const AHEAD: usize = 3;
/// Rows that Postgres refused and that are folded at once, all in memory.
const REFUSED_AT_ONCE: usize = 10_000;
/// Memory that a remembered hash takes.
const HASH_BYTES: usize = 16;

/// The events and rows to load.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) generation: i32,
    pub(crate) partitions: i32,
    /// Last position, inclusive.
    pub(crate) until: u64,
    /// Only these rows; all if `None`.
    pub(crate) only: Option<Arc<HashSet<String>>>,
}

/// Rows in memory, in two halves: those touched recently and those before.
struct Loader<R> {
    young: HashMap<String, Resident<R>>,
    old: HashMap<String, Resident<R>>,
    young_bytes: usize,
    old_bytes: usize,
    limit: usize,
    /// Hashes of the keys of rows that are in the table. `None`: there are too many of them.
    copied: Option<HashSet<u64>>,
    hasher: RandomState,
}

struct Resident<R> {
    row: Option<Stored<R>>,
    /// Size of the bodies of the events that made it: it holds nothing else.
    bytes: usize,
}

impl<R> Table<R> for Loader<R> {
    fn get(&self, key: &str) -> Option<&R> {
        let resident = self.young.get(key).or_else(|| self.old.get(key))?;
        resident.row.as_ref().map(|stored| &stored.row)
    }

    fn put(&mut self, key: &str, _position: u64, row: Option<Stored<R>>, bytes: usize) {
        if let Some(resident) = self.young.get_mut(key) {
            resident.row = row;
            resident.bytes += bytes;
            self.young_bytes += bytes;
            return;
        }
        let (key, before) = match self.old.remove_entry(key) {
            Some((key, before)) => (key, before.bytes),
            None => (key.to_owned(), key.len() + size_of::<R>()),
        };
        self.old_bytes = self.old_bytes.saturating_sub(before);
        self.young_bytes += before + bytes;
        self.young.insert(key, Resident { row, bytes: before + bytes });
    }
}

impl<R> Loader<R> {
    fn new(limit: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            old_bytes: 0,
            limit,
            copied: Some(HashSet::new()),
            hasher: RandomState::new(),
        }
    }

    fn resident_bytes(&self) -> usize {
        self.young_bytes
            + self.old_bytes
            + self.copied.as_ref().map_or(0, HashSet::len) * HASH_BYTES
    }

    /// Those of these keys that may be in the table and are not in memory.
    fn missing(&self, keys: Vec<String>) -> Vec<String> {
        let absent = |key: &String| !self.young.contains_key(key) && !self.old.contains_key(key);
        let may_be_copied = |key: &String| match &self.copied {
            Some(copied) => copied.contains(&self.hasher.hash_one(key)),
            None => true,
        };
        keys.into_iter().filter(|key| absent(key) && may_be_copied(key)).collect()
    }

    fn take_back(&mut self, rows: HashMap<String, Stored<R>>, bytes: usize) {
        let each = bytes / rows.len().max(1);
        for (key, row) in rows {
            self.put(&key, row.position, Some(row), each);
        }
    }

    /// Rows to be copied out, if there are too many in memory.
    fn spill<P: Projection<Row = R>>(&mut self, mark: &Mark) -> Result<Vec<Line>, Error> {
        if self.young_bytes < self.limit / 2 {
            return Ok(Vec::new());
        }
        let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.old_bytes = std::mem::take(&mut self.young_bytes);
        self.lines::<P>(old, mark)
    }

    /// Every remaining row.
    fn rest<P: Projection<Row = R>>(&mut self, mark: &Mark) -> Result<Vec<Line>, Error> {
        let (young, old) = (std::mem::take(&mut self.young), std::mem::take(&mut self.old));
        (self.young_bytes, self.old_bytes) = (0, 0);
        let mut lines = self.lines::<P>(old, mark)?;
        lines.extend(self.lines::<P>(young, mark)?);
        Ok(lines)
    }

    fn lines<P: Projection<Row = R>>(
        &mut self,
        rows: HashMap<String, Resident<R>>,
        mark: &Mark,
    ) -> Result<Vec<Line>, Error> {
        let mut lines = Vec::with_capacity(rows.len());
        for (number, (key, Resident { row, .. })) in rows.into_iter().enumerate() {
            mark.set_row(0, number);
            let Some(Stored { row, position }) = row else { continue };
            let json = store::json::<P>(&key, &row)?;
            if let Some(copied) = &mut self.copied {
                copied.insert(self.hasher.hash_one(&key));
            }
            lines.push(Line { key, position, json });
        }
        if self.copied.as_ref().is_some_and(|copied| copied.len() * HASH_BYTES > self.limit / 4) {
            self.copied = None;
        }
        Ok(lines)
    }
}

/// The place that is filled, and the statements for its indexes.
pub(crate) struct Filling<'a> {
    pub(crate) plan: &'a Plan,
    /// The statements that create the table's indexes.
    pub(crate) indexes: &'a mut Vec<String>,
    pub(crate) governor: &'a Governor,
    pub(crate) progress: &'a Progress,
    /// Of the rebuild.
    pub(crate) pulse: &'a Pulse,
}

/// The task that writes rows into the table, for errors.
const COPYING: &str = "The task that copies a rebuild's rows";

/// [`load`] of one projection.
pub(crate) type LoadFn = for<'a> fn(&'a Engine, Filling<'a>) -> BoxFuture<'a, Result<(), Error>>;

/// Fills the table of a generation, which exists and has no rows, with the fold of the log up to a
/// position; parks events that cannot be folded, or after which Postgres refuses the row.
pub(crate) async fn load<P: Projection>(
    engine: &Engine,
    mut filling: Filling<'_>,
) -> Result<(), Error> {
    let (pool, generation) = (engine.database.pool(), filling.plan.generation);
    let whole = PartitionId { generation, partition: 0, partitions: 1 };
    let mut exclusions = parked::exclusions(engine.definition, pool, whole).await?;
    loop {
        match fill::<P>(engine, &mut filling, &mut exclusions).await {
            // The rows in memory were lost with the thread: everything begins again.
            Err(Filled::HungFold(hung)) if exclusions.leave_out(hung) => {
                let position = hung.position;
                tracing::error!(projection = P::NAME, position, "An event's fold does not end");
                exclusions.blocked.clear();
                let only = filling.plan.only.as_deref();
                generations::empty(engine.definition, pool, generation, only).await?;
            }
            Err(Filled::HungFold(hung)) => return Err(hung.error(P::NAME)),
            Err(Filled::Error(error)) => return Err(error),
            Ok(()) => return Ok(()),
        }
    }
}

/// Fills the table, and once more with the rows that Postgres has refused, without the events after
/// which it does.
async fn fill<P: Projection>(
    engine: &Engine,
    filling: &mut Filling<'_>,
    exclusions: &mut Exclusions,
) -> Result<(), Filled> {
    let (plan, pool) = (filling.plan, engine.database.pool());
    let memory = engine.settings.rebuilds.memory;
    filling.progress.limit(memory);
    exclusions.refused.clear();
    let pipeline = Pipeline::<P>::start(engine, plan, filling.pulse, memory);
    let refused: Vec<_> = pipeline.run(plan, filling, exclusions).await?.into_iter().collect();
    for keys in refused.chunks(REFUSED_AT_ONCE) {
        let keys: Arc<HashSet<_>> = Arc::new(keys.iter().cloned().collect());
        generations::empty(engine.definition, pool, plan.generation, Some(&keys)).await?;
        make_key(pool, filling.indexes).await?;
        let plan = Plan { only: Some(keys.clone()), ..plan.clone() };
        exclusions.blocked.clear();
        exclusions.refused = find_refused::<P>(engine, &plan, keys, exclusions).await?;
        // All of them stay in memory to the end: a state before the last may be refused.
        let pipeline = Pipeline::<P>::start(engine, &plan, filling.pulse, u64::MAX);
        if !pipeline.run(&plan, filling, exclusions).await?.is_empty() {
            return Err(Error::RefusedRows(P::NAME).into());
        }
    }
    Ok(())
}

/// The events after which Postgres refuses these rows, by key: see
/// [`refused`](crate::engine::refused). The table has none of the rows.
async fn find_refused<P: Projection>(
    engine: &Engine,
    plan: &Plan,
    keys: Arc<HashSet<String>>,
    exclusions: &Exclusions,
) -> Result<HashMap<String, u64>, Filled> {
    let whole = PartitionId { generation: plan.generation, partition: 0, partitions: 1 };
    let (send, mut batches) = mpsc::channel(AHEAD);
    let _reading =
        AbortOnDropHandle::new(tokio::spawn(read_events(engine.log.clone(), plan.until, send)));
    let mut sandbox = Sandbox::new(engine.settings.fold_limit);
    let mut exclusions = Exclusions { refused: HashMap::new(), ..exclusions.clone() };
    let (mut rows, mut refused) = (HashMap::new(), HashMap::new());
    while let Some(events) = batches.recv().await {
        let (events, mut states) = (events?, States::new(rows, keys.clone()));
        let (keys, mut own) = (keys.clone(), exclusions);
        let job = sandbox.run(move |mark| {
            let mut routed = fold::route::<P>(&events, whole, &own, None, mark);
            fold::retain(&mut routed, |key| keys.contains(key));
            fold::fold::<P>(&events, &routed, &mut states, &mut own, mark);
            (states, own)
        });
        let (states, own) = job.await.map_err(Filled::HungFold)?;
        exclusions = own;
        let mut transaction = store::begin_transaction(engine.database.pool()).await?;
        let generation = plan.generation;
        rows = judge::<P>(&mut transaction, generation, states, &mut refused).await?;
        transaction.rollback().await?;
    }
    Ok(refused)
}

enum Filled {
    HungFold(HungFold),
    Error(Error),
}

impl From<Error> for Filled {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<sqlx::Error> for Filled {
    fn from(error: sqlx::Error) -> Self {
        Self::Error(error.into())
    }
}

struct Pipeline<P: Projection> {
    engine: Engine,
    events: mpsc::Receiver<Result<Events, Error>>,
    copies: mpsc::Sender<Copy>,
    copying: AbortOnDropHandle<Result<HashSet<String>, Error>>,
    _reading: AbortOnDropHandle<()>,
    sandbox: Sandbox,
    loader: Loader<P::Row>,
}

impl<P: Projection> Pipeline<P> {
    /// Begins to read the log. At most `memory` bytes of rows are held.
    fn start(engine: &Engine, plan: &Plan, pulse: &Pulse, memory: u64) -> Self {
        let (send_events, events) = mpsc::channel(AHEAD);
        let (copies, copied) = mpsc::channel(copy::CHUNKS);
        let Plan { generation, until, .. } = *plan;
        let reading = tokio::spawn(read_events(engine.log.clone(), until, send_events));
        let (pulse, pool) = (pulse.clone(), engine.database.pool().clone());
        let copying = copy::copy(engine.definition, pool, generation, copied);
        let copying = tokio::spawn(async move { pulse.of(copying).await });
        Self {
            engine: engine.clone(),
            events,
            copies,
            copying: AbortOnDropHandle::new(copying),
            _reading: AbortOnDropHandle::new(reading),
            sandbox: Sandbox::new(engine.settings.fold_limit),
            loader: Loader::new(usize::try_from(memory).unwrap_or(usize::MAX)),
        }
    }

    async fn run(
        mut self,
        plan: &Plan,
        filling: &mut Filling<'_>,
        exclusions: &mut Exclusions,
    ) -> Result<HashSet<String>, Filled> {
        let whole = PartitionId { generation: plan.generation, partition: 0, partitions: 1 };
        while let Some(events) = self.events.recv().await {
            let events = events?;
            let Some(last) = events.all().last().map(|event| event.recorded.position) else {
                continue;
            };
            let (routed, missing) = self.route(&events, whole, plan, exclusions).await?;
            if !missing.is_empty() {
                self.take_back(missing, plan.generation, filling.indexes).await?;
            }
            let parked = self.fold(&events, routed, exclusions).await?;
            if !parked.is_empty() {
                park(&self.engine, plan, &parked).await?;
            }
            let yielded = filling.governor.yielded();
            filling.progress.reached(last, self.loader.resident_bytes(), yielded);
            filling.governor.yield_to_readers().await;
        }
        let mut loader = std::mem::replace(&mut self.loader, Loader::new(0));
        let job = self.sandbox.run(move |mark| loader.rest::<P>(mark));
        let rest = job.await.map_err(Filled::HungFold)?;
        self.copy(Copy::Lines(rest?)).await?;
        drop(self.copies);
        Ok(self.copying.await.map_err(|error| Error::lost(COPYING, &error))??)
    }

    /// Finds the rows that the events touch, and those of them that may be in the table.
    async fn route(
        &mut self,
        events: &Events,
        whole: PartitionId,
        plan: &Plan,
        exclusions: &Exclusions,
    ) -> Result<(Vec<RoutedEvent>, Vec<String>), Filled> {
        let (events, exclusions, only) = (events.clone(), exclusions.clone(), plan.only.clone());
        let loader = std::mem::replace(&mut self.loader, Loader::new(0));
        let job = self.sandbox.run(move |mark| {
            let mut routed = fold::route::<P>(&events, whole, &exclusions, None, mark);
            if let Some(only) = only {
                fold::retain(&mut routed, |key| only.contains(key));
            }
            let missing = loader.missing(fold::keys(&routed));
            (routed, missing, loader)
        });
        let (routed, missing, loader) = job.await.map_err(Filled::HungFold)?;
        self.loader = loader;
        Ok((routed, missing))
    }

    /// Folds, and copies rows out if there are too many.
    async fn fold(
        &mut self,
        events: &Events,
        routed: Vec<RoutedEvent>,
        exclusions: &mut Exclusions,
    ) -> Result<Vec<Parked>, Filled> {
        let (events, mut own) = (events.clone(), exclusions.clone());
        let mut loader = std::mem::replace(&mut self.loader, Loader::new(0));
        let job = self.sandbox.run(move |mark| {
            let parked = fold::fold::<P>(&events, &routed, &mut loader, &mut own, mark);
            let lines = loader.spill::<P>(mark);
            (parked, lines, loader, own)
        });
        let (parked, lines, loader, own) = job.await.map_err(Filled::HungFold)?;
        (self.loader, *exclusions) = (loader, own);
        let lines = lines?;
        if !lines.is_empty() {
            self.copy(Copy::Lines(lines)).await?;
        }
        Ok(parked)
    }

    async fn copy(&mut self, copy: Copy) -> Result<(), Filled> {
        if self.copies.send(copy).await.is_ok() {
            return Ok(());
        }
        // The task ended, so it has the error.
        Err(match (&mut self.copying).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => Error::TaskEnded(COPYING),
            Err(error) => Error::lost(COPYING, &error),
        }
        .into())
    }

    /// Moves rows from the table into memory.
    async fn take_back(
        &mut self,
        keys: Vec<String>,
        generation: i32,
        indexes: &mut Vec<String>,
    ) -> Result<(), Filled> {
        let (done, copied) = oneshot::channel();
        self.copy(Copy::Flush(done)).await?;
        if copied.await.is_err() {
            self.copy(Copy::Lines(Vec::new())).await?;
        }
        let pool = self.engine.database.pool();
        make_key(pool, indexes).await?;
        let mut transaction = store::begin_transaction(pool).await?;
        let rows = store::take::<P>(&mut transaction, generation, &keys).await?;
        transaction.commit().await?;
        let bytes = 1_000 * rows.len();
        self.loader.take_back(rows, bytes);
        Ok(())
    }
}

/// The first index is the key's.
async fn make_key(pool: &PgPool, indexes: &mut Vec<String>) -> Result<(), Error> {
    if let Some(at) = indexes.iter().position(|index| index.contains("PRIMARY KEY")) {
        generations::make_index(pool, &indexes[at]).await?;
        indexes.remove(at);
    }
    Ok(())
}

async fn read_events(log: Log, until: u64, events: mpsc::Sender<Result<Events, Error>>) {
    let mut reader = log.reader(1);
    let mut position = 0;
    while position < until {
        let batch = match reader.next_batch(BATCH, READ_TIMEOUT).await {
            Ok(batch) => batch,
            Err(error) => {
                let _ = events.send(Err(error.into())).await;
                return;
            }
        };
        let mut read = batch.events;
        read.retain(|event| event.position <= until);
        position = read.last().map_or(position, |event| event.position);
        let decoded = Events::of(read.into_iter().map(Decoded::from).collect());
        if events.send(Ok(decoded)).await.is_err() {
            return;
        }
    }
}

/// Parks events in the partitions that their keys belong to; a subject that cannot be read, in all
/// of them.
async fn park(engine: &Engine, plan: &Plan, parked: &[Parked]) -> Result<(), Error> {
    let mut connection = engine.database.pool().acquire().await?;
    let (generation, partitions) = (plan.generation, plan.partitions);
    for partition in 0..partitions {
        let part = PartitionId { generation, partition, partitions };
        let is_subject = |key: &str| key.parse::<Subject>().is_ok();
        let own = parked.iter().filter(|it| part.holds(&it.key) || is_subject(&it.key));
        let own: Vec<_> = own.cloned().collect();
        parked::park(engine.definition, &mut connection, part, &own, 0).await?;
    }
    Ok(())
}

/// Creates the indexes that a filled table still lacks.
pub(crate) async fn finish(
    engine: &Engine,
    generation: i32,
    indexes: &mut Vec<String>,
) -> Result<(), Error> {
    let pool = engine.database.pool();
    for index in indexes.drain(..) {
        generations::make_index(pool, &index).await?;
    }
    let mut transaction = Transaction::begin(pool).await?;
    generations::open_to_readers(engine.definition, &mut transaction, generation).await?;
    transaction.commit().await?;
    generations::analyze(engine.definition, pool, generation).await
}
