//! Connections that are dead without either side knowing it: a network has forgotten them, and
//! answers nothing.

use crate::{in_process::InProcess, rebuild::post_many};
use exodrive_projections::{Database, Error};
use exodrive_runtime::services::Service;
use exodrive_tests::{
    API, Answer, Delivery, Exposed, Proxy, System, WORKER, email_body, eventually, within,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::Value;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

const POSTERS: usize = 2;
const READERS: usize = 2;
/// The time between two requests of each.
const BREATH: Duration = Duration::from_millis(50);
/// The time after which everything works again.
const LIMIT: Duration = Duration::from_secs(30);

fn delivery(n: usize) -> Delivery {
    let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", "");
    Delivery::new(format!("msg_{n}"), body)
}

/// Posts and reads until `done`, so that every connection is in use when it dies.
async fn load(exposed: &Exposed, next: &AtomicUsize, done: &AtomicBool) {
    let world = &exposed.world;
    let post = async || {
        while !done.load(Ordering::Relaxed) {
            let delivery = delivery(next.fetch_add(1, Ordering::Relaxed));
            let _ = Answer::of(world.delivery(&delivery).timeout(LIMIT)).await;
            tokio::time::sleep(BREATH).await;
        }
    };
    let read = async || {
        while !done.load(Ordering::Relaxed) {
            let request = world.request(Method::GET, "/v1/inbox?limit=5");
            let _ = Answer::of(request.bearer_auth(world.token("auditor")).timeout(LIMIT)).await;
            tokio::time::sleep(BREATH).await;
        }
    };
    tokio::join!(join_all((0..POSTERS).map(|_| post())), join_all((0..READERS).map(|_| read())));
}

/// A delivery is taken, everybody can read it, also from the cache, and the system is ready.
async fn works(exposed: &Exposed, n: usize) -> Result<(), String> {
    let world = &exposed.world;
    let brief = Duration::from_secs(5);
    let seen = async |request: reqwest::RequestBuilder| {
        let request = request.bearer_auth(world.token("auditor")).timeout(brief);
        Answer::of(request).await.map_err(|error| error.to_string())
    };
    let taken = Answer::of(world.delivery(&delivery(n)).timeout(brief)).await;
    let taken = taken.map_err(|error| error.to_string())?;
    if taken.status != 200 {
        return Err(format!("webhook {}", taken.status));
    }
    let position = taken.json()["position"].to_string();
    let email = || world.request(Method::GET, &format!("/v1/inbox/em-{n}"));
    let read = seen(email().header("exodrive-min-position", position)).await?;
    // The worker publishes it just after.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let cached = seen(email()).await?;
    let listed = seen(world.request(Method::GET, "/v1/inbox?limit=5")).await?;
    let ready = seen(world.request_to(API, Method::GET, "/readyz")).await?;
    let state = ready.json()["status"].clone();
    let fresh = cached.headers.get("x-cache").is_some_and(|it| it != "MISS");
    let all = read.status == 200 && fresh && listed.status == 200 && state == "ready";
    all.then_some(()).ok_or_else(|| {
        let (read, listed) = (read.status, listed.status);
        format!("view {read}, cached {fresh}, list {listed}, {}", ready.json())
    })
}

#[tokio::test]
async fn dead_connections_to_any_server_are_noticed_within_30_s() {
    let exposed = Exposed::start().await;
    for (n, service) in Service::ALL.into_iter().enumerate() {
        let (next, done) = (AtomicUsize::new(n * 1_000_000), AtomicBool::new(false));
        let dying = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            exposed.ways_to(service).into_iter().for_each(Proxy::forget);
            let began = Instant::now();
            // Two seconds later all that was sent before has arrived or not.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let what = format!("everything works again after dead connections to {service}");
            let mut tries = n * 1_000_000 + 500_000;
            within(LIMIT, &what, async || {
                tries += 1;
                works(&exposed, tries).await
            })
            .await;
            println!("{service}: {:.1?}", began.elapsed());
            done.store(true, Ordering::Relaxed);
        };
        tokio::join!(load(&exposed, &next, &done), dying);
    }
    exposed.world.views_equal_a_fresh_fold().await;
    exposed.is_calm().await;
}

