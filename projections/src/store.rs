//! Generations, checkpoints, rows and parked events in Postgres.

use crate::{
    Error,
    fold::{Parked, Rows, Stored},
    projection::Projection,
};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    AssertSqlSafe, Executor, PgConnection, PgPool, Postgres, Row, Transaction, postgres::PgRow,
    types::Json,
};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// How long a worker may be silent before another takes over.
pub const LEASE: Duration = Duration::from_secs(3);

/// How a projection stands, for operators and readiness.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Which projection.
    pub name: String,
    /// The fold's version that wrote the rows.
    pub version: i32,
    /// The active generation.
    pub generation: i32,
    /// The checkpoint.
    pub position: i64,
    /// Everything up to here is in Redis.
    pub published: i64,
    /// Seconds since its worker last showed a sign of life; none if it never
    /// did.
    pub heartbeat_age_seconds: Option<f64>,
    /// Events parked.
    pub parked: i64,
    /// The worker.
    pub worker: Option<String>,
}

/// The right to write one generation, until another worker takes over.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) generation: i32,
    pub(crate) epoch: i64,
    pub(crate) position: u64,
    pub(crate) published: u64,
}

/// Makes the first generation of a projection if it has none.
pub(crate) async fn ensure_generation<P: Projection>(pool: &PgPool) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    // Two programs starting at once make it one after the other.
    sqlx::query!("select pg_advisory_xact_lock(hashtext($1))", P::NAME)
        .fetch_one(&mut *transaction)
        .await?;
    let active = sqlx::query!(
        "select version from projections join generations on projection = name
         and generation = active_generation where name = $1",
        P::NAME
    )
    .fetch_optional(&mut *transaction)
    .await?;
    match active {
        Some(active) if active.version == to_i32(P::VERSION) => return Ok(()),
        Some(active) => {
            return Err(Error::Version {
                projection: P::NAME,
                found: active.version,
                wanted: P::VERSION,
            });
        }
        None => {}
    }
    sqlx::query!("insert into projections (name, active_generation) values ($1, 1)", P::NAME)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!(
        "insert into generations (projection, generation, version) values ($1, 1, $2)",
        P::NAME,
        to_i32(P::VERSION)
    )
    .execute(&mut *transaction)
    .await?;
    create_tables::<P>(&mut transaction, 1).await?;
    transaction.commit().await?;
    Ok(())
}

/// The schema of a generation, its table, who may read it, and the view that
/// readers know.
async fn create_tables<P: Projection>(
    transaction: &mut Transaction<'static, Postgres>,
    generation: i32,
) -> Result<(), Error> {
    let (name, schema, readers) = (P::NAME, schema::<P>(generation), P::READERS);
    let before = format!("create schema {schema}; set local search_path to {schema};");
    let after = format!(
        "alter table {name} enable row level security, force row level security;
         create policy owner on {name} to current_user using (true) with check (true);
         create policy readers on {name} for select to exodrive_reader using ({readers});
         grant usage on schema {schema} to exodrive_reader;
         grant select on {name} to exodrive_reader;
         set local search_path to default;
         create view public.{name} with (security_invoker = true)
            as select * from {schema}.{name};
         grant select on public.{name} to exodrive_reader;"
    );
    for sql in [before, P::SCHEMA.to_owned(), after] {
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    }
    Ok(())
}

pub(crate) fn schema<P: Projection>(generation: i32) -> String {
    format!("{}_g{generation}", P::NAME)
}

/// Remembers which log the database belongs to, or refuses another.
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

/// Takes the active generation over if nobody holds it. Raises the fencing
/// epoch, so that whoever held it before can write no more.
pub(crate) async fn acquire<P: Projection>(
    pool: &PgPool,
    worker: &str,
) -> Result<Option<Lease>, Error> {
    let taken = sqlx::query!(
        "update generations set epoch = epoch + 1, worker = $2, heartbeat_at = clock_timestamp(),
             lease_until = clock_timestamp() + make_interval(secs => $3)
         from projections
         where name = $1 and projection = name and generation = active_generation
           and (lease_until is null or lease_until < clock_timestamp())
         returning generation, version, epoch, position, published",
        P::NAME,
        worker,
        LEASE.as_secs_f64()
    )
    .fetch_optional(pool)
    .await?;
    match taken {
        Some(taken) if taken.version != to_i32(P::VERSION) => {
            Err(Error::Version { projection: P::NAME, found: taken.version, wanted: P::VERSION })
        }
        taken => Ok(taken.map(|taken| Lease {
            generation: taken.generation,
            epoch: taken.epoch,
            position: to_u64(taken.position),
            published: to_u64(taken.published),
        })),
    }
}

