//! Events that cannot be folded yet.

use super::{to_i64, to_u64};
use crate::{
    Error,
    engine::{
        PartitionId,
        fold::{Exclusions, HUNG, Parked, REFUSED},
        projection::Definition,
        store::comparison::NewlyParked,
    },
};
use sqlx::{PgConnection, PgPool};
use std::collections::{HashMap, HashSet};

/// Number of automatic retries of an event: after 2 s, 4 s, 8 s, …, the last one after 17 minutes.
/// Then it waits for an operator.
pub(crate) const ATTEMPTS: i32 = 10;

/// Parks events. An event that was parked before does not change. `attempts` is the number of
/// retries so far of those with an error; one whose fold hangs has used up all of them.
pub(crate) async fn park(
    definition: Definition,
    connection: &mut PgConnection,
    part: PartitionId,
    parked: &[Parked],
    attempts: i32,
) -> Result<(), Error> {
    if parked.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = parked.iter().map(|event| event.key.clone()).collect();
    let positions: Vec<i64> = parked.iter().map(|event| to_i64(event.position)).collect();
    let errors: Vec<String> = parked.iter().map(|event| event.error.clone()).collect();
    let attempts: Vec<i32> = parked
        .iter()
        .map(|event| match event.error.as_str() {
            "" => 0,
            HUNG => ATTEMPTS,
            _ => attempts,
        })
        .collect();
    sqlx::query!(
        "insert into parked_events
             (projection, generation, partition, key, position, error, attempts, next_attempt_at)
         select $1, $2, $3, key, position, error, attempts,
             case when error <> '' and attempts < $8
                 then clock_timestamp() + make_interval(secs => 2 ^ (attempts + 1)) end
         from unnest($4::text[], $5::bigint[], $6::text[], $7::int[])
             as new (key, position, error, attempts)
         on conflict do nothing",
        definition.name,
        part.generation,
        part.partition,
        &keys,
        &positions,
        &errors,
        &attempts,
        ATTEMPTS
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Has the keys of events that wait tried again soon if Postgres refused their rows: after one more
/// event it may take them. The pause grows with what waits, so that the work does not.
pub(crate) async fn retry_refused(
    definition: Definition,
    connection: &mut PgConnection,
    part: PartitionId,
    parked: &[Parked],
) -> Result<(), Error> {
    let waiting = parked.iter().filter(|event| event.error.is_empty());
    let keys: Vec<String> = waiting.map(|event| event.key.clone()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update parked_events as parked set next_attempt_at = least(
             coalesce(next_attempt_at, 'infinity'),
             clock_timestamp() + make_interval(secs => 0.01 * (
                 select count(*) from parked_events as waiting
                 where waiting.projection = $1 and waiting.generation = $2
                   and waiting.partition = $3 and waiting.key = parked.key)))
         where projection = $1 and generation = $2 and partition = $3 and error = $4
           and key = any($5)",
        definition.name,
        part.generation,
        part.partition,
        REFUSED,
        &keys
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Most keys that [`newly`] names.
const NAMED: i64 = 100;

/// Keys and subjects that have an event parked in the second generation, and no event up to that
/// one in the first: what readers of the second would see of them is behind. Only events up to a
/// position, and only the first of these keys, each with its first event.
pub(crate) async fn newly(
    definition: Definition,
    connection: &mut PgConnection,
    (from, to): (i32, i32),
    until: u64,
) -> Result<Vec<NewlyParked>, Error> {
    let found = sqlx::query!(
        "select distinct on (key) key, position, error from parked_events as new
         where projection = $1 and generation = $3 and position <= $4
           and not exists (
               select from parked_events as old
               where old.projection = $1 and old.generation = $2 and old.key = new.key
                 and old.position <= new.position)
         order by key, position limit $5",
        definition.name,
        from,
        to,
        to_i64(until),
        NAMED
    );
    let found = found.fetch_all(connection).await?.into_iter();
    let newly = |key, position, error| NewlyParked { key, position: to_u64(position), error };
    Ok(found.map(|it| newly(it.key, it.position, it.error)).collect())
}

/// Keys and events that a partition must not fold: keys with parked events, and events that
/// operators skip.
pub(crate) async fn exclusions(
    definition: Definition,
    pool: &PgPool,
    part: PartitionId,
) -> Result<Exclusions, Error> {
    let found = sqlx::query!(
        r#"select key as "key!", position from (
               select distinct key, null::bigint as position from parked_events
               where projection = $1 and generation = $2 and partition = $3
               union all select key, position from skipped_events where projection = $1) as found"#,
        definition.name,
        part.generation,
        part.partition
    )
    .fetch_all(pool)
    .await?;
    let mut blocked = HashSet::new();
    let mut skipped: HashMap<u64, Vec<String>> = HashMap::new();
    for row in found {
        match row.position {
            Some(position) => skipped.entry(to_u64(position)).or_default().push(row.key),
            None => drop(blocked.insert(row.key)),
        }
    }
    Ok(Exclusions { blocked, skipped, ..Exclusions::default() })
}

/// The first parked event of every key and subject that has one.
pub(crate) async fn firsts(
    definition: Definition,
    pool: &PgPool,
    part: PartitionId,
) -> Result<HashMap<String, u64>, Error> {
    let found = sqlx::query!(
        r#"select key, min(position) as "position!" from parked_events
           where projection = $1 and generation = $2 and partition = $3 group by key"#,
        definition.name,
        part.generation,
        part.partition
    );
    let found = found.fetch_all(pool).await?.into_iter();
    Ok(found.map(|it| (it.key, to_u64(it.position))).collect())
}

/// The parked events of a key.
pub(crate) struct Queue {
    pub(crate) key: String,
    /// In log order.
    pub(crate) positions: Vec<u64>,
    /// The error of the first.
    pub(crate) error: String,
}

/// Everything that a partition has parked, by key.
pub(crate) async fn queues(
    definition: Definition,
    pool: &PgPool,
    part: PartitionId,
) -> Result<Vec<Queue>, Error> {
    let found = sqlx::query!(
        r#"select key as "key!", array_agg(position order by position) as "positions!",
               (array_agg(error order by position))[1] as "error!"
           from parked_events where projection = $1 and generation = $2 and partition = $3
           group by key order by key"#,
        definition.name,
        part.generation,
        part.partition
    );
    let queue = |key, positions: Vec<i64>, error| Queue {
        key,
        positions: positions.into_iter().map(to_u64).collect(),
        error,
    };
    let found = found.fetch_all(pool).await?.into_iter();
    Ok(found.map(|it| queue(it.key, it.positions, it.error)).collect())
}

/// The parked events of a key that are due for a retry.
pub(crate) struct Due {
    pub(crate) key: String,
    /// In log order.
    pub(crate) positions: Vec<u64>,
    /// Number of retries so far.
    pub(crate) attempts: i32,
}

/// One key whose retry an operator requested, or whose retry is due.
pub(crate) async fn due(
    definition: Definition,
    pool: &PgPool,
    part: PartitionId,
) -> Result<Option<Due>, Error> {
    let events = sqlx::query!(
        "select key, position, attempts from parked_events
         where projection = $1 and generation = $2 and partition = $3 and key = (
             select key from parked_events
             where projection = $1 and generation = $2 and partition = $3
               and (retry_wanted or next_attempt_at < clock_timestamp())
             order by retry_wanted desc, next_attempt_at limit 1)
         order by position",
        definition.name,
        part.generation,
        part.partition
    )
    .fetch_all(pool)
    .await?;
    let attempts = events.iter().map(|event| event.attempts).max().unwrap_or(0);
    let key = events.first().map(|event| event.key.clone());
    let positions = events.iter().map(|event| to_u64(event.position)).collect();
    Ok(key.map(|key| Due { key, positions, attempts }))
}

/// The next attempt at parked events that could not be folded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// After a pause, unless that was the last attempt.
    Later,
    /// Only when an operator asks.
    WhenAsked,
}

/// Leaves the parked events of a key parked, until the next retry is due or an operator requests
/// one.
pub(crate) async fn keep(
    definition: Definition,
    connection: &mut PgConnection,
    part: PartitionId,
    due: &Due,
    again: Again,
) -> Result<(), Error> {
    let attempts = match again {
        Again::Later => (due.attempts + 1).min(ATTEMPTS),
        Again::WhenAsked => ATTEMPTS,
    };
    sqlx::query!(
        "update parked_events set retry_wanted = false,
             attempts = case error when '' then 0 else $5::int end,
             next_attempt_at = case when error <> '' and $5 < $6
                 then clock_timestamp() + make_interval(secs => 2 ^ ($5 + 1)) end
         where projection = $1 and generation = $2 and partition = $3 and key = $4",
        definition.name,
        part.generation,
        part.partition,
        due.key,
        attempts,
        ATTEMPTS
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the parked events of a key: they have been folded, or will be parked again.
pub(crate) async fn unpark(
    definition: Definition,
    connection: &mut PgConnection,
    part: PartitionId,
    key: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "delete from parked_events
         where projection = $1 and generation = $2 and partition = $3 and key = $4",
        definition.name,
        part.generation,
        part.partition,
        key
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl crate::Database {
    /// View, key (or subject) and first parked position of everything that is blocked in the
    /// generations that readers see.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn blocked_keys(&self) -> Result<Vec<(String, String, u64)>, Error> {
        let found = sqlx::query!(
            r#"select projection, key, min(position) as "position!" from parked_events
               join projections on name = projection and generation = active_generation
               group by projection, key"#
        );
        let found = found.fetch_all(self.pool()).await?;
        Ok(found.into_iter().map(|it| (it.projection, it.key, to_u64(it.position))).collect())
    }
}