/// Waits until a session waits for a lock in a statement like `statement`. Forgets what is on these
/// ways then, and ends the lock: the statement goes on, and its answer arrives nowhere.
async fn die_while_waiting(system: &System, lock: &str, statement: &str, ways: &[&Proxy]) {
    let mut locking = system.database().acquire().await.unwrap();
    let begin = sqlx::AssertSqlSafe(format!("begin; lock table {lock}"));
    sqlx::raw_sql(begin).execute(&mut *locking).await.unwrap();
    eventually(&format!("a statement waits: {statement}"), async || {
        let waiting = "select count(*) from pg_stat_activity
                       where wait_event_type = 'Lock' and query like $1 and state = 'active'";
        let waiting = sqlx::query_scalar(waiting).bind(statement).fetch_one(system.database());
        let waiting: i64 = waiting.await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    ways.iter().for_each(|way| way.forget());
    sqlx::raw_sql("rollback").execute(&mut *locking).await.unwrap();
}

/// The number of sessions that a work has, by the names that it gives them.
async fn sessions(system: &System, work: &str) -> i64 {
    let sql = "select count(*) from pg_stat_activity where application_name like $1";
    let name = format!("exodrive {work} %");
    sqlx::query_scalar(sql).bind(name).fetch_one(system.database()).await.unwrap()
}

#[tokio::test]
async fn a_rebuild_whose_connections_die_goes_on_with_others_and_so_does_who_watches_it() {
    let mut exposed = Exposed::start().await;
    let urls = exposed.world.urls().clone();
    let watching = Proxy::start(&urls.database_worker).await;
    exposed.world.set("EXODRIVE_DATABASE_WORKER_URL", &watching.url(&urls.database_worker));
    let world = &exposed.world;
    post_many(world, 0, 60).await;
    world.settled().await;
    let ways = [exposed.worker.to_service(Service::Postgres), &watching];
    let dying = die_while_waiting(
        world,
        "inbox_g1.inbox in access exclusive mode",
        "%jsonb_hash_extended%",
        &ways,
    );
    let began = Instant::now();
    let args = ["projections", "rebuild", "inbox", "--reason=a test", "--json"];
    let rebuilt = world.exodrive_prints_within(3 * LIMIT, &args);
    let (rebuilt, ()) = tokio::join!(rebuilt, dying);
    println!("rebuilt after {:.1?}", began.elapsed());
    let rebuilt: Value = serde_json::from_str(&rebuilt).unwrap();
    assert_eq!(rebuilt["state"], "done", "{rebuilt}");
    let printed = world.printed(WORKER);
    assert!(printed.contains("A connection to Postgres is dead"), "{printed}");
    let swaps = "select swaps from projections where name = 'inbox'";
    let swaps: i64 = sqlx::query_scalar(swaps).fetch_one(world.database()).await.unwrap();
    assert_eq!(swaps, 1, "it is swapped in once");
    eventually("no session is left of the rebuild", async || {
        let left = sessions(world, "rebuild").await;
        (left == 0).then_some(()).ok_or(left)
    })
    .await;
    world.views_equal_a_fresh_fold().await;
    exposed.is_calm().await;
}

#[tokio::test]
async fn an_erasure_whose_connections_die_goes_on_with_others() {
    const ADDRESS: &str = "dead.connection@example.com";
    let exposed = Exposed::start().await;
    let world = &exposed.world;
    for n in 0..5 {
        let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", "");
        let body = body.replace("guest@example.com", ADDRESS);
        world.stored(&Delivery::new(format!("msg_{n}"), body)).await;
    }
    world.settled().await;
    let asked = ["audit", "erase", "--email-address", ADDRESS, "--reason=a test", "--json"];
    let asked: Value = serde_json::from_str(&world.exodrive_prints(&asked).await).unwrap();
    let id = asked["id"].as_str().unwrap();
    let ways = [exposed.worker.to_service(Service::Postgres)];
    let dying =
        die_while_waiting(world, "erasures in exclusive mode", "insert into erasures%", &ways);
    let began = Instant::now();
    let approve = ["audit", "approve", id, "--single-handed", "--json"];
    let erased = world.exodrive_prints_within(3 * LIMIT, &approve);
    let (erased, ()) = tokio::join!(erased, dying);
    println!("erased after {:.1?}", began.elapsed());
    let erased: Value = serde_json::from_str(&erased).unwrap();
    assert_eq!(erased["status"], "completed", "{erased}");
    let printed = world.printed(WORKER);
    assert!(printed.contains("A connection to Postgres is dead"), "{printed}");
    let events = world.views_equal_a_fresh_fold().await;
    for step in ["started", "completed"] {
        let steps =
            events.iter().filter(|event| event.envelope.kind == format!("exodrive.erasure.{step}"));
        assert_eq!(steps.count(), 1, "{step} once");
    }
    for (key, (_, row)) in world.rows("inbox").await {
        assert!(!row.to_string().contains(ADDRESS), "{key}: {row}");
    }
    exposed.is_calm().await;
}

/// Executes a statement as a work of its own, which takes as long as it takes.
async fn work(database: &Database, statement: &'static str) -> Result<(), Error> {
    let apart = database.apart("test");
    apart
        .run(async {
            let mut connection = apart.database().pool().acquire().await?;
            sqlx::query(statement).execute(&mut *connection).await?;
            Ok(())
        })
        .await
}

#[tokio::test]
async fn long_work_on_postgres_is_ended_only_if_its_connection_is_dead() {
    let world = InProcess::start().await;
    let url = &world.urls().database_worker;
    let (healthy, dead) = (Database::for_workers(url).unwrap(), Proxy::start(url).await);
    let dying = Database::for_workers(&dead.url(url)).unwrap();
    let began = Instant::now();
    let forgotten = async {
        eventually("both statements are executed", async || {
            (sessions(&world, "test").await == 2).then_some(())
        })
        .await;
        dead.forget();
    };
    let (long, lost, ()) = tokio::join!(
        // Twice the time after which a dead connection is noticed.
        work(&healthy, "select pg_sleep(45)"),
        async {
            let lost = work(&dying, "select pg_sleep(3)").await;
            (lost, began.elapsed())
        },
        forgotten
    );
    long.unwrap();
    let (lost, noticed) = lost;
    assert!(matches!(&lost, Err(Error::Database(sqlx::Error::Io(_)))), "{lost:?}");
    println!("noticed after {noticed:.1?}");
    eventually("the server has ended its session", async || {
        let left = sessions(&world, "test").await;
        (left == 0).then_some(()).ok_or(left)
    })
    .await;
}
