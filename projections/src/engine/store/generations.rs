//! Generations of a projection, and the database views through which readers see one of them.

use super::{
    LEASE,
    states::{GenerationState, RebuildKind},
    to_i64,
};
use crate::{
    Error, Transaction,
    engine::{
        PartitionId,
        projection::{Definition, Projection},
    },
    for_each_projection,
};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Row};
use std::{collections::HashSet, sync::LazyLock};
use uuid::Uuid;

/// The schema whose views this release reads: named after the versions of all its folds.
pub(crate) static RELEASE: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for_each_projection!(P => digest.update(format!("{}={}\n", P::NAME, P::VERSION)));
    format!("release_{}", hex::encode(&digest.finalize()[..5]))
});

/// Makes programs that change a projection's generations wait for each other.
async fn lock(connection: &mut PgConnection, projection: &str) -> Result<(), Error> {
    sqlx::query!("select pg_advisory_xact_lock(hashtext($1))", projection)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Creates the first generation of a projection if it has none, and the views through which this
/// release reads it.
pub(crate) async fn ensure(definition: Definition, pool: &PgPool) -> Result<(), Error> {
    let mut transaction = Transaction::begin(pool).await?;
    lock(&mut transaction, definition.name).await?;
    let known = sqlx::query!("select from projections where name = $1", definition.name)
        .fetch_optional(&mut *transaction)
        .await?;
    if known.is_none() {
        sqlx::query!(
            "insert into projections (name, active_generation) values ($1, 1)",
            definition.name
        )
        .execute(&mut *transaction)
        .await?;
        insert(definition, &mut transaction, 1, 1, GenerationState::Active).await?;
        create_table(definition, &mut transaction, 1).await?;
        open_to_readers(definition, &mut transaction, 1).await?;
    }
    sqlx::query!(
        "insert into releases (name, projection, version) values ($1, $2, $3)
         on conflict do nothing",
        &*RELEASE,
        definition.name,
        definition.version
    )
    .execute(&mut *transaction)
    .await?;
    point_views(&mut transaction, definition.name).await?;
    transaction.commit().await?;
    Ok(())
}

/// Requests a generation of this version of the fold if readers see one of an older version. It
/// does so once: what operators did with the request stays.
pub(crate) async fn ensure_version(definition: Definition, pool: &PgPool) -> Result<(), Error> {
    sqlx::query!(
        "insert into rebuilds (id, projection, kind, version, actor, reason)
         select $1, $2, $4, $3, 'system:release', 'this release has a newer version of the fold'
         from generations join projections on name = projection and generation = active_generation
         where projection = $2 and version < $3
           and not exists (select from rebuilds where projection = $2 and kind = $4
                           and version = $3)
         on conflict do nothing",
        Uuid::now_v7(),
        definition.name,
        definition.version,
        RebuildKind::Version as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Records a generation that has no rows yet.
pub(crate) async fn insert(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
    partitions: i32,
    state: GenerationState,
) -> Result<(), Error> {
    sqlx::query!(
        "insert into generations (projection, generation, version, partitions, state)
         values ($1, $2, $3, $4, $5)",
        definition.name,
        generation,
        definition.version,
        partitions,
        state as _
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into checkpoints (projection, generation, partition)
         select $1, $2, generate_series(0, $3 - 1)",
        definition.name,
        generation,
        partitions
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The schema of a generation and its table, which only its owner can use. The table takes no row
/// that an index could not take.
pub(crate) async fn create_table(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<(), Error> {
    let schema = format!("{}_g{generation}", definition.name);
    let sql = format!(
        "create schema {schema}; set local search_path to {schema}; {}; \
         set local search_path to default;",
        definition.schema
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    bound_indexes(definition, connection, generation).await
}

/// Bytes of text that a row may have in one index: a B-tree takes 2,704 for an entry, with its
/// headers and numbers.
const IN_AN_INDEX: usize = 2_600;

/// Has the table itself refuse a row that one of its B-trees could not take. A rebuild makes the
/// indexes when the rows are there, and would find out too late.
///
/// A function raises the error, because that of a failed check quotes the row in the server's log.
/// It has an argument, because Postgres would call it when it plans if it had none.
async fn bound_indexes(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<(), Error> {
    let table = definition.table(generation);
    let sql = "select relname::text as name, string_agg(
             format('coalesce(octet_length((%s)::text), 0)', pg_get_indexdef(oid, attnum, false)),
             ' + ') as bytes
         from pg_index join pg_class on oid = indexrelid join pg_attribute on attrelid = oid
         where indrelid = $1::text::regclass and attlen = -1
           and relam = (select oid from pg_am where amname = 'btree')
         group by relname";
    let found = sqlx::query(sql).bind(&table).fetch_all(&mut *connection).await?;
    let schema = format!("{}_g{generation}", definition.name);
    let mut bounds = format!(
        "create function {schema}.refuse_text(bytes integer) returns boolean
             language plpgsql immutable parallel safe as $$
         begin
             raise program_limit_exceeded using message =
                 format('a row has %s bytes of text for an index, which takes {IN_AN_INDEX}', bytes);
         end $$;"
    );
    for index in found {
        let (name, bytes): (String, String) = (index.try_get("name")?, index.try_get("bytes")?);
        bounds += &format!(
            "alter table {table} add constraint {name}_fits
                 check ({bytes} <= {IN_AN_INDEX} or {schema}.refuse_text({bytes}));"
        );
    }
    connection.execute(sqlx::raw_sql(AssertSqlSafe(bounds))).await?;
    Ok(())
}

/// Lets readers see the rows that are theirs.
pub(crate) async fn open_to_readers(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<(), Error> {
    let Definition { name, readers, .. } = definition;
    let (schema, table) = (format!("{name}_g{generation}"), definition.table(generation));
    let sql = format!(
        "alter table {table} enable row level security, force row level security;
         create policy owner on {table} to current_user using (true) with check (true);
         create policy readers on {table} for select to exodrive_reader using ({readers});
         create policy staff on {table} for select to exodrive_staff using (true);
         grant usage on schema {schema} to exodrive_reader;
         grant select on {table} to exodrive_reader;"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

/// Removes the indexes of a table that is to be filled, and returns the statements that create them
/// again.
pub(crate) async fn take_indexes(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<Vec<String>, Error> {
    let table = definition.table(generation);
    let sql = "select conname::text as name, pg_get_constraintdef(oid) as definition, true as key
         from pg_constraint where conrelid = $1::text::regclass and contype in ('p', 'u')
         union all
         select indexrelid::regclass::text, pg_get_indexdef(indexrelid), false
         from pg_index where indrelid = $1::text::regclass
           and not exists (select from pg_constraint where conindid = indexrelid)";
    let found = sqlx::query(sql).bind(&table).fetch_all(&mut *connection).await?;
    let mut again = Vec::new();
    for index in found {
        let name: String = index.try_get("name")?;
        let definition: String = index.try_get("definition")?;
        let take = if index.try_get("key")? {
            again.push(format!("alter table {table} add constraint {name} {definition}"));
            format!("alter table {table} drop constraint {name}")
        } else {
            again.push(definition);
            format!("drop index {name}")
        };
        connection.execute(AssertSqlSafe(take)).await?;
    }
    Ok(again)
}

/// Creates a schema of views, unless readers can use it already. Programs that do so wait for each
/// other: of two grants on one schema at once, the server fails one.
async fn ensure_schema(connection: &mut PgConnection, schema: &str) -> Result<(), Error> {
    let mut locked = false;
    loop {
        let usable: bool = sqlx::query_scalar(
            "select coalesce(has_schema_privilege('exodrive_reader', to_regnamespace($1)::oid,
                                                  'usage'), false)",
        )
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
        if usable {
            return Ok(());
        }
        if locked {
            break;
        }
        // Another program may have made it meanwhile.
        lock(connection, schema).await?;
        locked = true;
    }
    let sql = format!(
        "create schema if not exists {schema}; grant usage on schema {schema} to exodrive_reader"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

/// Makes every view of a projection show the generation that its readers must see. A view that
/// shows it already is not changed.
pub(crate) async fn point_views(
    connection: &mut PgConnection,
    projection: &str,
) -> Result<(), Error> {
    let requested = sqlx::query!(
        r#"select 'public' as "schema!", active_generation as "generation!"
           from projections where name = $1
           union all
           select name, generation_read(projection, version) from releases where projection = $1"#,
        projection
    )
    .fetch_all(&mut *connection)
    .await?;
    for view in requested {
        let (name, target) = (format!("{}.{projection}", view.schema), view.generation);
        let shown: Option<String> =
            sqlx::query_scalar("select obj_description(to_regclass($1), 'pg_class')")
                .bind(&name)
                .fetch_one(&mut *connection)
                .await?;
        if shown.as_deref() == Some(target.to_string().as_str()) {
            continue;
        }
        ensure_schema(connection, &view.schema).await?;
        let computed = computed_columns(connection, projection, target).await?;
        // Dropped first, because the columns of two versions may differ.
        let sql = format!(
            "drop view if exists {name};
             create view {name} with (security_invoker = true)
                as select *{computed} from {projection}_g{target}.{projection};
             comment on view {name} is '{target}';
             grant select on {name} to exodrive_reader;"
        );
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    }
    Ok(())
}

/// The columns that a view has to compute, because the generation's table is of an older version
/// and lacks them, as the end of a list of columns.
async fn computed_columns(
    connection: &mut PgConnection,
    projection: &str,
    generation: i32,
) -> Result<String, Error> {
    let mut newer: &[(&str, &str)] = &[];
    for_each_projection!(P => {
        if P::NAME == projection {
            newer = P::NEWER_COLUMNS;
        }
    });
    let mut computed = String::new();
    for (column, expression) in newer {
        let exists: bool = sqlx::query_scalar(
            "select exists (select from pg_attribute
                 where attrelid = $1::text::regclass and attname = $2)",
        )
        .bind(format!("{projection}_g{generation}.{projection}"))
        .bind(column)
        .fetch_one(&mut *connection)
        .await?;
        if !exists {
            computed.push_str(&format!(", {expression} as {column}"));
        }
    }
    Ok(computed)
}

/// Updates the views to the generations that releases must read.
pub(crate) async fn refresh_views(pool: &PgPool, projection: &str) -> Result<(), Error> {
    let mut transaction =
        Transaction::begin_with(pool, "begin; set local lock_timeout = '200ms'").await?;
    lock(&mut transaction, projection).await?;
    point_views(&mut transaction, projection).await?;
    transaction.commit().await?;
    Ok(())
}

/// The partitions without a writer, of the generations that workers of this version of the fold
/// keep level: the one that readers see, those that are being built, and the one that the readers
/// of this release still see after another was swapped in; also those of any other previous
/// generation that have rows to be folded again. The flag of each is true if no worker has taken it
/// for a while.
pub(crate) async fn without_writer(
    definition: Definition,
    pool: &PgPool,
) -> Result<Vec<(PartitionId, bool)>, Error> {
    let parts = sqlx::query!(
        r#"select own.generation, partition, own.partitions,
             greatest(heartbeat_at, own.created_at)
                 < clock_timestamp() - make_interval(secs => $3) as "orphaned!"
         from projections
         join generations as active on active.projection = name
             and active.generation = active_generation
         join generations as own on own.projection = name
         join checkpoints on checkpoints.projection = name
             and checkpoints.generation = own.generation
         where name = $1 and own.version = $2 and (own.state = any($4)
             or own.state = $5 and (not own.withdrawn and active.version <> $2
                 or exists (select from refolds_due as due
                     where due.projection = $1 and due.generation = own.generation
                       and due.partition = checkpoints.partition
                       and next_attempt_at <= clock_timestamp())))
           and coalesce(lease_until < clock_timestamp(), true)
         order by own.generation, partition"#,
        definition.name,
        definition.version,
        2.0 * LEASE.as_secs_f64(),
        GenerationState::kept_level() as _,
        GenerationState::Previous as _
    );
    let part =
        |generation, partition, partitions| PartitionId { generation, partition, partitions };
    let parts = parts.fetch_all(pool).await?.into_iter();
    Ok(parts.map(|it| (part(it.generation, it.partition, it.partitions), it.orphaned)).collect())
}

/// Generations that are being dropped.
pub(crate) async fn dropping(pool: &PgPool, projection: &str) -> Result<Vec<i32>, Error> {
    let found = sqlx::query_scalar!(
        "select generation from generations where projection = $1 and state = $2",
        projection,
        GenerationState::Dropping as _
    );
    Ok(found.fetch_all(pool).await?)
}

/// Removes a generation and its rows.
pub(crate) async fn drop_generation(
    pool: &PgPool,
    projection: &str,
    generation: i32,
) -> Result<(), Error> {
    let mut transaction =
        Transaction::begin_with(pool, "begin; set local lock_timeout = '500ms'").await?;
    lock(&mut transaction, projection).await?;
    point_views(&mut transaction, projection).await?;
    let drop = format!("drop schema if exists {projection}_g{generation} cascade");
    transaction.execute(AssertSqlSafe(drop)).await?;
    sqlx::query!(
        "delete from parked_events where projection = $1 and generation = $2",
        projection,
        generation
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "delete from generations where projection = $1 and generation = $2",
        projection,
        generation
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Counts the rows of a generation that was filled, as [`Projection::COUNTED`] says. The numbers of
/// partitions are only used together.
///
/// [`Projection::COUNTED`]: crate::Projection::COUNTED
pub(crate) async fn count_rows(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<(), Error> {
    let Some(column) = definition.counted else { return Ok(()) };
    let table = definition.table(generation);
    let sql = format!(
        "update checkpoints set counts = case partition when 0 then coalesce(
             (select jsonb_object_agg({column}, rows) from (
                 select {column}, count(*) as rows from {table}
                 where {column} is not null group by {column}) as counted), '{{}}') else '{{}}' end
         where projection = $1 and generation = $2"
    );
    let counted = sqlx::query(AssertSqlSafe(sql)).bind(definition.name).bind(generation);
    counted.execute(connection).await?;
    Ok(())
}

/// Gives up a generation that a rebuild of this kind is building, unless it was swapped in.
pub(crate) async fn let_go(
    definition: Definition,
    pool: &PgPool,
    generation: i32,
    kind: RebuildKind,
) -> Result<(), Error> {
    sqlx::query!(
        "update generations set state = $3
         where projection = $1 and generation = $2 and state = any($4)",
        definition.name,
        generation,
        kind.abandoned() as _,
        GenerationState::unfinished() as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The state of a generation of this version of the fold; `None` if there is no
/// such generation.
pub(crate) async fn state(
    definition: Definition,
    pool: &PgPool,
    generation: i32,
) -> Result<Option<GenerationState>, Error> {
    let state = sqlx::query_scalar!(
        r#"select state as "state: GenerationState" from generations
         where projection = $1 and generation = $2 and version = $3"#,
        definition.name,
        generation,
        definition.version
    );
    Ok(state.fetch_optional(pool).await?)
}

/// Has writers keep a generation level: its rows are loaded, or readers saw it
/// before.
///
/// # Errors
/// When another worker has dropped it meanwhile.
pub(crate) async fn catch_up(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
) -> Result<(), Error> {
    let next = GenerationState::CatchingUp;
    let moved = sqlx::query!(
        "update generations set state = $3
         where projection = $1 and generation = $2 and state = any($4)",
        definition.name,
        generation,
        next as _,
        next.predecessors() as _
    )
    .execute(connection)
    .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced(definition.name)) }
}

/// The generation that readers see.
pub(crate) struct Active {
    pub(crate) generation: i32,
    pub(crate) version: i32,
    pub(crate) partitions: i32,
}

/// The generation that readers see.
pub(crate) async fn active(definition: Definition, pool: &PgPool) -> Result<Active, Error> {
    let active = sqlx::query_as!(
        Active,
        "select generation, version, partitions from projections
         join generations on projection = name and generation = active_generation
         where name = $1",
        definition.name
    );
    Ok(active.fetch_one(pool).await?)
}

/// The next free generation number.
pub(crate) async fn next_number(
    definition: Definition,
    connection: &mut PgConnection,
) -> Result<i32, Error> {
    let next = sqlx::query_scalar!(
        r#"select max(generation) + 1 as "next!" from generations where projection = $1"#,
        definition.name
    );
    Ok(next.fetch_one(connection).await?)
}

/// Moves every checkpoint of a generation to a position.
pub(crate) async fn set_position(
    definition: Definition,
    connection: &mut PgConnection,
    generation: i32,
    position: u64,
) -> Result<(), Error> {
    sqlx::query!(
        "update checkpoints set position = $3 where projection = $1 and generation = $2",
        definition.name,
        generation,
        to_i64(position)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the rows of a generation that is being filled, and its parked events: those of some keys
/// if it was filled with others too.
pub(crate) async fn empty(
    definition: Definition,
    pool: &PgPool,
    generation: i32,
    only: Option<&HashSet<String>>,
) -> Result<(), Error> {
    let table = definition.table(generation);
    let Some(keys) = only else {
        pool.execute(AssertSqlSafe(format!("truncate {table}"))).await?;
        sqlx::query!(
            "delete from parked_events where projection = $1 and generation = $2",
            definition.name,
            generation
        )
        .execute(pool)
        .await?;
        return Ok(());
    };
    let keys: Vec<_> = keys.iter().cloned().collect();
    let delete = format!("delete from {table} where key = any($1)");
    sqlx::query(AssertSqlSafe(delete)).bind(&keys).execute(pool).await?;
    sqlx::query!(
        "delete from parked_events where projection = $1 and generation = $2 and key = any($3)",
        definition.name,
        generation,
        &keys
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Runs one of the statements that [`take_indexes`] gave.
pub(crate) async fn make_index(pool: &PgPool, statement: &str) -> Result<(), Error> {
    pool.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

/// Makes Postgres analyze a filled table, so that it plans reads well.
pub(crate) async fn analyze(
    definition: Definition,
    pool: &PgPool,
    generation: i32,
) -> Result<(), Error> {
    pool.execute(AssertSqlSafe(format!("analyze {}", definition.table(generation)))).await?;
    Ok(())
}

/// Reads any row of a generation, to measure how long readers wait now.
pub(crate) async fn probe(
    definition: Definition,
    pool: &PgPool,
    generation: i32,
    somewhere: &str,
) -> Result<(), Error> {
    let table = definition.table(generation);
    let sql = format!("select data from {table} where key > $1 order by key limit 1");
    sqlx::query(AssertSqlSafe(sql)).bind(somewhere).fetch_optional(pool).await?;
    Ok(())
}
