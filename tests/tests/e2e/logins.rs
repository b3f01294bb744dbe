//! The logins of Postgres: none may do more than its process needs.

use crate::in_process::InProcess;
use exodrive_projections::Database;
use exodrive_tests::{API, Delivery, System, WORKER, World, email_body, run};
use sqlx::{Connection, Executor, PgConnection, PgPool, Row};
use std::collections::BTreeSet;

/// Every table and view, with its schema.
async fn relations(database: &PgPool) -> Vec<(String, String, String)> {
    let sql = "select nspname::text, relname::text, relkind::text from pg_class
               join pg_namespace on pg_namespace.oid = relnamespace
               where relkind in ('r', 'v') and nspname !~ '^pg_' and nspname <> 'information_schema'
               order by 1, 2";
    sqlx::query_as(sql).fetch_all(database).await.unwrap()
}

async fn mail(system: &System, number: u32) {
    let id = format!("em-{number}");
    let body = email_body("sent", &id, "2026-11-20T09:00:00Z", "");
    system.stored(&Delivery::new(format!("msg_{number}"), body)).await;
    system.settled().await;
}

/// SQLSTATE of the refusal of a statement.
async fn refused(connection: &mut PgConnection, sql: &str) -> String {
    match sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await {
        Ok(_) => panic!("{sql} is not refused"),
        Err(error) => error.as_database_error().unwrap().code().unwrap().into_owned(),
    }
}

const DENIED: &str = "42501";

#[tokio::test]
async fn the_apis_login_by_itself_reads_nothing_and_changes_nothing() {
    let world = InProcess::start().await;
    mail(&world, 1).await;
    let mut api = PgConnection::connect(&world.urls().database).await.unwrap();
    // As the API does with its connections, and then as somebody would who can have it send any
    // statement.
    api.execute("set role exodrive_reader").await.unwrap();
    api.execute("reset role").await.unwrap();
    for (schema, name, _) in relations(world.database()).await {
        assert_eq!(refused(&mut api, &format!("select from {schema}.{name}")).await, DENIED);
    }
    for sql in [
        "set role exodrive_worker",
        "set role exodrive_migrate",
        "set session authorization exodrive_worker",
        "create schema mine",
        "create table public.mine (n int)",
        "create temporary table mine (n int)",
        "create function public.mine() returns int language sql as 'select 1'",
        "alter role exodrive_api inherit",
        "delete from inbox_g1.inbox",
    ] {
        assert_eq!(refused(&mut api, sql).await, DENIED, "{sql}");
    }
    for role in ["exodrive_reader", "exodrive_staff"] {
        api.execute(sqlx::AssertSqlSafe(format!("set role {role}"))).await.unwrap();
        for sql in [
            "insert into operations values (true, 1)",
            "update checkpoints set position = 0",
            "delete from inbox_g1.inbox",
            "truncate inbox_g1.inbox",
            "create table public.mine (n int)",
            "create temporary table mine (n int)",
        ] {
            assert_eq!(refused(&mut api, sql).await, DENIED, "{sql} as {role}");
        }
    }
}

/// Parked and skipped events and rebuilds quote keys and what is wrong with events.
#[tokio::test]
async fn bookkeeping_that_quotes_events_is_read_with_an_operators_identity_only() {
    let world = InProcess::start().await;
    let rows = "insert into parked_events (projection, generation, key, position, error)
                    values ('accesses', 9, 'somebody', 1, 'a reason');
                insert into skipped_events (projection, key, position, actor, reason)
                    values ('accesses', 'somebody', 1, 'operator', 'a test');
                insert into rebuilds (id, projection, kind, version, actor, reason, state)
                    values ('00000000-0000-0000-0000-000000000001', 'accesses', 'rebuild', 1,
                            'operator', 'a test', 'cancelled');";
    sqlx::raw_sql(rows).execute(world.database()).await.unwrap();
    let mut api = PgConnection::connect(&world.urls().database).await.unwrap();
    for role in ["exodrive_reader", "exodrive_staff"] {
        for identity in ["", "public", "guest", "customer", "auditor", "admin", "operator"] {
            api.execute(sqlx::AssertSqlSafe(format!("set role {role}"))).await.unwrap();
            sqlx::query("select set_config('exodrive.identity', $1, false)")
                .bind(identity)
                .execute(&mut api)
                .await
                .unwrap();
            for table in ["parked_events", "skipped_events", "rebuilds"] {
                let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
                let count: i64 = sqlx::query_scalar(count).fetch_one(&mut api).await.unwrap();
                let expected = i64::from(identity == "operator");
                assert_eq!(count, expected, "{table} as {role} with identity {identity:?}");
            }
        }
    }
    // The operator's own answers have them.
    let listed = world.get_as("operator", "/v1/operator/rebuilds").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test]
