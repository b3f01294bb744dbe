//! Carries approved erasures out: names the data keys, destroys them, has every
//! row folded again from what is left, and records that in the log. What is to be
//! erased follows from the log alone. Each step may be repeated; after a crash
//! another worker goes on. An erasure that cannot be completed holds up no other.

use crate::{Next, StepError, System, Worker};
use exodrive_commands::erasure::{
    ErasureError, ErasureRecord, Erasures, RestoreWatch, SUBJECTS, all_records,
    restored::{keys_not_cleaned, origin, own_key, record_keys_again, started, uuid},
};
use exodrive_domain::{
    erasure::{ErasureChange, ErasureStatus},
    id::ErasureId,
};
use exodrive_log::{KEY_CACHE, Log};
use exodrive_projections::{
    Database,
    engine::{Apart, cache::Cache, store::ErasureLock},
};
use exodrive_replays::person::{self, Touched};
use redis::Cmd;
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The pause between two steps.
const TICK: Duration = Duration::from_millis(500);
/// Answers to commands that Redis keeps for repeats: they hold what customers
/// gave. The log has them all.
const ANSWERS: &str = "exo:command:*";

/// Executes approved erasures.
pub struct ErasureExecutor {
    log: Log,
    /// Projections fold nothing before it is cancelled.
    erased_is_gone: CancellationToken,
    apart: Apart,
    /// By connections of this worker's own.
    database: Database,
    cache: Cache,
    restored: Restored,
    /// Notices a restore while this process runs.
    watch: RestoreWatch,
    /// The newest event about an erasure that was taken care of.
    seen: Option<u64>,
    /// Held from one step to the next while rows are folded again.
    lock: Option<ErasureLock>,
    /// Begun erasures whose rows are being folded again, with the number of rows.
    folding: BTreeMap<ErasureId, u64>,
}

/// The rows of a restored database that may still hold erased data.
enum Restored {
    /// It is not known whether there are any.
    Unknown,
    /// Those of these erasures are being folded again.
    Folding(Vec<Uuid>),
    /// There are none.
    Clean,
}

/// An erasure that the log says is begun.
struct Begun {
    id: ErasureId,
    /// The position of its last event.
    position: u64,
    keys: Vec<String>,
    events: u64,
}

/// Rows that cannot be folded again: they may still hold what was erased.
#[derive(Debug, thiserror::Error)]
#[error(
    "an erasure cannot be completed: {rows} rows of {projection} cannot be folded again yet: {reason}"
)]
struct RowsLeft {
    projection: String,
    rows: i64,
    reason: String,
}

impl Worker for ErasureExecutor {
    const NAME: &'static str = "erasure";
    // It reads the whole log. A dead connection ends the step all the same.
    const LIMIT: Option<Duration> = None;
    const ABOUT: &'static str =
        "Executes approved erasures: destroys data keys, then cleans every view.";

    fn new(system: &System) -> Self {
        let System { log, cache, erased_is_gone, .. } = system.clone();
        let apart = system.database.apart(Self::NAME);
        Self {
            log,
            erased_is_gone,
            database: apart.database().clone(),
            apart,
            cache,
            restored: Restored::Unknown,
            watch: RestoreWatch::default(),
            seen: None,
            lock: None,
            folding: BTreeMap::new(),
        }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        let apart = self.apart.clone();
        apart.run(Box::pin(self.do_what_is_due())).await
    }
}

impl ErasureExecutor {
    async fn do_what_is_due(&mut self) -> Result<Next, StepError> {
        if !self.erased_is_gone.is_cancelled() {
            reapply(&self.log, &self.database).await?;
            self.erased_is_gone.cancel();
        }
        if matches!(self.restored, Restored::Clean)
            && self.watch.finds_restored(&self.log, &self.database).await?
        {
            tracing::warn!("Database or key store were restored from a backup: erasing again");
            reapply(&self.log, &self.database).await?;
            self.restored = Restored::Unknown;
        }
        // Whatever keeps one from being done, the other is done.
        let restored = self.clean_restored().await;
        let due = self.run_due_erasures().await;
        restored?;
        due?;
        Ok(Next::After(TICK))
    }

    /// Looks for something to do, if an erasure has a new event or is not completed.
    async fn run_due_erasures(&mut self) -> Result<(), StepError> {
        let last = self.log.last_position_under(SUBJECTS).await?.unwrap_or(0);
        if self.seen == Some(last) && self.folding.is_empty() {
            return Ok(());
        }
        // After a failure every erasure is looked at again.
        self.seen = None;
        let lock = match self.lock.take() {
            Some(lock) => lock,
            None => match self.database.lock_erasures().await? {
                Some(lock) => lock,
                None => return Ok(()),
            },
        };
        let outcome = self.execute_all().await;
        if outcome.is_ok() && !self.folding.is_empty() {
            self.lock = Some(lock);
            return Ok(());
        }
        // Another process may be able to do what this one cannot.
        lock.release().await?;
        outcome?;
        // An event that came after `last` is looked at in the next step.
        self.seen = Some(last);
        Ok(())
    }

