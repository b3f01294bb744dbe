//! Reads the rows of a projection from outside the engine: at one moment, with the events that were
//! folded into them by then.

use crate::{
    Database, Error, Projection, Transaction,
    engine::{
        PartitionId,
        cache::{Cache, CacheError},
        fold::keys_of,
        partition_of,
        projection::{Definition, reads},
        store::inspection,
    },
};
use exodrive_domain::{Event, Recorded, decode};
use serde_json::Value;
use sqlx::PgConnection;
use std::{
    collections::{HashMap, HashSet},
    marker::PhantomData,
};

pub use super::store::inspection::Found;

/// Checkpoints of the active generation of a projection, and the events that are left out of its
/// rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveGeneration {
    /// The active generation.
    pub generation: i32,
    /// The version of the fold that writes it.
    pub version: u32,
    /// The checkpoint of each partition of its keys; never empty.
    positions: Vec<u64>,
    /// By partition, the first parked event of each key, and of each subject whose events could not
    /// be read.
    blocked: HashMap<(i32, String), u64>,
    /// Events that an operator skips in a row.
    skipped: HashSet<(String, u64)>,
}

/// The keys of the rows that an event touches, by projection.
pub fn rows_of(recorded: &Recorded) -> Vec<(&'static str, Vec<String>)> {
    // An event that cannot be read is parked, too.
    let Ok(payload) = decode(recorded) else { return Vec::new() };
    let event = Event { recorded, payload: &payload };
    let mut rows = Vec::new();
    crate::for_each_projection!(P => {
        if reads::<P>(&recorded.subject) {
            // An event whose keys are unknown is parked, so no row has it.
            if let Ok(keys) = keys_of::<P>(&event) {
                rows.push((P::NAME, keys));
            }
        }
    });
    rows
}

impl ActiveGeneration {
    fn partition(&self, key: &str) -> i32 {
        partition_of(key, i32::try_from(self.positions.len()).unwrap_or(i32::MAX))
    }

    /// Every event up to here is in the key's row.
    pub fn limit(&self, key: &str) -> u64 {
        let partition = usize::try_from(self.partition(key)).unwrap_or(0);
        self.positions.get(partition).copied().unwrap_or(0)
    }

    /// Every event up to here is in the rows of all keys.
    pub fn least(&self) -> u64 {
        self.positions.iter().copied().min().unwrap_or(0)
    }

    /// No event after this is in any row.
    pub fn most(&self) -> u64 {
        self.positions.iter().copied().max().unwrap_or(0)
    }

    /// Number of keys and subjects that wait behind a parked event.
    pub fn blocked(&self) -> usize {
        self.blocked.keys().map(|(_, key)| key).collect::<HashSet<_>>().len()
    }

    /// True if an event of a subject is not in the row of a key: it is not folded yet, it is parked
    /// or waits behind a parked event, or an operator skips it.
    pub fn lacks(&self, key: &str, subject: &str, position: u64) -> bool {
        position > self.limit(key)
            || self.is_skipped(subject, position)
            || self.is_skipped(key, position)
            || self.is_parked(self.partition(key), subject, position)
            || self.is_parked(self.partition(key), key, position)
    }

    /// True if an event that cannot be read should have been read by now: it is neither parked nor
    /// skipped by an operator.
    pub fn expects(&self, subject: &str, position: u64) -> bool {
        let parts = 0..i32::try_from(self.positions.len()).unwrap_or(i32::MAX);
        position <= self.least()
            && !self.is_skipped(subject, position)
            && !parts.into_iter().any(|part| self.is_parked(part, subject, position))
    }

    fn is_parked(&self, partition: i32, key: &str, position: u64) -> bool {
        // The common case costs no copy of the key.
        !self.blocked.is_empty()
            && self
                .blocked
                .get(&(partition, key.to_owned()))
                .is_some_and(|first| position >= *first)
    }

    fn is_skipped(&self, key: &str, position: u64) -> bool {
        !self.skipped.is_empty() && self.skipped.contains(&(key.to_owned(), position))
    }