/// Keeps the lease without moving the checkpoint.
pub(crate) async fn heartbeat<P: Projection>(pool: &PgPool, lease: &Lease) -> Result<(), Error> {
    let kept = sqlx::query!(
        "update generations set heartbeat_at = clock_timestamp(), published = $4,
             lease_until = clock_timestamp() + make_interval(secs => $5)
         where projection = $1 and generation = $2 and epoch = $3",
        P::NAME,
        lease.generation,
        lease.epoch,
        to_i64(lease.published),
        LEASE.as_secs_f64()
    )
    .execute(pool)
    .await?;
    if kept.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced(P::NAME)) }
}

/// Gives the lease up, so that another worker need not wait for it to end.
pub(crate) async fn release<P: Projection>(pool: &PgPool, lease: &Lease) -> Result<(), Error> {
    sqlx::query!(
        "update generations set lease_until = null, worker = null, published = $4
         where projection = $1 and generation = $2 and epoch = $3",
        P::NAME,
        lease.generation,
        lease.epoch,
        to_i64(lease.published)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A transaction that writes rows. They are found by key: a young table has no
/// statistics, and would be scanned whole.
pub(crate) async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    Ok(pool.begin_with("begin; set local enable_seqscan = off").await?)
}

/// Moves the checkpoint and keeps the lease, unless the lease is lost.
pub(crate) async fn advance<P: Projection>(
    connection: &mut PgConnection,
    lease: &Lease,
    position: u64,
    folded: usize,
) -> Result<(), Error> {
    let moved = sqlx::query!(
        "update generations set position = $5, folded = folded + $6, published = $7,
             heartbeat_at = clock_timestamp(),
             lease_until = clock_timestamp() + make_interval(secs => $8)
         where projection = $1 and generation = $2 and epoch = $3 and position = $4",
        P::NAME,
        lease.generation,
        lease.epoch,
        to_i64(lease.position),
        to_i64(position),
        folded as i64,
        to_i64(lease.published),
        LEASE.as_secs_f64()
    )
    .execute(connection)
    .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced(P::NAME)) }
}

