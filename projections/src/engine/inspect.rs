//! Reads the rows of a projection from outside the engine: at one moment, with the events that were
//! folded into them by then.

use crate::{
    Database, Error, Projection,
    engine::{
        PartitionId,
        cache::{Cache, CacheError},
        partition_of,
        projection::{Definition, reads},
    },
};
use exodrive_domain::{Event, Recorded, decode};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row, Transaction, postgres::PgRow};
use std::{
    collections::{HashMap, HashSet},
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
};

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

/// The keys of the rows that an event touches, by projection. A projection
/// whose code panics with the event has none.
pub fn rows_of(recorded: &Recorded) -> Vec<(&'static str, Vec<String>)> {
    let Ok(payload) = decode(recorded) else { return Vec::new() };
    let event = Event { recorded, payload: &payload };
    let mut rows = Vec::new();
    crate::for_each_projection!(P => {
        if reads::<P>(&recorded.subject) {
            let keys = catch_unwind(AssertUnwindSafe(|| P::keys(&event))).unwrap_or_default();
            rows.push((P::NAME, keys));
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

/// A row as Postgres holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its key.
    pub key: String,
    /// The position that last changed it.
    pub position: u64,
    /// The document.
    pub data: Value,
}

/// The rows of a projection at one moment, however long they are read.
pub struct Snapshot<P> {
    transaction: Transaction<'static, Postgres>,
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
        // The caller may pause between two reads for longer than a worker may hang.
        let begin = "begin isolation level repeatable read read only;
                     set local idle_in_transaction_session_timeout = 0";
        let mut transaction = self.pool().begin_with(begin).await?;
        let active_generation = active_generation::<P>(&mut transaction).await?;
        Ok(Snapshot { transaction, active_generation, projection: PhantomData })
    }

    /// Keys of up to this many rows, chosen at random.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sample_keys<P: Projection>(&self, count: i64) -> Result<Vec<String>, Error> {
        let table = table::<P>(self.active_generation::<P>().await?.generation);
        let rows: Option<f64> = sqlx::query_scalar(
            "select reltuples::float8 from pg_class where oid = to_regclass($1)",
        )
        .bind(&table)
        .fetch_optional(self.pool())
        .await?;
        // Ordering all rows of a large table takes too long.
        let share = match rows {
            Some(rows) if rows > LARGE => format!("tablesample system ({})", 100.0 * LARGE / rows),
            _ => String::new(),
        };
        let sql = format!("select key from {table} {share} order by random() limit $1");
        let keys = sqlx::query_scalar(AssertSqlSafe(sql)).bind(count).fetch_all(self.pool());
        Ok(keys.await?)
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
        let generation = sqlx::query_scalar!(
            "select active_generation from projections where name = $1",
            P::NAME
        )
        .fetch_one(&mut *connection)
        .await?;
        let rows = by_keys(&mut connection, &table::<P>(generation), keys).await?;
        Ok((generation, rows))
    }
}

/// A table with more rows than this is sampled, not scanned.
const LARGE: f64 = 20_000.0;

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
        let sql = format!(
            "select key, position, data from {}
             where $1::text is null or key > $1 order by key limit $2",
            table::<P>(self.active_generation.generation)
        );
        let page = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(limit);
        page.fetch_all(&mut *self.transaction).await?.into_iter().map(found).collect()
    }

    /// Its rows of these keys.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(&mut self, keys: &[String]) -> Result<Vec<Found>, Error> {
        by_keys(&mut self.transaction, &table::<P>(self.active_generation.generation), keys).await
    }
}

fn table<P: Projection>(generation: i32) -> String {
    Definition::of::<P>().table(generation)
}

async fn by_keys(
    connection: &mut PgConnection,
    table: &str,
    keys: &[String],
) -> Result<Vec<Found>, Error> {
    let sql = format!("select key, position, data from {table} where key = any($1)");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(keys).fetch_all(connection).await?;
    rows.into_iter().map(found).collect()
}

fn found(row: PgRow) -> Result<Found, Error> {
    let position: i64 = row.try_get("position")?;
    let position = u64::try_from(position).unwrap_or(0);
    Ok(Found { key: row.try_get("key")?, position, data: row.try_get("data")? })
}

async fn active_generation<P: Projection>(
    connection: &mut PgConnection,
) -> Result<ActiveGeneration, Error> {
    let parts = sqlx::query!(
        "select generation, version, position from projections
         join generations on projection = name and generation = active_generation
         join checkpoints using (projection, generation)
         where name = $1 order by partition",
        P::NAME
    )
    .fetch_all(&mut *connection)
    .await?;
    let active = parts.first().ok_or(sqlx::Error::RowNotFound)?;
    let blocked = sqlx::query!(
        r#"select partition, key, min(position) as "position!" from parked_events
           where projection = $1 and generation = $2 group by partition, key"#,
        P::NAME,
        active.generation
    )
    .fetch_all(&mut *connection)
    .await?;
    let skipped =
        sqlx::query!("select key, position from skipped_events where projection = $1", P::NAME)
            .fetch_all(&mut *connection)
            .await?;
    let position = |position: i64| u64::try_from(position).unwrap_or(0);
    Ok(ActiveGeneration {
        generation: active.generation,
        version: u32::try_from(active.version).unwrap_or(0),
        positions: parts.iter().map(|part| position(part.position)).collect(),
        blocked: blocked
            .into_iter()
            .map(|it| ((it.partition, it.key), position(it.position)))
            .collect(),
        skipped: skipped.into_iter().map(|it| (it.key, position(it.position))).collect(),
    })
}