async fn each_role_has_the_privileges_of_its_work_and_no_more() {
    let world = InProcess::start().await;
    let privileges = ["select", "insert", "update", "delete", "truncate", "references", "trigger"];
    for (schema, name, kind) in relations(world.database()).await {
        let sql = "select pg_get_userbyid(relowner)::text, pg_class.oid::int8
                   from pg_class where oid = format('%I.%I', $1, $2)::regclass";
        let (owner, oid): (String, i64) = sqlx::query_as(sql)
            .bind(&schema)
            .bind(&name)
            .fetch_one(world.database())
            .await
            .unwrap();
        let of = async |role: &str| {
            let mut held = BTreeSet::new();
            for privilege in privileges {
                let sql = "select has_table_privilege($1, $2::oid, $3)";
                let has: bool = sqlx::query_scalar(sql)
                    .bind(role)
                    .bind(sqlx::postgres::types::Oid(oid.try_into().unwrap()))
                    .bind(privilege)
                    .fetch_one(world.database())
                    .await
                    .unwrap();
                if has {
                    held.insert(privilege);
                }
            }
            held
        };
        // The reading roles read, and the API's login by itself does not even that.
        assert!(of("exodrive_reader").await.iter().all(|it| *it == "select"), "{schema}.{name}");
        assert!(of("exodrive_staff").await.iter().all(|it| *it == "select"), "{schema}.{name}");
        assert_eq!(of("exodrive_api").await, BTreeSet::new(), "{schema}.{name}");
        let worker = of("exodrive_worker").await;
        let bookkeeping = schema == "public" && kind == "r";
        if !bookkeeping {
            assert_eq!(owner, "exodrive_worker", "{schema}.{name}");
        } else {
            assert_eq!(owner, "exodrive_migrate", "{schema}.{name}");
            let work: &[&str] = match name.as_str() {
                "_sqlx_migrations" => &["select"],
                _ => &["select", "insert", "update", "delete"],
            };
            assert_eq!(worker, work.iter().copied().collect(), "{schema}.{name}");
        }
    }
    let roles = "select rolname::text, rolsuper or rolbypassrls or rolcreaterole or rolcreatedb
                     or rolreplication,
                     has_database_privilege(rolname, current_database(), 'create'),
                     has_database_privilege(rolname, current_database(), 'temporary')
                 from pg_roles where rolname in ('exodrive_api', 'exodrive_worker')
                 order by rolname";
    let roles: Vec<(String, bool, bool, bool)> =
        sqlx::query_as(roles).fetch_all(world.database()).await.unwrap();
    assert_eq!(
        roles,
        [
            ("exodrive_api".to_owned(), false, false, false),
            ("exodrive_worker".to_owned(), false, true, false)
        ]
    );
}

