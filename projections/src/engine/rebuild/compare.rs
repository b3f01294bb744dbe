//! Two generations of a projection, compared at the same position.
//!
//! Both are read in one snapshot. Their checkpoints may lie apart there, by
//! events that one has folded and the other has not yet; the rows that these
//! touch are left to a second look, when nothing moves any more.

use crate::{
    Error,
    engine::{
        Engine,
        feed::{Decoded, Events},
        fold::{self, Barred},
        sandbox::Sandbox,
        store::{Part, refolds, to_i64, to_u64},
    },
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::{collections::BTreeSet, time::Duration};

/// Differences that are named.
const NAMED: i64 = 100;
const BATCH: usize = 4_000;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The generation that readers see.
    pub from_generation: i32,
    /// The one that is to take its place.
    pub to_generation: i32,
    /// The fold's version of the first.
    pub from_version: i32,
    /// And of the second.
    pub to_version: i32,
    /// Up to which event they were compared.
    pub position: u64,
    /// Rows of the second.
    pub rows: i64,
    /// A digest of the second's keys, positions and data, in hexadecimal: the
    /// same for the same rows, whatever their order.
    pub digest: String,
    /// Rows that differ.
    pub difference_count: i64,
    /// The first of them, in the order of keys.
    pub differences: Vec<Difference>,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Its key.
    pub key: String,
    /// `changed`, `missing` (from the second generation) or `added`.
    pub change: String,
}

/// Keys that events between two positions touch, the first not included.
async fn touched(engine: &Engine, after: u64, until: u64) -> Result<BTreeSet<String>, Error> {
    let whole = Part { generation: 0, partition: 0, partitions: 1 };
    let mut keys = BTreeSet::new();
    let mut reader = engine.log.reader(after + 1);
    let keyed = engine.keyed;
    let mut position = after;
    let mut sandbox = Sandbox::default();
    while position < until {
        let mut read = reader.next_batch(BATCH, PATIENCE).await?.events;
        read.retain(|event| event.position <= until);
        position = read.last().map_or(position, |event| event.position);
        let events = Events::of(read.into_iter().map(Decoded::from).collect());
        let job = sandbox
            .run(move |mark| fold::keys(&keyed(&events, whole, &Barred::default(), None, mark)));
        // A fold that does not end touches nothing: its event is parked.
        keys.extend(job.await.unwrap_or_default());
    }
    Ok(keys)
}

/// The lowest and the highest checkpoint of two generations.
async fn span(
    engine: &Engine,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
) -> Result<(u64, u64), Error> {
    let span = sqlx::query!(
        r#"select min(position) as "lowest!", max(position) as "highest!" from checkpoints
           where projection = $1 and generation in ($2, $3)"#,
        engine.definition.name,
        from,
        to
    );
    let span = span.fetch_one(connection).await?;
    Ok((to_u64(span.lowest), to_u64(span.highest)))
}

