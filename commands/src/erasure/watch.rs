//! Notices, while a process runs, that its database or the key store was restored from a backup:
//! both then miss what the log says is erased.

use super::{ErasureError, SUBJECTS, all_records, restored::uuid};
use exodrive_domain::erasure::ErasureStatus;
use exodrive_log::{KeyStoreMark, Log};
use exodrive_projections::Database;
use uuid::Uuid;

/// Destroyed keys that are looked at in one check. All of them are, in turn.
const KEYS_AT_ONCE: usize = 250;

/// What a process knows of completed erasures. Each check takes three small requests, however many
/// there are.
#[derive(Debug, Default)]
pub struct RestoreWatch {
    /// Position of the newest event about an erasure that is known here.
    position: Option<u64>,
    completed: Vec<Uuid>,
    keys: Vec<String>,
    /// The key that comes next.
    next: usize,
    mark: Option<KeyStoreMark>,
}

impl RestoreWatch {
    /// True if the database does not know that a completed erasure was applied, or a key is there
    /// that one has destroyed.
    ///
    /// # Errors
    /// When log, key store or database do not answer.
    pub async fn finds_restored(
        &mut self,
        log: &Log,
        database: &Database,
    ) -> Result<bool, ErasureError> {
        self.learn(log).await?;
        if self.completed.is_empty() {
            return Ok(false);
        }
        if database.count_not_applied(&self.completed).await? > 0 {
            return Ok(true);
        }
        let mark = log.key_store_mark().await?;
        let went_back = self.mark.is_some_and(|before| mark.is_older_than(before));
        self.mark = Some(mark);
        let keys = if went_back { &self.keys[..] } else { self.in_turn() };
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        let found = !log.keys_not_destroyed(&names).await?.is_empty();
        self.next =
            if self.next + KEYS_AT_ONCE < self.keys.len() { self.next + KEYS_AT_ONCE } else { 0 };
        Ok(found)
    }

    fn in_turn(&self) -> &[String] {
        let end = self.keys.len().min(self.next + KEYS_AT_ONCE);
        self.keys.get(self.next..end).unwrap_or_default()
    }

    /// Reads the erasures again if the log has a new event about one.
    async fn learn(&mut self, log: &Log) -> Result<(), ErasureError> {
        let position = log.last_position_under(SUBJECTS).await?;
        if position == self.position {
            return Ok(());
        }
        let completed = all_records(log).await?.into_values();
        let completed = completed.filter(|it| it.erasure.status == ErasureStatus::Completed);
        (self.completed, self.keys, self.next) = (Vec::new(), Vec::new(), 0);
        for record in completed {
            self.completed.push(uuid(record.id));
            self.keys.extend(record.erasure.keys);
        }
        self.position = position;
        Ok(())
    }
}
