//! Carries approved erasures out: names the data keys, destroys them, has every
//! row folded again from what is left, and records that in the log. Each step may be
//! repeated; after a crash another worker goes on.

use crate::{Next, StepError, System, Worker};
use exodrive_commands::erasure::{
    ErasureError, ErasureRecord, Erasures, SUBJECTS, all_records,
    restored::{keys_not_cleaned, origin, own_key, record_keys_again, started, uuid},
};
use exodrive_domain::{
    erasure::{ErasureChange, ErasureStatus},
    id::ErasureId,
};
use exodrive_log::{KEY_CACHE, Log};
use exodrive_projections::{Database, engine::cache::Cache};
use exodrive_replays::person::{self, Touched};
use redis::Cmd;
use std::{collections::HashSet, time::Duration};
use uuid::Uuid;

/// The pause between two steps.
const TICK: Duration = Duration::from_millis(500);
/// Answers to commands that Redis keeps for repeats: they hold what customers
/// gave. The log has them all.
const ANSWERS: &str = "exo:command:*";

/// Executes approved erasures.
pub struct ErasureExecutor {
    system: System,
    log: Log,
    database: Database,
    cache: Cache,
    /// Rows that a restored database still held are clean.
    cleaned: bool,
    /// The newest event about an erasure that was taken care of.
    seen: Option<u64>,
}

impl Worker for ErasureExecutor {
    const NAME: &'static str = "erasure";
    const ABOUT: &'static str =
        "Executes approved erasures: destroys data keys, then cleans every view.";

    fn new(system: &System) -> Self {
        let System { log, database, cache, .. } = system.clone();
        let system = system.clone();
        Self { system, log, database, cache, cleaned: false, seen: None }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        if !self.system.erased_is_gone.is_cancelled() {
            reapply(&self.system).await?;
            self.system.erased_is_gone.cancel();
        }
        if !self.cleaned {
            self.clean_restored().await?;
            self.cleaned = true;
        }
        // After a failure every erasure is looked at again.
        let mut seen = self.seen.take();
        self.run_due_erasures(&mut seen).await?;
        self.seen = seen;
        Ok(Next::After(TICK))
    }
}

impl ErasureExecutor {
    /// Looks for something to do, if an erasure has a new event since `seen`.
    async fn run_due_erasures(&self, seen: &mut Option<u64>) -> Result<(), ErasureError> {
        let last = self.log.last_position_under(SUBJECTS).await?;
        if *seen == Some(last.unwrap_or(0)) {
            return Ok(());
        }
        let Some(lock) = self.database.lock_erasures().await? else { return Ok(()) };
        let mut outcome = Ok(());
        for record in all_records(&self.log).await?.into_values() {
            if matches!(record.erasure.status, ErasureStatus::Approved | ErasureStatus::Started) {
                outcome = outcome.and(self.execute(record).await);
            }
        }
        lock.release().await?;
        outcome?;
        *seen = Some(self.log.last_position_under(SUBJECTS).await?.unwrap_or(0));
        Ok(())
    }

    async fn execute(&self, record: ErasureRecord) -> Result<(), ErasureError> {
        let erasures = Erasures::new(self.log.clone());
        let (id, mut position) = (record.id, record.position);
        let (mut keys, mut events) = (record.erasure.keys, record.erasure.events);
        if record.erasure.status == ErasureStatus::Approved {
            // Only its own key says whom it is about, and that goes last.
            let Some(address) = record.address else {
                tracing::error!(
                    erasure = %id,
                    "Nobody can read whom this erasure is about: ask for it again"
                );
                return Ok(());
            };
            let mentions = record.erasure.include_mentions;
            let found = person::find_mentions(&self.log, &address, mentions, |_, _| {}).await?;
            events = found.events();
            keys = found.keys.into_keys().chain([own_key(id)]).collect();
            keys.dedup();
            let change = ErasureChange::Started { keys: keys.clone(), events };
            position = erasures.append(id, change, position, &origin(id, "started")).await?;
            tracing::info!(erasure = %id, keys = keys.len(), events, "Erasing a person's data");
        }
        self.database.record_erasure(uuid(id), &keys).await?;
        let own = own_key(id);
        destroy(&self.log, id, keys.iter().filter(|key| **key != own)).await?;
        // Until then a process may use a copy of a key.
        tokio::time::sleep(KEY_CACHE + Duration::from_secs(1)).await;
        let rows = self.clean_rows(&[(uuid(id), keys.clone())]).await?;
        destroy(&self.log, id, [&own].into_iter()).await?;
        let keys = keys.len() as u64;
        let change = ErasureChange::Completed { keys, events, rows };
        erasures.append(id, change, position, &origin(id, "completed")).await?;
        tracing::info!(erasure = %id, keys, events, rows, "Erased a person's data");
        Ok(())
    }

