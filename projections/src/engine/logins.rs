//! What the logins of the API and the workers may do, and the objects that each must own.

use super::database::Database;
use crate::Error;
use sqlx::{AssertSqlSafe, PgConnection};

/// A login of the database, and the most that it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// May become a role that reads, and do nothing else.
    Api,
    /// Owns the generations of projections, and writes the engine's tables.
    Worker,
}

impl Login {
    /// Roles that it may become.
    fn roles(self) -> Vec<String> {
        let own = match self {
            Self::Api => "exodrive_api",
            Self::Worker => "exodrive_worker",
        };
        ["exodrive_reader", "exodrive_staff", own].map(str::to_owned).into()
    }
}

/// What no login of a part may do. $1: roles that it may become.
const ANY: &str = "
    select array_remove(array[
        case when rolsuper then 'is a superuser' end,
        case when rolbypassrls then 'bypasses row-level security' end,
        case when rolcreaterole then 'may make roles' end,
        case when rolcreatedb then 'may make databases' end,
        case when rolreplication then 'may replicate' end,
        (select 'owns the database' from pg_database
         where datname = current_database() and datdba = me.oid),
        (select 'may become ' || string_agg(rolname, ', ' order by rolname) from pg_roles as other
         where not me.rolsuper and other.oid <> me.oid and rolname <> all($1)
           and pg_has_role(me.oid, other.oid, 'member'))
    ], null)
    from pg_roles as me where rolname = session_user";

/// What the worker's login may not do beside that: own the engine's tables.
const WORKER: &str = "
    select array_remove(array[
        (select 'owns ' || string_agg(relname, ', ' order by relname)
         from pg_class join pg_namespace on pg_namespace.oid = relnamespace
         where relkind = 'r' and nspname = 'public' and relowner = me.oid)
    ], null)
    from pg_roles as me where rolname = session_user";

/// What the API's login may not do beside that, by itself or as a role that it may become.
const API: &str = "
    with able as (
        select oid from pg_roles where rolname = session_user
            or rolname in ('exodrive_reader', 'exodrive_staff')),
    schemas as (
        select * from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
    relations as (
        select pg_class.* from pg_class join schemas on schemas.oid = relnamespace
        where relkind in ('r', 'p', 'v', 'm', 'f'))
    select array_remove(array[
        (select 'owns ' || string_agg(oid::regclass::text, ', ' order by oid) from relations
         where relowner in (select oid from able)),
        (select 'owns the schemas ' || string_agg(nspname, ', ' order by oid) from schemas
         where nspowner in (select oid from able)),
        (select 'owns functions' where exists (
            select from pg_proc where proowner in (select oid from able))),
        (select 'may make schemas' where exists (
            select from able where has_database_privilege(oid, current_database(), 'create'))),
        (select 'may make tables in ' || string_agg(nspname, ', ' order by oid) from schemas
         where exists (select from able where has_schema_privilege(able.oid, schemas.oid, 'create'))),
        (select 'may write ' || string_agg(oid::regclass::text, ', ' order by oid) from relations
         where exists (select from able where has_table_privilege(
            able.oid, relations.oid, 'insert, update, delete, truncate, references, trigger')))
    ], null)";

impl Database {
    /// What the login of this database may do beyond what it should; nothing if it is as it must be.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn excess_of(&self, login: Login) -> Result<Vec<String>, Error> {
        let found = sqlx::query_scalar(ANY).bind(login.roles()).fetch_one(self.pool()).await?;
        let mut found: Vec<String> = found;
        // A superuser may do all the rest.
        if found.is_empty() {
            let own = match login {
                Login::Api => API,
                Login::Worker => WORKER,
            };
            found = sqlx::query_scalar(own).fetch_one(self.pool()).await?;
        }
        Ok(found)
    }

    /// Generations and views that do not belong to the workers' role: a worker of an older release
    /// made them, and workers of this one cannot change them. The next migration hands them over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn not_of_workers(&self) -> Result<Vec<String>, Error> {
        let found: Vec<(String, String)> =
            sqlx::query_as(NOT_OF_WORKERS).fetch_all(self.pool()).await?;
        Ok(found.into_iter().map(|(what, _)| what).collect())
    }
}

/// Each object that is a worker's to change, and is not the worker's role's; with the statements
/// that make it so.
const NOT_OF_WORKERS: &str = r"
    with worker as (select oid from pg_roles where rolname = 'exodrive_worker'),
    schemas as (select * from pg_namespace where nspname ~ '^(release_[0-9a-f]{10}|[a-z_]+_g[0-9]+)$')
    select what, statement from (
        select 'schema ' || nspname as what, 1 as turn,
            format('alter schema %I owner to exodrive_worker', nspname) as statement
        from schemas where nspowner not in (select oid from worker)
        union all
        select 'table ' || pg_class.oid::regclass, 2,
            format('alter table %s owner to exodrive_worker', pg_class.oid::regclass)
                || (select coalesce(string_agg(format('; alter policy owner on %s to exodrive_worker',
                        polrelid::regclass), ''), '') from pg_policy
                    where polrelid = pg_class.oid and polname = 'owner')
        from pg_class join schemas on schemas.oid = relnamespace
        where relkind = 'r' and relowner not in (select oid from worker)
        union all
        select 'view ' || pg_class.oid::regclass, 3,
            format('alter view %s owner to exodrive_worker', pg_class.oid::regclass)
        from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        where relkind = 'v' and relowner not in (select oid from worker)
          and (nspname ~ '^release_[0-9a-f]{10}$'
            or nspname = 'public' and relname in (select name from projections))
        union all
        select 'function ' || pg_proc.oid::regprocedure, 4,
            format('alter function %s owner to exodrive_worker', pg_proc.oid::regprocedure)
        from pg_proc join schemas on schemas.oid = pronamespace
        where proowner not in (select oid from worker)
    ) as found order by turn, what";

/// Lets the workers write each of the engine's tables, and read which migrations were applied. So
/// no migration has to remember it.
const GRANTS: &str = "
    select string_agg(case relname
            when '_sqlx_migrations' then 'grant select on public._sqlx_migrations to exodrive_worker'
            else format('grant select, insert, update, delete on %s to exodrive_worker',
                pg_class.oid::regclass) end, '; ')
    from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where relkind = 'r' and nspname = 'public'
      and pg_has_role(session_user, relowner, 'usage')
      and not has_table_privilege('exodrive_worker', pg_class.oid,
          case relname when '_sqlx_migrations' then 'select' else 'delete' end)";

/// Gives the workers' role what is its own, by the login that migrates.
///
/// # Errors
/// When the database does not answer, or the login may not do so.
pub(super) async fn hand_over(connection: &mut PgConnection) -> Result<(), Error> {
    let grants: Option<String> = sqlx::query_scalar(GRANTS).fetch_one(&mut *connection).await?;
    if let Some(grants) = grants {
        sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut *connection).await?;
    }
    let found: Vec<(String, String)> =
        sqlx::query_as(NOT_OF_WORKERS).fetch_all(&mut *connection).await?;
    for (_, statements) in found {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *connection).await?;
    }
    Ok(())
}