    /// Makes the next step of each erasure. One that cannot be made keeps no
    /// other erasure waiting. Gives the first failure.
    async fn execute_all(&mut self) -> Result<(), StepError> {
        let (mut begun, mut outcome) = (Vec::new(), Ok(()));
        for record in all_records(&self.log).await?.into_values() {
            match self.begin(record).await {
                Ok(record) => begun.extend(record),
                Err(error) => outcome = outcome.and(Err(error.into())),
            }
        }
        self.folding.retain(|id, _| begun.iter().any(|it| it.id == *id));
        let mut destroyed = Vec::new();
        for it in begun.iter().filter(|it| !self.folding.contains_key(&it.id)) {
            match self.destroy_keys(it).await {
                Ok(()) => destroyed.push(it),
                Err(error) => outcome = outcome.and(Err(error.into())),
            }
        }
        if !destroyed.is_empty() {
            // Until then a process may use a copy of a key.
            tokio::time::sleep(KEY_CACHE + Duration::from_secs(1)).await;
        }
        for it in destroyed {
            match self.request_refolds(&[(uuid(it.id), it.keys.clone())]).await {
                Ok(rows) => {
                    self.folding.insert(it.id, rows);
                }
                Err(error) => outcome = outcome.and(Err(error.into())),
            }
        }
        for it in begun {
            if let Some(rows) = self.folding.get(&it.id).copied() {
                match self.complete(&it, rows).await {
                    Ok(true) => {
                        self.folding.remove(&it.id);
                    }
                    Ok(false) => {}
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
        }
        outcome
    }

    /// The erasure, if it is begun. One that is approved begins: the log says which
    /// keys go.
    async fn begin(&self, record: ErasureRecord) -> Result<Option<Begun>, ErasureError> {
        let (id, position) = (record.id, record.position);
        match record.erasure.status {
            ErasureStatus::Approved => {}
            ErasureStatus::Started => {
                let (keys, events) = (record.erasure.keys, record.erasure.events);
                return Ok(Some(Begun { id, position, keys, events }));
            }
            ErasureStatus::Requested | ErasureStatus::Completed | ErasureStatus::Cancelled => {
                return Ok(None);
            }
        }
        // Only its own key says whom it is about, and that goes last.
        let Some(address) = record.address else {
            tracing::error!(
                erasure = %id,
                "Nobody can read whom this erasure is about: ask for it again"
            );
            return Ok(None);
        };
        let mentions = record.erasure.include_mentions;
        let found = person::find_mentions(&self.log, &address, mentions, |_, _| {}).await?;
        let events = found.events();
        let mut keys: Vec<_> = found.keys.into_keys().chain([own_key(id)]).collect();
        keys.dedup();
        let change = ErasureChange::Started { keys: keys.clone(), events };
        let erasures = Erasures::new(self.log.clone());
        let position = erasures.append(id, change, position, &origin(id, "started")).await?;
        tracing::info!(erasure = %id, keys = keys.len(), events, "Erasing a person's data");
        Ok(Some(Begun { id, position, keys, events }))
    }

    async fn destroy_keys(&self, begun: &Begun) -> Result<(), ErasureError> {
        self.database.record_erasure(uuid(begun.id), &begun.keys).await?;
        let own = own_key(begun.id);
        destroy(&self.log, begun.id, begun.keys.iter().filter(|key| **key != own)).await?;
        self.log.forget_erased_customers().await?;
        Erasures::new(self.log.clone()).forget_erased_holds().await
    }

    /// Completes an erasure if every row is folded again. Returns true if it is
    /// completed.
    async fn complete(&self, begun: &Begun, rows: u64) -> Result<bool, StepError> {
        let Begun { id, position, keys, events } = begun;
        if !self.end_refolds(&[uuid(*id)]).await? {
            return Ok(false);
        }
        destroy(&self.log, *id, [&own_key(*id)].into_iter()).await?;
        let (keys, events) = (keys.len() as u64, *events);
        let change = ErasureChange::Completed { keys, events, rows };
        let erasures = Erasures::new(self.log.clone());
        erasures.append(*id, change, *position, &origin(*id, "completed")).await?;
        tracing::info!(erasure = %id, keys, events, rows, "Erased a person's data");
        Ok(true)
    }

    /// Has every row that events under these keys touch folded again, and copies
    /// elsewhere forgotten: the first erasure asks for it. Returns the number of
    /// rows.
    async fn request_refolds(&self, erasures: &[(Uuid, Vec<String>)]) -> Result<u64, ErasureError> {
        let Some((erasure, _)) = erasures.first() else { return Ok(0) };
        let keys: HashSet<String> =
            erasures.iter().flat_map(|(_, keys)| keys.iter().cloned()).collect();
        let Touched { rows, positions, position } = person::touched(&self.log, &keys).await?;
        let mut rows = rows;
        let emails: Vec<_> =
            keys.iter().filter_map(|key| Some(key.strip_prefix("email.")?.to_owned())).collect();
        // Beside the rows that the log names, never instead of them.
        for (name, keys) in self.database.rows_naming(&emails).await? {
            rows.entry(name).or_default().extend(keys);
        }
        let rows: Vec<(&str, Vec<String>)> =
            rows.into_iter().map(|(name, keys)| (name, keys.into_iter().collect())).collect();
        self.database.request_refolds(*erasure, position, &rows, &positions).await?;
        self.delete_stored_answers().await?;
        Ok(rows.iter().map(|(_, keys)| keys.len() as u64).sum())
    }

    /// Records that no row holds the data of these erasures any more, if every row
    /// is folded again that the first one asked for. Returns true if that is so.
    async fn end_refolds(&self, erasures: &[Uuid]) -> Result<bool, StepError> {
        let Some(first) = erasures.first() else { return Ok(true) };
        let left = self.database.refolds_left(*first).await?;
        if let Some((left, reason)) = left.iter().find_map(|left| Some((left, left.error.clone()?)))
        {
            let (projection, rows) = (left.projection.clone(), left.rows);
            return Err(RowsLeft { projection, rows, reason }.into());
        }
        if !left.is_empty() {
            return Ok(false);
        }
        self.database.forget_samples().await?;
        for id in erasures {
            self.database.mark_erased(*id).await?;
        }
        Ok(true)
    }

    async fn delete_stored_answers(&self) -> Result<(), ErasureError> {
        let mut cursor = 0_u64;
        loop {
            let mut scan = Cmd::new();
            scan.arg("SCAN").arg(cursor).arg("MATCH").arg(ANSWERS).arg("COUNT").arg(1_000);
            let (next, keys): (u64, Vec<String>) = self.cache.query(&scan).await?;
            if !keys.is_empty() {
                let mut unlink = Cmd::new();
                unlink.arg("UNLINK").arg(keys);
                self.cache.query::<u64>(&unlink).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Has rows folded again that this database does not know to be erased.
    async fn clean_restored(&mut self) -> Result<(), StepError> {
        if matches!(self.restored, Restored::Unknown) {
            let erasures = keys_not_cleaned(&self.log, &self.database).await?;
            if !erasures.is_empty() {
                tracing::warn!(
                    erasures = erasures.len(),
                    "The database does not know of all erasures: it was restored from a backup, or \
                     is new. Rows are folded again"
                );
            }
            for (id, keys) in &erasures {
                self.database.record_erasure(*id, keys).await?;
            }
            self.request_refolds(&erasures).await?;
            self.restored = Restored::Folding(erasures.into_iter().map(|(id, _)| id).collect());
        }
        if let Restored::Folding(erasures) = &self.restored
            && self.end_refolds(erasures).await?
        {
            self.restored = Restored::Clean;
        }
        Ok(())
    }
}

/// Destroys keys again that a restored backup has brought back, and records
/// erasures again that the log lost; projections must not fold before.
async fn reapply(log: &Log, database: &Database) -> Result<(), ErasureError> {
    let known = database.known_erasures().await?;
    let record = all_records(log).await?;
    for known in known.iter().filter(|known| !record.contains_key(&known.id.to_string())) {
        tracing::warn!(
            erasure = %known.id,
            "The log does not have an erasure that the database knows: it was restored from \
             a backup. It is executed again"
        );
        record_keys_again(log, known.id.into(), &known.keys).await?;
    }
    // One that came back from a backup, or whose hold was lifted after the erasure.
    Erasures::new(log.clone()).forget_erased_holds().await?;
    if reapply_keys(log).await? {
        tokio::time::sleep(KEY_CACHE + Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Destroys keys again that the log says are destroyed and a restored key store
/// holds. Returns true if there was one.
async fn reapply_keys(log: &Log) -> Result<bool, ErasureError> {
    let mut destroyed = false;
    for (id, keys) in started(log).await? {
        destroyed |= destroy_again(log, id, &keys).await?;
    }
    Ok(destroyed)
}

async fn destroy_again(log: &Log, id: ErasureId, keys: &[String]) -> Result<bool, ErasureError> {
    let names: Vec<_> = keys.iter().map(String::as_str).collect();
    let back = log.keys_not_destroyed(&names).await?;
    if !back.is_empty() {
        let keys = back.len();
        tracing::warn!(erasure = %id, keys, "Data keys that were destroyed are back, from a backup: destroying them again");
    }
    let any = !back.is_empty();
    destroy(log, id, back.iter()).await?;
    if any {
        log.forget_erased_customers().await?;
    }
    Ok(any)
}

async fn destroy(
    log: &Log,
    id: ErasureId,
    keys: impl Iterator<Item = &String>,
) -> Result<(), ErasureError> {
    for key in keys {
        log.destroy_key(key, id).await?;
    }
    Ok(())
}