#[tokio::test]
async fn a_start_with_a_login_that_may_do_more_than_it_should_is_refused() {
    let world = InProcess::start().await;
    let own = "do $$ begin
                   create role exodrive_too_mighty login password 'of a test' bypassrls createdb;
               exception when duplicate_object or unique_violation then null; end $$;
               grant exodrive_staff, exodrive_worker to exodrive_too_mighty";
    sqlx::raw_sql(own).execute(world.database()).await.unwrap();
    let urls = world.urls().clone();
    let (_, server) = urls.database.rsplit_once('@').unwrap();
    let mighty = format!("postgres://exodrive_too_mighty:of%20a%20test@{server}");
    let serve = ("serve", "EXODRIVE_DATABASE_URL");
    let work = ("work", "EXODRIVE_DATABASE_WORKER_URL");
    for ((command, variable), url, reasons) in [
        (serve, world.superuser(), &["is a superuser"][..]),
        (serve, &urls.database_operator, &["owns the database", "exodrive_worker"]),
        (serve, &urls.database_worker, &["owns ", "may make schemas", "may write "]),
        (serve, &mighty, &["bypasses row-level security", "may make databases", "exodrive_worker"]),
        (work, world.superuser(), &["is a superuser"]),
        (work, &urls.database_operator, &["owns the database"]),
        (work, &mighty, &["bypasses row-level security"]),
    ] {
        let mut env = world.env().to_vec();
        env.push((variable.to_owned(), url.to_owned()));
        let done = run(&[command], &env).await;
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success(), "{command}");
        assert!(said.contains(&format!("the login {variable} ")), "{command}: {said}");
        assert!(reasons.iter().all(|reason| said.contains(reason)), "{command}: {said}");
        assert!(!said.contains(url), "{said}");
        let doctor = run(&["doctor"], &env).await;
        let found = String::from_utf8_lossy(&doctor.stdout);
        assert!(!doctor.status.success() && found.contains(reasons[0]), "{found}");
    }
}

/// A database in which one login owned everything, as before there were several.
#[tokio::test]
async fn a_database_of_one_login_is_handed_over_and_goes_on() {
    let world = World::start().await;
    mail(&world, 1).await;
    world.kill(API);
    world.kill(WORKER);
    let older = "do $$
        declare it record;
        begin
            for it in
                select 'schema' as kind, nspname::text as name from pg_namespace
                where nspname ~ '_g[0-9]+$' or nspname ~ '^release_'
                union all
                select case relkind when 'v' then 'view' else 'table' end, pg_class.oid::regclass::text
                from pg_class join pg_namespace on pg_namespace.oid = relnamespace
                where relkind in ('r', 'v') and nspname !~ '^pg_' and nspname <> 'information_schema'
                union all
                select 'function', pg_proc.oid::regprocedure::text from pg_proc
                where pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
            loop
                execute format('alter %s %s owner to exodrive', it.kind, it.name);
            end loop;
            for it in select polrelid::regclass::text as name from pg_policy where polname = 'owner'
            loop
                execute format('alter policy owner on %s to exodrive', it.name);
            end loop;
            alter database exodrive owner to exodrive;
            grant temporary on database exodrive to public;
            revoke create on database exodrive from exodrive_worker;
        end $$";
    sqlx::raw_sql(older).execute(world.database()).await.unwrap();
    let doctor = world.exodrive(&["doctor"]).await;
    let found = String::from_utf8_lossy(&doctor.stdout);
    assert!(found.contains("do not belong to exodrive_worker"), "{found}");

    let roles = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/postgres.sql");
    let roles = std::fs::read_to_string(roles).unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(roles)).execute(world.database()).await.unwrap();
    world.migrate().await;
    world.start_api();
    world.start_worker(WORKER);
    world.wait_until("ready").await;
    mail(&world, 2).await;
    let rebuilt = world.exodrive(&["projections", "rebuild", "inbox", "--reason", "a test"]).await;
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    world.views_equal_a_fresh_fold().await;
    let database = Database::for_workers(&world.urls().database_worker).unwrap();
    assert_eq!(database.not_of_workers().await.unwrap(), Vec::<String>::new());
    let temporary = "select has_database_privilege('exodrive_api', 'exodrive', 'temporary')";
    let temporary = sqlx::query(temporary).fetch_one(world.database()).await.unwrap();
    assert!(!temporary.get::<bool, _>(0));
}
