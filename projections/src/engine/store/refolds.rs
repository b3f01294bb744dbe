//! Rows that must be folded again in every generation, because events in the log were erased.

use super::{
    states::{GenerationState, RebuildState},
    to_i64, to_u64,
};
use crate::{
    Error, Transaction,
    engine::{PartitionId, partition_of, projection::Definition},
};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Rows that are folded again at a time.
const AT_ONCE: i64 = 1_000;
/// Pauses between attempts grow to 2 to the power of this, in seconds.
const SLOWEST: i32 = 9;
/// A generation whose rows no worker has folded again for this long, in seconds, belongs to a
/// release that is gone.
const ABANDONED_AFTER: f64 = 60.0;

/// The rest of a request in one generation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefoldsLeft {
    /// The projection.
    pub projection: String,
    /// The generation.
    pub generation: i32,
    /// Number of rows.
    pub rows: i64,
    /// The error of the last attempt at one of them, if it failed.
    pub error: Option<String>,
}

impl crate::Database {
    /// Requests that rows be folded again in every generation that exists, and that errors of
    /// parked events be forgotten. `position` is the log's end after the data was erased: a worker
    /// may have read events up to there before. No process may be able to read the erased data any
    /// more. Rows that were requested under this id before are not requested again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn request_refolds(
        &self,
        id: Uuid,
        position: u64,
        rows: &[(&str, Vec<String>)],
        parked: &[u64],
    ) -> Result<(), Error> {
        let position = to_i64(position);
        let parked: Vec<_> = parked.iter().copied().map(to_i64).collect();
        // Unlike rows, requests are not made again after a crash.
        let begin = "begin; set local synchronous_commit = on";
        let mut transaction = Transaction::begin_with(self.pool(), begin).await?;
        // A generation may be copied from another's rows: not at the same moment.
        sqlx::query!("select name from projections order by name for update")
            .fetch_all(&mut *transaction)
            .await?;
        let generations =
            sqlx::query!("select projection, generation, partitions from generations")
                .fetch_all(&mut *transaction)
                .await?;
        for (projection, keys) in rows {
            let requested = sqlx::query_scalar!(
                r#"with wanted as (select distinct key from unnest($3::text[]) as wanted (key)),
                     fresh as (
                         insert into refolds (id, projection, key, position)
                         select $1, $2, md5(key)::uuid, $4 from wanted
                         on conflict do nothing returning key)
                   select wanted.key as "key!" from wanted join fresh
                     on fresh.key = md5(wanted.key)::uuid"#,
                id,
                projection,
                keys,
                position
            )
            .fetch_all(&mut *transaction)
            .await?;
            for own in generations.iter().filter(|own| own.projection == *projection) {
                let partitions: Vec<_> =
                    requested.iter().map(|key| partition_of(key, own.partitions)).collect();
                sqlx::query!(
                    "insert into refolds_due
                         (id, projection, generation, partition, key, position)
                     select $1, $2, $3, partition, key, $6
                     from unnest($4::int[], $5::text[]) as due (partition, key)",
                    id,
                    projection,
                    own.generation,
                    &partitions,
                    &requested,
                    position
                )
                .execute(&mut *transaction)
                .await?;
            }
        }
        sqlx::query!(
            "insert into erased_positions (position) select distinct unnest($1::bigint[])
             on conflict do nothing",
            &parked
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "update parked_events set error = 'erased'
             where position = any($1) and error not in ('', 'erased')",
            &parked
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The rest of a request; empty once every row of every generation and of Redis was folded
    /// again, or is gone.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refolds_left(&self, id: Uuid) -> Result<Vec<RefoldsLeft>, Error> {
        let left = sqlx::query_as!(
            RefoldsLeft,
            r#"select projection, generation, count(*) as "rows!", max(error) as error
               from refolds_due where id = $1
               group by projection, generation order by projection, generation"#,
            id
        );
        Ok(left.fetch_all(self.pool()).await?)
    }

    /// Forgets which rows differed in rebuilds that have ended, and why rebuilds failed: keys may
    /// contain people's names, and reasons quote rows.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_samples(&self) -> Result<(), Error> {
        let begin = "begin; set local synchronous_commit = on";
        let mut transaction = Transaction::begin_with(self.pool(), begin).await?;
        sqlx::query!(
            "update rebuilds
             set comparison = comparison || jsonb_build_object(
                     'differences', '[]'::jsonb, 'newly_parked', '[]'::jsonb),
                 error = case when error is not null then 'erased' end
             where state = any($1)
               and (error is not null or comparison -> 'differences' <> '[]'
                 or comparison -> 'newly_parked' <> '[]')",
            RebuildState::over() as _
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Rows of a partition that are due, with the ids of the requests for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Due {
    pub(crate) rows: BTreeMap<String, Vec<Uuid>>,
    /// Events up to here may have been read before they were erased.
    pub(crate) position: u64,
}

/// Rows of a partition that are due to be folded again.
pub(crate) async fn due(
    definition: Definition,
    pool: &PgPool,
    part: PartitionId,
) -> Result<Due, Error> {
    let found = sqlx::query!(
        "select id, key, position from refolds_due
         where projection = $1 and generation = $2 and partition = $3
           and next_attempt_at <= clock_timestamp()
         order by attempts, next_attempt_at limit $4",
        definition.name,
        part.generation,
        part.partition,
        AT_ONCE
    )
    .fetch_all(pool)
    .await?;
    let mut due = Due::default();
    for row in found {
        due.position = due.position.max(to_u64(row.position));
        due.rows.entry(row.key).or_default().push(row.id);
    }
    Ok(due)
}

/// Position up to which events of a projection may have been read before they were erased; 0 if
/// nothing was erased.
pub(crate) async fn erased_until(definition: Definition, pool: &PgPool) -> Result<u64, Error> {
    let position = sqlx::query_scalar!(
        "select max(position) from refolds where projection = $1",
        definition.name
    );
    Ok(position.fetch_one(pool).await?.map_or(0, to_u64))
}

/// Keys, and the ids of the requests for them, side by side.
fn pairs<'a>(due: &'a Due, keys: impl Iterator<Item = &'a String>) -> (Vec<String>, Vec<Uuid>) {
    let pairs = keys.filter_map(|key| due.rows.get_key_value(key));
    pairs.flat_map(|(key, ids)| ids.iter().map(|id| (key.clone(), *id))).unzip()
}

/// Records that the table has these rows. Parked errors of erased events are removed with them.
pub(crate) async fn folded<'a>(
    definition: Definition,
    connection: &mut PgConnection,
    part: PartitionId,
    due: &'a Due,
    keys: impl Iterator<Item = &'a String>,
) -> Result<(), Error> {
    let (keys, ids) = pairs(due, keys);
    sqlx::query!(
        "update refolds_due set folded = true
         from unnest($4::text[], $5::uuid[]) as done (key, id)
         where projection = $1 and generation = $2 and partition = $3
           and refolds_due.id = done.id and md5(refolds_due.key) = md5(done.key)",
        definition.name,
        part.generation,
        part.partition,
        &keys,
        &ids
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update parked_events set error = 'erased'
         where projection = $1 and generation = $2 and partition = $3
           and error not in ('', 'erased')
           and position in (select position from erased_positions)",
        definition.name,
        part.generation,
        part.partition
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes requests that are done: the table and Redis have these rows.
pub(crate) async fn done<'a>(
    definition: Definition,
    connection: &mut PgConnection,
    part: PartitionId,
    due: &'a Due,
    keys: impl Iterator<Item = &'a String>,
) -> Result<(), Error> {
    let (keys, ids) = pairs(due, keys);
    sqlx::query!(
        "delete from refolds_due using unnest($4::text[], $5::uuid[]) as done (key, id)
         where projection = $1 and generation = $2 and partition = $3
           and refolds_due.id = done.id and md5(refolds_due.key) = md5(done.key)",
        definition.name,
        part.generation,
        part.partition,
        &keys,
        &ids
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Postpones rows after a failure, longer each time.
pub(crate) async fn failed(
    definition: Definition,
    connection: &mut PgConnection,
    part: PartitionId,
    due: &Due,
    errors: &BTreeMap<String, String>,
) -> Result<(), Error> {
    if errors.is_empty() {
        return Ok(());
    }
    let (keys, ids) = pairs(due, errors.keys());
    let errors: Vec<_> = keys.iter().filter_map(|key| errors.get(key).cloned()).collect();
    sqlx::query!(
        "update refolds_due set error = failed.error, attempts = attempts + 1,
             next_attempt_at = clock_timestamp()
                 + make_interval(secs => 2 ^ least(attempts + 1, $7::int))
         from unnest($4::text[], $5::uuid[], $6::text[]) as failed (key, id, error)
         where projection = $1 and generation = $2 and partition = $3
           and refolds_due.id = failed.id and md5(refolds_due.key) = md5(failed.key)",
        definition.name,
        part.generation,
        part.partition,
        &keys,
        &ids,
        &errors,
        SLOWEST
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The keys of rows of two generations whose tables do not have them yet.
pub(crate) async fn unfolded(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
) -> Result<Vec<String>, Error> {
    let keys = sqlx::query_scalar!(
        "select distinct key from refolds_due
         where projection = $1 and generation in ($2, $3) and not folded",
        definition.name,
        from,
        to
    );
    Ok(keys.fetch_all(connection).await?)
}

/// True if a generation must not be swapped in: its table does not have every row yet that must be
/// folded again, or rows of the generation that readers see are still to be replaced.
pub(crate) async fn blocks_swap(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
) -> Result<bool, Error> {
    let bars = sqlx::query_scalar!(
        r#"select exists (select from refolds_due
             where projection = $1 and not folded
               and (generation = $3 or generation = $2 and attempts = 0)) as "bars!""#,
        definition.name,
        from,
        to
    );
    Ok(bars.fetch_one(connection).await?)
}

/// Copies the requests of a generation to one that takes over its rows.
pub(crate) async fn inherit(
    definition: Definition,
    connection: &mut PgConnection,
    from: i32,
    to: i32,
) -> Result<(), Error> {
    sqlx::query!(
        "insert into refolds_due (id, projection, generation, partition, key, position)
         select id, projection, $3, partition, key, position from refolds_due
         where projection = $1 and generation = $2 and not folded
         on conflict do nothing",
        definition.name,
        from,
        to
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Drops previous generations whose rows no worker of their version folds again any more: nobody
/// could roll back to them either.
pub(crate) async fn drop_abandoned(definition: Definition, pool: &PgPool) -> Result<(), Error> {
    sqlx::query!(
        "update generations set state = $4
         where projection = $1 and state = $5 and version <> $2
           and exists (select from refolds_due as due
               where due.projection = $1 and due.generation = generations.generation
                 and due.requested_at < clock_timestamp() - make_interval(secs => $3))
           and not exists (select from checkpoints
               where checkpoints.projection = $1
                 and checkpoints.generation = generations.generation
                 and heartbeat_at > clock_timestamp() - make_interval(secs => $3))",
        definition.name,
        definition.version,
        ABANDONED_AFTER,
        GenerationState::Dropping as _,
        GenerationState::Previous as _
    )
    .execute(pool)
    .await?;
    Ok(())
}
