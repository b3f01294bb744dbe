//! Rows that are folded again in every generation, as after an erasure:
//! whatever is wrong in them becomes right, in Redis and in every process too,
//! while everything runs.

use crate::in_process::InProcess;
use crate::rebuild::{at_rest, is_verified, post_many, rebuild};
use exodrive_projections::{Database, engine::store::RefoldsLeft};
use exodrive_runtime::services::Service;
use exodrive_tests::{
    Answer, Delivery, System, WORKER, World, day, email_body, eventually, fold_by_name, rounds,
};
use nix::sys::signal::Signal;
use rand::RngExt;
use redis::AsyncCommands;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, types::Uuid};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Text that must be nowhere afterwards.
const CANARY: &str = "canary.person";

async fn sql(world: &System, sql: &str) -> u64 {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::query(sql).execute(world.database()).await.unwrap().rows_affected()
}

async fn redis(world: &System) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(world.redis()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Every table of rows.
async fn tables(world: &System) -> Vec<(String, i32)> {
    let sql = "select projection, generation from generations where state <> 'dropping'";
    sqlx::query_as(sql).fetch_all(world.database()).await.unwrap()
}

/// Writes the canary into rows, in every generation and in Redis; their
/// positions stay.
async fn forge(world: &System, rows: &[(&str, Vec<String>)]) {
    for (projection, generation) in tables(world).await {
        let own = rows.iter().filter(|(name, _)| *name == projection);
        for key in own.flat_map(|(_, keys)| keys) {
            let (field, value) = match projection.as_str() {
                "inbox" | "bookings" | "customers" => ("search", json!(CANARY)),
                "email_timeline" => ("recipients", json!([CANARY])),
                "deliveries" => ("sha256", json!(CANARY)),
                _ => ("summary", json!(CANARY)),
            };
            let change = format!(
                "update {projection}_g{generation}.{projection}
                 set data = jsonb_set(data, '{{{field}}}', '{value}') where key = '{key}'"
            );
            assert_eq!(sql(world, &change).await, 1, "{change}");
            let mut redis = redis(world).await;
            let name = format!("exo:view:{projection}:{generation}:{key}");
            let value: Option<String> = redis.get(&name).await.unwrap();
            if let Some(value) = value {
                let forged = value.replace("Your booking", CANARY);
                assert!(forged.contains(CANARY), "{value}");
                let () = redis.set(&name, forged).await.unwrap();
                let notice = format!("{generation}\n{key}");
                let () =
                    redis.publish(format!("exo:changes:0:{projection}"), notice).await.unwrap();
            }
        }
    }
}

/// Places that hold the canary.
async fn canaries(world: &System) -> Vec<String> {
    let mut found = Vec::new();
    for (projection, generation) in tables(world).await {
        let table = format!("{projection}_g{generation}.{projection}");
        let find = format!("select key from {table} where data::text like '%{CANARY}%'");
        let keys: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(find)).fetch_all(world.database()).await.unwrap();
        found.extend(keys.into_iter().map(|key| format!("{table} {key}")));
    }
    let mut redis = redis(world).await;
    let names: Vec<String> = redis.keys("exo:view:*").await.unwrap();
    for name in names {
        let value: Option<String> = redis.get(&name).await.unwrap();
        if value.is_some_and(|value| value.contains(CANARY)) {
            found.push(name);
        }
    }
    found
}

struct RefoldRequest {
    database: Database,
    id: Uuid,
}

impl RefoldRequest {
    async fn make(world: &System, rows: &[(&str, Vec<String>)], parked: &[u64]) -> Self {
        let database = Database::for_workers(&world.urls().database_worker).unwrap();
        let id = Uuid::now_v7();
        let end = world.log().await.last_position().await.unwrap();
        database.request_refolds(id, end, rows, parked).await.unwrap();
        Self { database, id }
    }

    async fn left(&self) -> Vec<RefoldsLeft> {
        self.database.refolds_left(self.id).await.unwrap()
    }

