//! The rows of a generation, and the identity of the log that they are made from.

use super::{to_i64, to_u64};
use crate::{
    Error, Transaction,
    engine::{
        PartitionId,
        fold::{Rows, Stored},
        projection::{Definition, Projection},
    },
};
use serde::de::DeserializeOwned;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row, postgres::PgRow, types::Json};
use std::collections::HashMap;

/// Remembers the log that the database belongs to; fails for another log.
pub(crate) async fn check_log(pool: &PgPool, log: &str) -> Result<(), Error> {
    sqlx::query!("insert into log_identity (created_at) values ($1) on conflict do nothing", log)
        .execute(pool)
        .await?;
    let known = sqlx::query!("select created_at from log_identity").fetch_one(pool).await?;
    if known.created_at == log {
        return Ok(());
    }
    Err(Error::OtherLog { database: known.created_at, log: log.to_owned() })
}

/// A transaction that writes rows. Rows are found by key: a young table has no statistics, and
/// would be scanned whole.
pub(crate) async fn begin_transaction(pool: &PgPool) -> Result<Transaction, Error> {
    Ok(Transaction::begin_with(pool, "begin; set local enable_seqscan = off").await?)
}

/// The rows of these keys.
pub(crate) async fn load<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    keys: &[String],
) -> Result<HashMap<String, Stored<P::Row>>, Error> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let table = Definition::of::<P>().table(generation);
    let sql = format!("select key, position, data from {table} where key = any($1)");
    let found = sqlx::query(AssertSqlSafe(sql)).bind(keys).fetch_all(connection).await?;
    found.into_iter().map(stored).collect()
}

/// Removes the rows of these keys from the table, and returns them.
pub(crate) async fn take<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    keys: &[String],
) -> Result<HashMap<String, Stored<P::Row>>, Error> {
    let table = Definition::of::<P>().table(generation);
    let sql = format!("delete from {table} where key = any($1) returning key, position, data");
    let found = sqlx::query(AssertSqlSafe(sql)).bind(keys).fetch_all(connection).await?;
    found.into_iter().map(stored).collect()
}

/// A page of the rows of a partition that changed since a position, in the order of keys; and the
/// key to continue after, if there may be more.
pub(crate) async fn changed_since<P: Projection>(
    pool: &PgPool,
    part: PartitionId,
    position: u64,
    after: &str,
    limit: i64,
) -> Result<(Vec<(String, Stored<P::Row>)>, Option<String>), Error> {
    let table = Definition::of::<P>().table(part.generation);
    let sql = format!(
        "select key, position, data from {table}
         where key > $1 and position > $2 order by key limit $3"
    );
    let page = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(to_i64(position)).bind(limit);
    let mut rows: Vec<(String, Stored<P::Row>)> =
        page.fetch_all(pool).await?.into_iter().map(stored).collect::<Result<_, Error>>()?;
    let next = (rows.len() as i64 == limit).then(|| rows.last().map(|(key, _)| key.clone()));
    rows.retain(|(key, _)| part.holds(key));
    Ok((rows, next.flatten()))
}

fn stored<R: DeserializeOwned>(found: PgRow) -> Result<(String, Stored<R>), Error> {
    let position = to_u64(found.try_get("position")?);
    let Json(row) = found.try_get("data")?;
    Ok((found.try_get("key")?, Stored { row, position }))
}

/// The JSON of a row.
pub(crate) fn json<P: Projection>(key: &str, row: &P::Row) -> Result<String, Error> {
    serde_json::to_string(row).map_err(|source| Error::Row {
        table: P::NAME,
        key: key.to_owned(),
        source,
    })
}

/// Writes the changed rows with one statement, and removes those that are gone.
pub(crate) async fn write<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    rows: &Rows<P::Row>,
) -> Result<(), Error> {
    let table = Definition::of::<P>().table(generation);
    let (mut keys, mut positions, mut data, mut gone) = (vec![], vec![], vec![], vec![]);
    for (key, stored) in rows {
        match stored {
            Some(stored) => {
                keys.push(key.as_str());
                positions.push(to_i64(stored.position));
                data.push(json::<P>(key, &stored.row)?);
            }
            None => gone.push(key.as_str()),
        }
    }
    if !keys.is_empty() {
        let sql = format!(
            "insert into {table} (key, position, data)
             select key, position, data::jsonb
             from unnest($1::text[], $2::bigint[], $3::text[]) as new (key, position, data)
             on conflict (key) do update set position = excluded.position, data = excluded.data"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(keys).bind(positions).bind(data);
        query.execute(&mut *connection).await?;
    }
    if !gone.is_empty() {
        let sql = format!("delete from {table} where key = any($1)");
        sqlx::query(AssertSqlSafe(sql)).bind(gone).execute(connection).await?;
    }
    Ok(())
}

/// True if Postgres rejected a value, which no retry will change; false if it failed.
pub(crate) fn is_refused_value(error: &Error) -> bool {
    let Error::Database(sqlx::Error::Database(error)) = error else { return false };
    // Data exception, integrity constraint violation, program limit exceeded.
    error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}