/// The rows of these keys.
pub(crate) async fn load<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    keys: &[String],
) -> Result<HashMap<String, Stored<P::Row>>, Error> {
    let sql = format!(
        "select key, position, data from {}.{} where key = any($1)",
        schema::<P>(generation),
        P::NAME
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(keys).fetch_all(connection).await?;
    found.into_iter().map(stored).collect()
}

/// A page of the rows changed since a position, in the order of keys.
pub(crate) async fn changed_since<P: Projection>(
    pool: &PgPool,
    generation: i32,
    position: u64,
    after: &str,
    limit: i64,
) -> Result<Vec<(String, Stored<P::Row>)>, Error> {
    let sql = format!(
        "select key, position, data from {}.{}
         where key > $1 and position > $2 order by key limit $3",
        schema::<P>(generation),
        P::NAME
    );
    let page = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(to_i64(position)).bind(limit);
    page.fetch_all(pool).await?.into_iter().map(stored).collect()
}

fn stored<R: DeserializeOwned>(found: PgRow) -> Result<(String, Stored<R>), Error> {
    let position = to_u64(found.try_get("position")?);
    let Json(row) = found.try_get("data")?;
    Ok((found.try_get("key")?, Stored { row, position }))
}

/// Writes the changed rows with one statement, and removes those that are gone.
pub(crate) async fn write<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    rows: &Rows<P::Row>,
) -> Result<(), Error> {
    let table = format!("{}.{}", schema::<P>(generation), P::NAME);
    let (mut keys, mut positions, mut data, mut gone) = (vec![], vec![], vec![], vec![]);
    for (key, stored) in rows {
        match stored {
            Some(stored) => {
                keys.push(key.as_str());
                positions.push(to_i64(stored.position));
                data.push(serde_json::to_string(&stored.row).map_err(|source| Error::Row {
                    table: P::NAME,
                    key: key.clone(),
                    source,
                })?);
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

/// Whether Postgres refused a value, which no retry will change, rather than
/// failed.
pub(crate) fn is_refused_value(error: &Error) -> bool {
    let Error::Database(sqlx::Error::Database(error)) = error else { return false };
    // Data exception, integrity constraint violation, program limit exceeded.
    error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// Parks events. An event parked before stays as it was.
pub(crate) async fn park<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    parked: &[Parked],
) -> Result<(), Error> {
    if parked.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = parked.iter().map(|event| event.key.clone()).collect();
    let positions: Vec<i64> = parked.iter().map(|event| to_i64(event.position)).collect();
    let errors: Vec<String> = parked.iter().map(|event| event.error.clone()).collect();
    sqlx::query!(
        "insert into parked_events (projection, generation, key, position, error)
         select $1, $2, * from unnest($3::text[], $4::bigint[], $5::text[])
         on conflict do nothing",
        P::NAME,
        generation,
        &keys,
        &positions,
        &errors
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The keys that have parked events.
pub(crate) async fn blocked<P: Projection>(
    pool: &PgPool,
    generation: i32,
) -> Result<HashSet<String>, Error> {
    let keys = sqlx::query_scalar!(
        "select distinct key from parked_events where projection = $1 and generation = $2",
        P::NAME,
        generation
    );
    Ok(keys.fetch_all(pool).await?.into_iter().collect())
}

/// One key that an operator wants retried, with the positions of its parked
/// events in log order.
pub(crate) async fn retry_wanted<P: Projection>(
    pool: &PgPool,
    generation: i32,
) -> Result<Option<(String, Vec<u64>)>, Error> {
    let events = sqlx::query!(
        "select key, position from parked_events
         where projection = $1 and generation = $2 and key = (
             select key from parked_events
             where projection = $1 and generation = $2 and retry_wanted limit 1)
         order by position",
        P::NAME,
        generation
    )
    .fetch_all(pool)
    .await?;
    let key = events.first().map(|event| event.key.clone());
    Ok(key.map(|key| (key, events.iter().map(|event| to_u64(event.position)).collect())))
}

/// Leaves the parked events of a key parked, until an operator asks again.
pub(crate) async fn keep_parked<P: Projection>(
    pool: &PgPool,
    generation: i32,
    key: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "update parked_events set retry_wanted = false
         where projection = $1 and generation = $2 and key = $3",
        P::NAME,
        generation,
        key
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Forgets the parked events of a key, which have been folded or will be
/// parked anew.
pub(crate) async fn unpark<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    key: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "delete from parked_events where projection = $1 and generation = $2 and key = $3",
        P::NAME,
        generation,
        key
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl crate::Database {
    /// How every projection stands.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn projections(&self) -> Result<Vec<Status>, Error> {
        let rows = sqlx::query_as!(
            Status,
            r#"select name, version, generation, position, published, worker,
                extract(epoch from clock_timestamp() - heartbeat_at)::float8
                    as "heartbeat_age_seconds",
                (select count(*) from parked_events as parked
                 where parked.projection = name and parked.generation = active_generation)
                    as "parked!"
             from projections
             join generations on projection = name and generation = active_generation
             order by name"#
        );
        Ok(rows.fetch_all(self.pool()).await?)
    }

    /// Waits until a projection has reached a position, at most `patience`;
    /// gives the position it has reached.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn wait_for(
        &self,
        projection: &str,
        position: u64,
        patience: Duration,
    ) -> Result<u64, Error> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let reached = sqlx::query_scalar!(
                "select position from projections
                 join generations on projection = name and generation = active_generation
                 where name = $1",
                projection
            )
            .fetch_one(self.pool())
            .await?;
            if to_u64(reached) >= position || tokio::time::Instant::now() >= deadline {
                return Ok(to_u64(reached));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks the projection's worker to fold parked events again, in order: all
    /// of them, or those of one key. Gives how many events that are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn retry_parked(&self, projection: &str, key: Option<&str>) -> Result<u64, Error> {
        let wanted = sqlx::query!(
            "update parked_events set retry_wanted = true
             where projection = $1 and ($2::text is null or key = $2)
               and generation = (select active_generation from projections where name = $1)",
            projection,
            key
        );
        Ok(wanted.execute(self.pool()).await?.rows_affected())
    }
}

pub(crate) fn to_i64(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

pub(crate) fn to_u64(position: i64) -> u64 {
    u64::try_from(position).unwrap_or(0)
}

pub(crate) fn to_i32(version: u32) -> i32 {
    i32::try_from(version).unwrap_or(i32::MAX)
}
