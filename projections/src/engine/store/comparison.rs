//! Comparison of two generations of a projection.

use super::{to_i64, to_u64};
use crate::{Error, Transaction, engine::projection::Definition};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

/// Most differences that are listed.
const NAMED: i64 = 100;

/// Result of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The generation that readers see.
    pub from_generation: i32,
    /// The generation that is to replace it.
    pub to_generation: i32,
    /// The fold's version of the first.
    pub from_version: i32,
    /// The fold's version of the second.
    pub to_version: i32,
    /// The event up to which they were compared.
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
    /// Keys and subjects with an event that only the second has parked: the first 100, in order.
    #[serde(default)]
    pub newly_parked: Vec<NewlyParked>,
}

/// A key whose row is further behind in the second generation than in the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewlyParked {
    /// The key; or a subject, if an event could not be read.
    pub key: String,
    /// The first event that only the second generation has parked.
    pub position: u64,
    /// The reason; empty if it only waits.
    pub error: String,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Its key.
    pub key: String,
    /// `changed`, `missing` (from the second generation) or `added`.
    pub change: String,
}

/// A transaction that sees both generations at one moment.
pub(crate) async fn snapshot(pool: &PgPool) -> Result<Transaction, Error> {
    let begin = "begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = '5min'";
    Ok(Transaction::begin_with(pool, begin).await?)
}

/// The same, to copy rows from one into the other.
pub(crate) async fn copying(pool: &PgPool) -> Result<Transaction, Error> {
    let begin = "begin isolation level repeatable read; set local idle_in_transaction_session_timeout = '5min'";
    Ok(Transaction::begin_with(pool, begin).await?)
}

/// The lowest and the highest checkpoint of two generations.
pub(crate) async fn span(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
) -> Result<(u64, u64), Error> {
    let span = sqlx::query!(
        r#"select min(position) as "lowest!", max(position) as "highest!" from checkpoints
           where projection = $1 and generation in ($2, $3)"#,
        definition.name,
        from,
        to
    );
    let span = span.fetch_one(connection).await?;
    Ok((to_u64(span.lowest), to_u64(span.highest)))
}

/// The versions of the fold that wrote two generations.
pub(crate) async fn versions(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
) -> Result<(i32, i32), Error> {
    let versions = sqlx::query!(
        r#"select max(version) filter (where generation = $2) as "old!",
               max(version) filter (where generation = $3) as "new!"
           from generations where projection = $1"#,
        definition.name,
        from,
        to
    );
    let versions = versions.fetch_one(connection).await?;
    Ok((versions.old, versions.new))
}

/// Number of rows of a generation, and a digest of them; rows of some keys are left out.
pub(crate) async fn digest(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
    without: &[String],
) -> Result<(i64, String), Error> {
    let table = definition.table(generation);
    let sql = format!(
        "select count(*) as rows, to_hex(coalesce(bit_xor(
             jsonb_hash_extended(data, hashtextextended(key, position))), 0)) as digest
         from {table} where key <> all($1)"
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(without).fetch_one(connection).await?;
    Ok((row.try_get("rows")?, row.try_get("digest")?))
}

/// Number of rows of two generations that differ, and the first of them; rows of some keys are left
/// out.
pub(crate) async fn differences(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
    without: &[String],
) -> Result<(i64, Vec<Difference>), Error> {
    let (old, new) = (definition.table(from), definition.table(to));
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
    let found = sqlx::query(AssertSqlSafe(sql)).bind(without).bind(NAMED);
    let (mut count, mut differences) = (0, Vec::new());
    for row in found.fetch_all(connection).await? {
        count = row.try_get("count")?;
        differences.push(Difference { key: row.try_get("key")?, change: row.try_get("change")? });
    }
    Ok((count, differences))
}

/// The rows of these keys that differ.
pub(crate) async fn differences_of(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
    keys: &[String],
) -> Result<Vec<Difference>, Error> {
    let (old, new) = (definition.table(from), definition.table(to));
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

/// Copies rows from one generation into another, without those of some keys, and the parked events
/// of those rows before a position.
pub(crate) async fn copy(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
    since: u64,
    without: &[String],
) -> Result<(), Error> {
    let (old, new) = (definition.table(from), definition.table(to));
    let sql = format!(
        "insert into {new} (key, position, data)
         select key, position, data from {old} as old
         where not exists (select from unnest($1::text[]) as touched where touched = old.key)"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(without).execute(&mut *connection).await?;
    sqlx::query!(
        "insert into parked_events (projection, generation, partition, key, position, error,
             parked_at, attempts, next_attempt_at)
         select projection, $3, partition, key, position, error, parked_at, attempts,
             next_attempt_at
         from parked_events
         where projection = $1 and generation = $2 and position < $4 and key <> all($5)",
        definition.name,
        from,
        to,
        to_i64(since),
        without
    )
    .execute(connection)
    .await?;
    Ok(())
}