    /// True if the events that were folded up to `position` in the state `before` are a part of
    /// those that are folded in this state.
    pub fn continues(&self, before: &Self, position: u64) -> bool {
        let parked = |active_generation: &Self| -> HashMap<(i32, String), u64> {
            let first = active_generation.blocked.iter().filter(|(_, first)| **first <= position);
            first.map(|(key, first)| (key.clone(), *first)).collect()
        };
        self.least() >= position
            && self.positions.len() == before.positions.len()
            && parked(self) == parked(before)
            && self.skipped == before.skipped
    }

    /// True if Redis holds all views of the generation.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn is_cached<P: Projection>(&self, cache: &Cache) -> Result<bool, CacheError> {
        let partitions = i32::try_from(self.positions.len()).unwrap_or(i32::MAX);
        for partition in 0..partitions {
            let part = PartitionId { generation: self.generation, partition, partitions };
            if !cache.is_complete(P::NAME, part).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The rows of a projection at one moment, however long they are read.
pub struct Snapshot<P> {
    transaction: Transaction,
    active_generation: ActiveGeneration,
    projection: PhantomData<P>,
}

impl Database {
    /// The state of a projection's active generation.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn active_generation<P: Projection>(&self) -> Result<ActiveGeneration, Error> {
        let mut connection = self.pool().acquire().await?;
        active_generation::<P>(&mut connection).await
    }

    /// The rows of a projection as of now, read as their owner.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn snapshot<P: Projection>(&self) -> Result<Snapshot<P>, Error> {
        let mut transaction = inspection::snapshot(self.pool()).await?;
        let active_generation = active_generation::<P>(&mut transaction).await?;
        Ok(Snapshot { transaction, active_generation, projection: PhantomData })
    }

    /// Keys of up to this many rows, chosen at random.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sample_keys<P: Projection>(&self, count: i64) -> Result<Vec<String>, Error> {
        let generation = self.active_generation::<P>().await?.generation;
        inspection::sample_keys(Definition::of::<P>(), self.pool(), generation, count).await
    }

    /// The active generation and its rows of these keys as of now, read as
    /// their owner.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows_now<P: Projection>(
        &self,
        keys: &[String],
    ) -> Result<(i32, Vec<Found>), Error> {
        let mut connection = self.pool().acquire().await?;
        let definition = Definition::of::<P>();
        let generation = inspection::active_number(definition, &mut connection).await?;
        let rows = inspection::rows(definition, &mut connection, generation, keys).await?;
        Ok((generation, rows))
    }
}

impl<P: Projection> Snapshot<P> {
    /// The state of the projection at that moment.
    pub fn active_generation(&self) -> &ActiveGeneration {
        &self.active_generation
    }

    /// A page of its rows, in the order of keys, after a key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn page(&mut self, after: Option<&str>, limit: i64) -> Result<Vec<Found>, Error> {
        let generation = self.active_generation.generation;
        let transaction = &mut self.transaction;
        inspection::page(Definition::of::<P>(), transaction, generation, after, limit).await
    }

    /// Its rows of these keys.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(&mut self, keys: &[String]) -> Result<Vec<Found>, Error> {
        let generation = self.active_generation.generation;
        inspection::rows(Definition::of::<P>(), &mut self.transaction, generation, keys).await
    }

    /// The numbers of its rows by [`Projection::COUNTED`]: as they are kept, and as the rows give
    /// them. `None` if none are kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn counts(&mut self) -> Result<Option<(Value, Value)>, Error> {
        let generation = self.active_generation.generation;
        inspection::counts(Definition::of::<P>(), &mut self.transaction, generation).await
    }
}

async fn active_generation<P: Projection>(
    connection: &mut PgConnection,
) -> Result<ActiveGeneration, Error> {
    let found = inspection::folded(Definition::of::<P>(), connection).await?;
    let blocked = found.blocked.into_iter();
    Ok(ActiveGeneration {
        generation: found.generation,
        version: found.version,
        positions: found.positions,
        blocked: blocked.map(|(partition, key, first)| ((partition, key), first)).collect(),
        skipped: found.skipped.into_iter().collect(),
    })
}