    async fn is_met(&self, world: &System) {
        eventually("every row is folded again", async || {
            let left = self.left().await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        assert_eq!(canaries(world).await, Vec::<String>::new());
    }
}

fn of_email(email: &str) -> Vec<(&'static str, Vec<String>)> {
    vec![("inbox", vec![email.to_owned()])]
}

/// All keys of a view with a prefix.
async fn keys(world: &System, view: &str, prefix: &str) -> Vec<String> {
    let rows = world.rows(view).await;
    rows.into_keys().filter(|key| key.starts_with(prefix)).collect()
}

#[tokio::test]
async fn every_generation_redis_and_every_process_forget_while_events_flow() {
    let world = World::start().await;
    post_many(&world, 0, 100).await;
    let car = world.admin().add_car("refolded", 10_000).await;
    world.visitor().booked(&car, day(10), day(14)).await;
    world.visitor().booked(&car, day(20), day(24)).await;
    world.settled().await;
    for name in ["inbox", "deliveries", "bookings"] {
        assert_eq!(rebuild(&world, &[name]).await["state"], "done");
    }
    at_rest(&world).await;
    world.exodrive_prints(&["projections", "pause", "email_timeline", "--reason", "a test"]).await;
    let rows = [
        ("inbox", vec!["em-3".to_owned(), "em-7".to_owned()]),
        ("email_timeline", keys(&world, "email_timeline", "em-3/").await),
        ("deliveries", vec!["msg_15".to_owned(), "msg_16".to_owned()]),
        ("bookings", keys(&world, "bookings", "").await),
        ("customers", keys(&world, "customers", "").await),
        ("booking_timeline", keys(&world, "booking_timeline", "").await),
    ];
    eventually("the projection is paused", async || {
        let printed = world.exodrive_prints(&["projections", "status", "--json"]).await;
        let status: Value = serde_json::from_str(&printed).unwrap();
        let own = status.as_array().unwrap().iter().find(|it| it["name"] == "email_timeline");
        (own.unwrap()["state"] == "paused").then_some(())
    })
    .await;
    forge(&world, &rows).await;
    let forged = eventually("a process keeps the canary in memory", async || {
        let answer = world.get("/v1/inbox/em-7").await;
        let saved = answer.header("x-cache") == "L1";
        (saved && String::from_utf8_lossy(&answer.body).contains(CANARY)).then_some(answer)
    })
    .await;

    let stop = AtomicBool::new(false);
    let flow = async {
        let mut n = 100;
        while !stop.load(Ordering::Relaxed) {
            // Events of all emails but em-7, the position of which stays.
            let email = format!("em-{}", n % 7);
            let body = email_body("opened", &email, "2026-11-20T10:00:00Z", "");
            world.stored(&Delivery::new(format!("flow_{n}"), body)).await;
            n += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let refold = async {
        let request = RefoldRequest::make(&world, &rows, &[]).await;
        assert!(!request.left().await.is_empty());
        request.is_met(&world).await;
        // A second request under the same id does nothing.
        let end = world.log().await.last_position().await.unwrap();
        request.database.request_refolds(request.id, end, &rows, &[]).await.unwrap();
        assert_eq!(request.left().await, []);
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(flow, refold);

    let request = world.request(Method::GET, "/v1/inbox/em-7").bearer_auth(world.token("auditor"));
    let request = request.header("if-none-match", forged.header("etag"));
    let answer = Answer::of(request).await.unwrap();
    assert_eq!(answer.status, 200, "the caller's copy is no longer current");
    assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY));
    assert_eq!(
        answer.header("exodrive-position"),
        forged.header("exodrive-position"),
        "although nothing happened to it"
    );

    // The previous generation is what the log says up to the position where it
    // was left.
    let states = "select state from generations where projection = 'inbox' order by generation";
    let states: Vec<String> = sqlx::query_scalar(states).fetch_all(world.database()).await.unwrap();
    assert_eq!(states, ["previous", "active"]);
    let left_at = "select position from checkpoints where projection = 'inbox' and generation = 1";
    let left_at: i64 = sqlx::query_scalar(left_at).fetch_one(world.database()).await.unwrap();
    let mut events = world.events().await;
    events.retain(|event| event.position <= u64::try_from(left_at).unwrap());
    assert_eq!(world.rows("inbox_g1.inbox").await, fold_by_name(&events)["inbox"]);

    world.exodrive_prints(&["projections", "resume", "email_timeline"]).await;
    world.views_equal_a_fresh_fold().await;
    is_verified(&world).await;
    world.exodrive_prints(&["projections", "rollback", "inbox", "--reason", "a test"]).await;
    world.views_equal_a_fresh_fold().await;
    is_verified(&world).await;
}

#[tokio::test]
async fn a_rebuild_meanwhile_neither_copies_nor_reports_what_was_wrong() {
    let world = InProcess::start().await;
    post_many(&world, 0, 100).await;
    world.settled().await;
    for round in 0..rounds(4) {
        let email = format!("em-{}", 3 + round % 8);
        forge(&world, &of_email(&email)).await;
        let request = RefoldRequest::make(&world, &of_email(&email), &[]).await;
        // The second kind takes the rows of the generation that readers see.
        let all = ["projections", "rebuild", "inbox", "--reason", "a test", "--no-wait", "--json"];
        let some = [&all[..], &["--from", "90"]].concat();
        world.exodrive_prints(if round % 2 == 0 { &all } else { &some }).await;
        request.is_met(&world).await;
        at_rest(&world).await;
        let ended = "select state, comparison from rebuilds order by requested_at desc limit 1";
        let (state, comparison): (String, Value) =
            sqlx::query_as(ended).fetch_one(world.database()).await.unwrap();
        assert_eq!((state.as_str(), &comparison["difference_count"]), ("done", &json!(0)));
        assert_eq!(canaries(&world).await, Vec::<String>::new());
        world.views_equal_a_fresh_fold().await;
    }
    is_verified(&world).await;
}

#[tokio::test]
async fn a_worker_killed_at_any_moment_leaves_no_row_unfolded() {
    let world = World::start().await;
    post_many(&world, 0, 100).await;
    world.settled().await;
    rebuild(&world, &["inbox"]).await;
    for _ in 0..rounds(6) {
        let email = format!("em-{}", rand::rng().random_range(0..20));
        forge(&world, &of_email(&email)).await;
        let request = RefoldRequest::make(&world, &of_email(&email), &[]).await;
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..1_300))).await;
        world.kill(WORKER);
        world.start_worker(WORKER);
        request.is_met(&world).await;
    }
    world.views_equal_a_fresh_fold().await;
    is_verified(&world).await;
}

