//! Rows of the generation that readers see, read as their owner, for whoever
//! verifies them.

use super::to_u64;
use crate::{Error, Transaction, engine::projection::Definition};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row, postgres::PgRow};

/// A table with more rows than this is looked into by chance, not gone through.
const LARGE: f64 = 20_000.0;

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

/// The generation that readers see, and what is not in its rows.
pub(crate) struct Folded {
    pub(crate) generation: i32,
    pub(crate) version: u32,
    /// The checkpoint of each partition; never empty.
    pub(crate) positions: Vec<u64>,
    /// Partition, key or subject, and the first parked event.
    pub(crate) blocked: Vec<(i32, String, u64)>,
    /// Keys, and events that an operator wants left out of their rows.
    pub(crate) skipped: Vec<(String, u64)>,
}

/// A transaction that sees everything as it is now, however long it lasts:
/// whoever looks may think between two reads for longer than a worker may hang.
pub(crate) async fn snapshot(pool: &PgPool) -> Result<Transaction, Error> {
    let begin = "begin isolation level repeatable read read only;
                 set local idle_in_transaction_session_timeout = 0";
    Ok(Transaction::begin_with(pool, begin).await?)
}

/// The numbers of a generation's rows by [`Projection::COUNTED`]: as they are kept, and as the rows
/// give them. `None` if none are kept.
///
/// [`Projection::COUNTED`]: crate::Projection::COUNTED
pub(crate) async fn counts(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<Option<(Value, Value)>, Error> {
    let Some(column) = definition.counted else { return Ok(None) };
    let table = definition.table(generation);
    let sql = format!(
        "select coalesce((select jsonb_object_agg(key, rows) from (
                 select key, sum(value::bigint) as rows
                 from checkpoints, jsonb_each_text(counts)
                 where projection = $1 and generation = $2 group by key
                 having sum(value::bigint) <> 0) as kept), '{{}}') as kept,
             coalesce((select jsonb_object_agg({column}, rows) from (
                 select {column}, count(*) as rows from {table}
                 where {column} is not null group by {column}) as counted), '{{}}') as counted
         where not exists (select from checkpoints
             where projection = $1 and generation = $2 and counts is null)"
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(definition.name).bind(generation);
    let found = found.fetch_optional(connection).await?;
    found.map(|row| Ok((row.try_get("kept")?, row.try_get("counted")?))).transpose()
}

/// The events that have been folded into the rows that readers see.
pub(crate) async fn folded(
    definition: Definition,
    connection: &mut PgConnection,
) -> Result<Folded, Error> {
    let parts = sqlx::query!(
        "select generation, version, position from projections
         join generations on projection = name and generation = active_generation
         join checkpoints using (projection, generation)
         where name = $1 order by partition",
        definition.name
    )
    .fetch_all(&mut *connection)
    .await?;
    let active = parts.first().ok_or(sqlx::Error::RowNotFound)?;
    let blocked = sqlx::query!(
        r#"select partition, key, min(position) as "position!" from parked_events
           where projection = $1 and generation = $2 group by partition, key"#,
        definition.name,
        active.generation
    )
    .fetch_all(&mut *connection)
    .await?;
    let skipped = sqlx::query!(
        "select key, position from skipped_events where projection = $1",
        definition.name
    )
    .fetch_all(connection)
    .await?;
    let blocked = blocked.into_iter().map(|it| (it.partition, it.key, to_u64(it.position)));
    Ok(Folded {
        generation: active.generation,
        version: u32::try_from(active.version).unwrap_or(0),
        positions: parts.iter().map(|part| to_u64(part.position)).collect(),
        blocked: blocked.collect(),
        skipped: skipped.into_iter().map(|it| (it.key, to_u64(it.position))).collect(),
    })
}

/// The number of the generation that readers see.
pub(crate) async fn active_number(
    definition: Definition,
    connection: &mut PgConnection,
) -> Result<i32, Error> {
    let generation = sqlx::query_scalar!(
        "select active_generation from projections where name = $1",
        definition.name
    );
    Ok(generation.fetch_one(connection).await?)
}

/// Keys of up to so many rows, by chance.
pub(crate) async fn sample_keys(
    definition: Definition,
    pool: &PgPool,
    generation: i32,
    count: i64,
) -> Result<Vec<String>, Error> {
    let table = definition.table(generation);
    let rows: Option<f64> =
        sqlx::query_scalar("select reltuples::float8 from pg_class where oid = to_regclass($1)")
            .bind(&table)
            .fetch_optional(pool)
            .await?;
    // All of a large table is too much to order.
    let share = match rows {
        Some(rows) if rows > LARGE => format!("tablesample system ({})", 100.0 * LARGE / rows),
        _ => String::new(),
    };
    let sql = format!("select key from {table} {share} order by random() limit $1");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(count).fetch_all(pool).await?)
}

/// A page of rows, in the order of keys, after a key.
pub(crate) async fn page(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Found>, Error> {
    let sql = format!(
        "select key, position, data from {}
         where $1::text is null or key > $1 order by key limit $2",
        definition.table(generation)
    );
    let page = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(limit);
    page.fetch_all(connection).await?.into_iter().map(found).collect()
}

/// The rows of these keys.
pub(crate) async fn rows(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
    keys: &[String],
) -> Result<Vec<Found>, Error> {
    let table = definition.table(generation);
    let sql = format!("select key, position, data from {table} where key = any($1)");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(keys).fetch_all(connection).await?;
    rows.into_iter().map(found).collect()
}

fn found(row: PgRow) -> Result<Found, Error> {
    let position = to_u64(row.try_get("position")?);
    Ok(Found { key: row.try_get("key")?, position, data: row.try_get("data")? })
}