/// Compares two generations; gives also the keys that are left to
/// [`still_different`].
pub(crate) async fn compare(
    engine: &Engine,
    from: i32,
    to: i32,
) -> Result<(Comparison, BTreeSet<String>), Error> {
    let pool = engine.database.pool();
    let mut snapshot = pool
        .begin_with("begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = '5min'")
        .await?;
    let (lowest, highest) = span(engine, &mut snapshot, from, to).await?;
    let mut moving = touched(engine, lowest, highest).await?;
    moving.extend(refolds::unfolded(engine.definition, &mut snapshot, from, to).await?);
    let versions = sqlx::query!(
        r#"select max(version) filter (where generation = $2) as "old!",
               max(version) filter (where generation = $3) as "new!"
           from generations where projection = $1"#,
        engine.definition.name,
        from,
        to
    )
    .fetch_one(&mut *snapshot)
    .await?;
    let still: Vec<_> = moving.iter().cloned().collect();
    let (old, new) = (engine.definition.table(from), engine.definition.table(to));
    let digest = |table: &str| {
        format!(
            "select count(*) as rows, to_hex(coalesce(bit_xor(
                 jsonb_hash_extended(data, hashtextextended(key, position))), 0)) as digest
             from {table} where key <> all($1)"
        )
    };
    let mut digests = Vec::new();
    for table in [&old, &new] {
        let sql = digest(table);
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&still).fetch_one(&mut *snapshot).await?;
        digests.push((row.try_get::<i64, _>("rows")?, row.try_get::<String, _>("digest")?));
    }
    let mut differences = Vec::new();
    let mut difference_count = 0;
    if digests.first() != digests.last() {
        let sql = format!(
            "select coalesce(old.key, new.key) as key,
                 case when new.key is null then 'missing' when old.key is null then 'added'
                     else 'changed' end as change,
                 count(*) over () as count
             from {old} as old full join {new} as new on old.key = new.key
             where (old.position, old.data) is distinct from (new.position, new.data)
               and coalesce(old.key, new.key) <> all($1)
             order by coalesce(old.key, new.key) limit $2"
        );
        let found = sqlx::query(AssertSqlSafe(sql)).bind(&still).bind(NAMED);
        for row in found.fetch_all(&mut *snapshot).await? {
            difference_count = row.try_get("count")?;
            differences
                .push(Difference { key: row.try_get("key")?, change: row.try_get("change")? });
        }
    }
    snapshot.rollback().await?;
    let (rows, digest) = digests.pop().unwrap_or_default();
    let comparison = Comparison {
        from_generation: from,
        to_generation: to,
        from_version: versions.old,
        to_version: versions.new,
        position: highest,
        rows,
        digest,
        difference_count,
        differences,
    };
    Ok((comparison, moving))
}

/// Which of these keys differ, now that the first generation does not move and
/// the second has reached it.
pub(crate) async fn still_different(
    engine: &Engine,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
    keys: &BTreeSet<String>,
) -> Result<Vec<Difference>, Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (lowest, highest) = span(engine, connection, from, to).await?;
    let ahead = touched(engine, lowest, highest).await?;
    let keys: Vec<_> = keys.difference(&ahead).cloned().collect();
    let (old, new) = (engine.definition.table(from), engine.definition.table(to));
    let sql = format!(
        "select key, case when new.key is null then 'missing' when old.key is null then 'added'
             else 'changed' end as change
         from (select * from {old} where key = any($1)) as old
         full join (select * from {new} where key = any($1)) as new using (key)
         where (old.position, old.data) is distinct from (new.position, new.data)
         order by key"
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(keys).fetch_all(connection).await?;
    let difference = |row: sqlx::postgres::PgRow| {
        Ok(Difference { key: row.try_get("key")?, change: row.try_get("change")? })
    };
    found.into_iter().map(difference).collect()
}

/// Takes over from a generation every row that no event from a position on has
/// touched; gives the keys of the others, and up to which event that is so.
pub(crate) async fn copy_untouched(
    engine: &Engine,
    from: i32,
    to: i32,
    since: u64,
) -> Result<(BTreeSet<String>, u64), Error> {
    let mut snapshot = engine
        .database
        .pool()
        .begin_with("begin isolation level repeatable read; set local idle_in_transaction_session_timeout = '5min'")
        .await?;
    let (_, highest) = span(engine, &mut snapshot, from, from).await?;
    let touched = touched(engine, since.saturating_sub(1), highest).await?;
    let keys: Vec<_> = touched.iter().cloned().collect();
    let (old, new) = (engine.definition.table(from), engine.definition.table(to));
    let sql = format!(
        "insert into {new} (key, position, data)
         select key, position, data from {old} as old
         where not exists (select from unnest($1::text[]) as touched where touched = old.key)"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(&keys).execute(&mut *snapshot).await?;
    sqlx::query!(
        "insert into parked_events (projection, generation, partition, key, position, error,
             parked_at, attempts, next_attempt_at)
         select projection, $3, partition, key, position, error, parked_at, attempts,
             next_attempt_at
         from parked_events
         where projection = $1 and generation = $2 and position < $4 and key <> all($5)",
        engine.definition.name,
        from,
        to,
        to_i64(since),
        &keys
    )
    .execute(&mut *snapshot)
    .await?;
    refolds::inherit(engine.definition, &mut snapshot, from, to).await?;
    snapshot.commit().await?;
    Ok((touched, highest))
}