    /// Has every row that events under these keys touch folded again, and
    /// copies elsewhere forgotten. Returns the number of rows.
    async fn clean_rows(&self, erasures: &[(Uuid, Vec<String>)]) -> Result<u64, ErasureError> {
        let keys: HashSet<String> =
            erasures.iter().flat_map(|(_, keys)| keys.iter().cloned()).collect();
        let Touched { rows, positions, position } = person::touched(&self.log, &keys).await?;
        let mut rows = rows;
        let emails: Vec<_> =
            keys.iter().filter_map(|key| Some(key.strip_prefix("email.")?.to_owned())).collect();
        for (name, keys) in self.database.rows_naming(&emails).await? {
            rows.entry(name).or_default().extend(keys);
        }
        let rows: Vec<(&str, Vec<String>)> =
            rows.into_iter().map(|(name, keys)| (name, keys.into_iter().collect())).collect();
        let Some((erasure, _)) = erasures.first() else { return Ok(0) };
        self.database.request_refolds(*erasure, position, &rows, &positions).await?;
        self.delete_stored_answers().await?;
        loop {
            let left = self.database.refolds_left(*erasure).await?;
            if left.is_empty() {
                break;
            }
            for left in left.iter().filter(|left| left.error.is_some()) {
                let (projection, rows) = (&left.projection, left.rows);
                tracing::warn!(projection, rows, "Rows cannot be folded again yet, will retry");
            }
            tokio::time::sleep(TICK).await;
        }
        self.database.forget_samples().await?;
        for (id, _) in erasures {
            self.database.mark_erased(*id).await?;
        }
        Ok(rows.iter().map(|(_, keys)| keys.len() as u64).sum())
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
    async fn clean_restored(&self) -> Result<(), ErasureError> {
        let keys_not_cleaned = keys_not_cleaned(&self.log, &self.database).await?;
        if keys_not_cleaned.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            erasures = keys_not_cleaned.len(),
            "The database does not know of all erasures: it was restored from a backup, or is new. \
             Rows are folded again"
        );
        for (id, keys) in &keys_not_cleaned {
            self.database.record_erasure(*id, keys).await?;
        }
        self.clean_rows(&keys_not_cleaned).await?;
        Ok(())
    }
}

/// Destroys keys again that a restored backup has brought back, and records
/// erasures again that the log lost; projections must not fold before.
async fn reapply(system: &System) -> Result<(), ErasureError> {
    let known = system.database.known_erasures().await?;
    let record = all_records(&system.log).await?;
    for known in known.iter().filter(|known| !record.contains_key(&known.id.to_string())) {
        tracing::warn!(
            erasure = %known.id,
            "The log does not have an erasure that the database knows: it was restored from \
             a backup. It is executed again"
        );
        record_keys_again(&system.log, known.id.into(), &known.keys).await?;
    }
    if reapply_keys(&system.log).await? {
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
    let mut back = Vec::new();
    for key in keys {
        if !log.is_key_destroyed(key).await? {
            back.push(key);
        }
    }
    if !back.is_empty() {
        let keys = back.len();
        tracing::warn!(erasure = %id, keys, "Data keys that were destroyed are back, from a backup: destroying them again");
    }
    let any = !back.is_empty();
    destroy(log, id, back.into_iter()).await?;
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
