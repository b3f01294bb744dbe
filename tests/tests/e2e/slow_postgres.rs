//! A Postgres that answers slowly or not at all costs each reader a bounded time, and nobody else
//! anything; what it refuses because others were in the way is done again.

use crate::in_process::InProcess;
use exodrive_projections::Database;
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{Answer, Delivery, System, World, email_body, eventually};
use futures::future::join_all;
use reqwest::Method;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

/// More readers at a time than there are connections.
const READERS: usize = 40;
/// A reader waits a second for a connection, and then less for its row. A busy machine is slow, and
/// a request that nothing else ends is ended after 10 s.
const BOUND: Duration = Duration::from_secs(8);

async fn mail(system: &System, number: usize) {
    let id = format!("em-{number}");
    let body = email_body("sent", &id, "2026-11-20T09:00:00Z", "");
    system.stored(&Delivery::new(format!("msg_{number}"), body)).await;
}

async fn status(system: &System, path: &str) -> u16 {
    Answer::of(system.request(Method::GET, path)).await.unwrap().status
}

/// Reads a list again and again, until it is over; each answer says that the view is not available.
async fn read_in_vain(system: &System, over: &AtomicBool, refused: &AtomicUsize) {
    while !over.load(Ordering::Relaxed) {
        let read = system.get("/v1/inbox").await;
        read.problem(503, "view_unavailable");
        assert!(read.took < BOUND, "{:?}", read.took);
        refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_locked_table_are_sent_away_soon_and_nobody_else_is() {
    let world = InProcess::start().await;
    mail(&world, 1).await;
    world.settled().await;
    let mut locking = world.database().acquire().await.unwrap();
    let lock = "begin; lock table inbox_g1.inbox in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut *locking).await.unwrap();
    let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let readers = join_all((0..READERS).map(|_| read_in_vain(&world, &over, &refused)));
    let others = async {
        eventually("every connection has had a reader", async || {
            (refused.load(Ordering::Relaxed) >= READERS).then_some(())
        })
        .await;
        for _ in 0..5 {
            assert_eq!(status(&world, "/livez").await, 200);
            assert_eq!(status(&world, "/readyz").await, 200, "it has connections of its own");
            eventually("another list is read", async || {
                (world.get("/v1/audit/accesses").await.status == 200).then_some(())
            })
            .await;
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(readers, others);
    sqlx::raw_sql("rollback").execute(&mut *locking).await.unwrap();
    world.get("/v1/inbox").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_stands_still_bounds_its_readers_and_their_connections() {
    let world = World::start().await;
    mail(&world, 1).await;
    world.settled().await;
    world.get("/v1/inbox").await.expect(200);
    world.services.signal(Service::Postgres, Signal::SIGSTOP).unwrap();
    let stood = std::time::Instant::now();
    let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let readers = join_all((0..READERS).map(|_| async {
        while !over.load(Ordering::Relaxed) {
            let read = world.get("/v1/inbox").await;
            read.problem(503, "view_unavailable");
            refused.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let others = async {
        while refused.load(Ordering::Relaxed) < 2 * READERS || stood.elapsed().as_secs() < 5 {
            assert_eq!(status(&world, "/livez").await, 200);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // What does not need it goes on.
        mail(&world, 2).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(readers, others);
    world.services.signal(Service::Postgres, Signal::SIGCONT).unwrap();
    world.wait_until("ready").await;
    eventually("lists are read again", async || {
        (world.get("/v1/inbox").await.status == 200).then_some(())
    })
    .await;
    world.views_equal_a_fresh_fold().await;
    let sessions = "select count(*) from pg_stat_activity where application_name = 'exodrive serve'
                    and usename = 'exodrive_api'";
    let sessions: i64 = sqlx::query_scalar(sessions).fetch_one(world.database()).await.unwrap();
    assert!(sessions <= 24, "{sessions} connections");
}

#[tokio::test]
async fn a_transaction_that_met_another_is_made_again_and_nothing_counts_twice() {
    let world = InProcess::start().await;
    world.settled().await;
    let meet = "create sequence met;
        create function meet() returns trigger language plpgsql security definer as $$
        begin
            if nextval('public.met') <= 4 then
                raise exception using message = 'a test',
                    errcode = case currval('public.met') % 2 when 0 then '40P01' else '40001' end;
            end if;
            return new;
        end $$;
        create trigger meet before insert or update on inbox_g1.inbox
            for each row execute function meet();";
    sqlx::raw_sql(meet).execute(world.database()).await.unwrap();
    for number in 1..=20 {
        mail(&world, number).await;
    }
    world.views_equal_a_fresh_fold().await;
    let met: i64 =
        sqlx::query_scalar("select last_value from met").fetch_one(world.database()).await.unwrap();
    assert!(met > 4, "it has met others: {met}");
}

#[tokio::test]
async fn a_migration_gives_up_a_lock_that_it_does_not_get_and_tries_again() {
    let world = InProcess::start().await;
    let mut locking = world.database().acquire().await.unwrap();
    let lock = "begin; lock table _sqlx_migrations in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut *locking).await.unwrap();
    // Each attempt has a connection of its own.
    let mut attempts = BTreeSet::new();
    let tried_twice = eventually("it has tried twice", async || {
        let waiting = "select pid from pg_locks where not granted
                       and relation = '_sqlx_migrations'::regclass";
        let waiting: Vec<i32> =
            sqlx::query_scalar(waiting).fetch_all(world.database()).await.unwrap();
        attempts.extend(waiting);
        (attempts.len() >= 2).then_some(())
    });
    let unlocked = async {
        tried_twice.await;
        sqlx::raw_sql("rollback").execute(&mut *locking).await.unwrap();
    };
    let (migrated, ()) = tokio::join!(Database::migrate(&world.urls().database_operator), unlocked);
    migrated.unwrap();
}
