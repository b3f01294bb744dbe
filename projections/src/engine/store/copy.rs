//! Rows on their way into the table of a generation that is being filled.

use super::{is_refused_value, to_i64};
use crate::{Error, engine::projection::Definition};
use bytes::{BufMut, BytesMut};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use std::collections::HashSet;
use tokio::sync::{mpsc, oneshot};

/// Chunks of rows that wait to be copied: each may have half of the rows that may be in memory; as
/// JSON they take less.
pub(crate) const CHUNKS: usize = 1;

/// A row on its way into the table.
pub(crate) struct Line {
    pub(crate) key: String,
    pub(crate) position: u64,
    pub(crate) json: String,
}

/// A command to the copying task.
pub(crate) enum Copy {
    /// Writes these rows.
    Lines(Vec<Line>),
    /// Signals when everything before this is in the table.
    Flush(oneshot::Sender<()>),
}

/// Copies rows into the table as they come; returns the keys of those that Postgres rejected.
pub(crate) async fn copy(
    definition: Definition,
    pool: PgPool,
    generation: i32,
    mut copies: mpsc::Receiver<Copy>,
) -> Result<HashSet<String>, Error> {
    let mut connection = pool.acquire().await?;
    let table = definition.table(generation);
    let statement = format!("copy {table} (key, position, data) from stdin (format binary)");
    let mut refused = HashSet::new();
    while let Some(copy) = copies.recv().await {
        let lines = match copy {
            Copy::Lines(lines) => lines,
            Copy::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        match copy_lines(&mut connection, &statement, &lines).await {
            Ok(()) => {}
            Err(error) if is_refused_value(&error) => {
                refused.extend(one_by_one(&mut connection, &table, lines).await?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// Bytes sent to Postgres at a time.
const SENT: usize = 1 << 20;

/// The binary format of COPY, and of `jsonb` in it
/// (<https://www.postgresql.org/docs/current/sql-copy.html>).
async fn copy_lines(
    connection: &mut PgConnection,
    statement: &str,
    lines: &[Line],
) -> Result<(), Error> {
    let mut copy = connection.copy_in_raw(statement).await?;
    let mut buffer = BytesMut::with_capacity(SENT + (64 << 10));
    buffer.put_slice(b"PGCOPY\n\xff\r\n\0");
    buffer.put_i32(0);
    buffer.put_i32(0);
    let length = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    for Line { key, position, json } in lines {
        buffer.put_i16(3);
        buffer.put_i32(length(key.len()));
        buffer.put_slice(key.as_bytes());
        buffer.put_i32(8);
        buffer.put_i64(to_i64(*position));
        buffer.put_i32(length(json.len() + 1));
        buffer.put_u8(1);
        buffer.put_slice(json.as_bytes());
        if buffer.len() >= SENT {
            copy.send(&buffer[..]).await?;
            buffer.clear();
        }
    }
    buffer.put_i16(-1);
    copy.send(&buffer[..]).await?;
    copy.finish().await?;
    Ok(())
}

/// Writes each row alone; returns the keys of those that Postgres rejects.
async fn one_by_one(
    connection: &mut PgConnection,
    table: &str,
    lines: Vec<Line>,
) -> Result<Vec<String>, Error> {
    let mut refused = Vec::new();
    let sql = format!("insert into {table} (key, position, data) values ($1, $2, $3::text::jsonb)");
    for Line { key, position, json } in lines {
        let mut attempt = connection.begin().await?;
        let insert = sqlx::query(AssertSqlSafe(sql.as_str()));
        let insert = insert.bind(&key).bind(to_i64(position)).bind(json);
        match insert.execute(&mut *attempt).await.map_err(Error::from) {
            Ok(_) => attempt.commit().await?,
            Err(error) if is_refused_value(&error) => {
                attempt.rollback().await?;
                refused.push(key);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}