#[tokio::test]
async fn without_redis_the_table_is_right_and_redis_as_soon_as_it_is_back() {
    let world = World::start().await;
    post_many(&world, 0, 50).await;
    world.settled().await;
    forge(&world, &of_email("em-3")).await;
    world.services.signal(Service::Redis, Signal::SIGSTOP).unwrap();
    let request = RefoldRequest::make(&world, &of_email("em-3"), &[]).await;
    eventually("the table is right", async || {
        let rows = world.rows("inbox").await;
        (!rows["em-3"].1.to_string().contains(CANARY)).then_some(())
    })
    .await;
    eventually("the rest is reported", async || {
        let left = request.left().await;
        let error = left.first()?.error.clone()?;
        assert!(error.contains("Redis"), "{error}");
        Some(())
    })
    .await;
    world.services.signal(Service::Redis, Signal::SIGCONT).unwrap();
    request.is_met(&world).await;
    is_verified(&world).await;
}

#[tokio::test]
async fn a_row_that_postgres_rejects_or_that_waits_holds_up_no_other() {
    let world = InProcess::start().await;
    post_many(&world, 0, 50).await;
    world.settled().await;
    let refuse = "alter table inbox_g1.inbox
         add constraint odd check (data ->> 'status' <> 'delivered') not valid";
    sql(&world, refuse).await;
    let body = email_body("delivered", "em-waits", "2026-11-20T11:00:00Z", "");
    let sent = email_body("sent", "em-waits", "2026-11-20T10:00:00Z", "");
    world.stored(&Delivery::new("waits_1", sent)).await;
    let parked = world.stored(&Delivery::new("waits_2", body)).await;
    world.settled().await;
    sql(&world, &format!("update parked_events set error = 'it said {CANARY}'")).await;
    let refuse = "alter table inbox_g1.inbox
         add constraint refused check (key <> 'em-3' or data ->> 'search' = 'canary.person')
         not valid";
    let rows = vec![("inbox", vec!["em-3".to_owned(), "em-4".to_owned(), "em-waits".to_owned()])];
    forge(&world, &rows).await;
    sql(&world, refuse).await;
    let request = RefoldRequest::make(&world, &rows, &[parked]).await;
    let errors: Vec<String> = sqlx::query_scalar("select error from parked_events")
        .fetch_all(world.database())
        .await
        .unwrap();
    assert_eq!(errors, ["erased"]);
    eventually("the others are right", async || {
        let rows = world.rows("inbox").await;
        let wrong = |key: &str| rows[key].1["search"] == CANARY;
        (wrong("em-3") && !wrong("em-4") && !wrong("em-waits")).then_some(())
    })
    .await;
    let left = eventually("the rest is reported", async || {
        let left = request.left().await;
        (left.len() == 1 && left[0].rows == 1 && left[0].error.is_some()).then_some(left)
    })
    .await;
    assert!(left[0].error.as_ref().unwrap().contains("Postgres rejected"), "{left:?}");
    assert_eq!(world.rows("inbox").await["em-waits"].1["status"], "sent", "it waits still");
    sql(&world, "alter table inbox_g1.inbox drop constraint refused").await;
    eventually("it is tried again", async || request.left().await.is_empty().then_some(())).await;
    assert_eq!(canaries(&world).await, Vec::<String>::new());
    is_verified(&world).await;
}

#[tokio::test]
async fn a_generation_that_no_worker_can_fold_any_more_is_dropped() {
    let world = InProcess::start().await;
    post_many(&world, 0, 20).await;
    world.settled().await;
    rebuild(&world, &["inbox"]).await;
    sql(&world, "update generations set version = 0 where projection = 'inbox' and generation = 1")
        .await;
    forge(&world, &of_email("em-1")).await;
    let request = RefoldRequest::make(&world, &of_email("em-1"), &[]).await;
    eventually("the one that readers see is right", async || {
        let left = request.left().await;
        (left.len() == 1 && left[0].generation == 1).then_some(())
    })
    .await;
    let long_ago = "clock_timestamp() - interval '5 min'";
    sql(&world, &format!("update refolds_due set requested_at = {long_ago}")).await;
    sql(&world, &format!("update checkpoints set heartbeat_at = {long_ago} where generation = 1 and projection = 'inbox'")).await;
    request.is_met(&world).await;
    assert!(!tables(&world).await.contains(&("inbox".to_owned(), 1)));
}
