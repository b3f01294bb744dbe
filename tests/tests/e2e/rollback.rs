//! A rollback ends even if Redis missed rows meanwhile, and so does watching one.

use crate::rebuild::at_rest;
use chrono::Utc;
use exodrive_domain::operation::{Operation, OperationEvent};
use exodrive_projections::{
    Database, Projection,
    engine::{Runner, Step, cache::Cache, operations::OperatorCommand},
    views::inbox::Inbox,
};
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{Delivery, WORKER, World, email_body, eventually, reports};
use sqlx::types::Uuid;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The steps of a batch do nothing.
const ASLEEP: u8 = 0;
/// A step waits for the first batch of the generation that is behind.
const ARMED: u8 = 1;
/// That batch has been read, and another event is to come.
const READ: u8 = 2;
/// The generation that readers see has folded the other event.
const AHEAD: u8 = 3;
/// Redis is stopped.
const STOPPED: u8 = 4;
/// Redis runs again.
const GOES_ON: u8 = 5;

/// A little more than the time for which a client leaves Redis alone after a
/// failure.
const REST: Duration = Duration::from_millis(650);
/// Longest time that the steps wait for each other.
const TURNS: u32 = 1_000;

async fn post(world: &World, n: u32) -> i64 {
    let body = email_body("opened", "em-1", &format!("2026-11-20T09:{n:02}:00Z"), "");
    let delivery = Delivery::new(format!("msg_{n}"), body);
    let taken = world.post_until_taken(&delivery).await.expect(200);
    taken["position"].as_i64().unwrap()
}

/// Checkpoint of each generation of the inbox, and its position in Redis.
async fn checkpoints(world: &World) -> Vec<(i32, i64, i64)> {
    let sql = "select generation, position, published from checkpoints
         where projection = 'inbox' order by generation";
    sqlx::query_as(sql).fetch_all(world.database()).await.unwrap()
}

async fn reached(world: &World, generation: i32, position: i64) {
    eventually("a generation of the inbox is level", async || {
        let found = checkpoints(world).await;
        let own = found.iter().find(|(own, ..)| *own == generation);
        match own {
            Some((_, at, published)) if *at >= position && *published >= position => Ok(()),
            _ => Err(format!("generation {generation} is to reach {position}: {found:?}")),
        }
    })
    .await;
}

/// Applies an operator's event as a worker does.
async fn apply_command(database: &Database, position: u64, operation: Operation) -> Uuid {
    let (id, reason) = (Uuid::now_v7(), "a test".to_owned());
    let event = OperationEvent { projection: "inbox".to_owned(), reason, operation };
    let command = OperatorCommand { position, id, actor: "tester", at: Utc::now(), event: &event };
    assert!(database.apply_command(&command).await.unwrap());
    id
}

async fn ended(world: &World, rebuild: Uuid) {
    eventually("a rebuild or rollback ends", async || {
        let sql = "select state, error from rebuilds where id = $1";
        let (state, error): (String, Option<String>) =
            sqlx::query_as(sql).bind(rebuild).fetch_one(world.database()).await.unwrap();
        match state.as_str() {
            "done" => Ok(()),
            _ => Err(format!("{state}, error {error:?}, {:?}", checkpoints(world).await)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollback_ends_although_redis_missed_rows_and_no_event_comes() {
    let world = Arc::new(World::without_processes(&[]).await);
    world.migrate().await;
    world.start_api();
    let database = Database::for_workers(&world.urls().database_worker).unwrap();
    let step = Arc::new(AtomicU8::new(ASLEEP));
    let (own, at) = (world.clone(), step.clone());
    let hook = move |now: Step| {
        let is = at.load(Ordering::SeqCst);
        match (is, now) {
            // Generation 1 waits here until generation 2 is ahead of it. So it
            // is not up to date while Redis is stopped, when no worker waits
            // for Redis.
            (ARMED, Step::Read) => {
                at.store(READ, Ordering::SeqCst);
                tokio::task::block_in_place(|| {
                    for _ in 0..TURNS {
                        if at.load(Ordering::SeqCst) == AHEAD {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                });
            }
            // Generation 2.
            (READ, Step::Published) => at.store(AHEAD, Ordering::SeqCst),
            // From here on it is generation 1 again.
            (AHEAD, Step::Committed) => {
                own.services.signal(Service::Redis, Signal::SIGSTOP).unwrap();
                at.store(STOPPED, Ordering::SeqCst);
            }
            (STOPPED, Step::Published) => {
                own.services.signal(Service::Redis, Signal::SIGCONT).unwrap();
                // Its next batch comes before it writes the missed rows to
                // Redis.
                tokio::task::block_in_place(|| std::thread::sleep(REST));
                at.store(GOES_ON, Ordering::SeqCst);
            }
            _ => {}
        }
    };
    let cache = Cache::new(&world.urls().redis_worker).unwrap();
    let engine = Runner::named("inbox", world.log().await, database.clone(), cache, "tester");
    let engine = engine.unwrap().on_step(hook);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { engine.run(&stop).await }
    });

    let first = post(&world, 1).await;
    reached(&world, 1, first).await;
    let request = Operation::RebuildRequested {
        version: Inbox::VERSION,
        key: None,
        from_position: None,
        partitions: None,
        accept_differences: false,
    };
    ended(&world, apply_command(&database, 1, request).await).await;
    at_rest(&world).await;
    let second = post(&world, 2).await;
    reached(&world, 2, second).await;

    step.store(ARMED, Ordering::SeqCst);
    let request = Operation::RollbackRequested { version: Inbox::VERSION, generation: 1 };
    let rollback = apply_command(&database, 2, request).await;
    eventually("generation 1 has read what it was behind", async || {
        (step.load(Ordering::SeqCst) == READ).then_some(())
    })
    .await;
    post(&world, 3).await;
    ended(&world, rollback).await;
    assert_eq!(step.load(Ordering::SeqCst), GOES_ON, "Redis missed rows");
    let (_, row) = &world.rows("inbox").await["em-1"];
    assert_eq!(reports(row), 3, "{row}");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn watching_ends_when_nothing_moves_and_says_how_everything_stands() {
    let world = World::start().await;
    post(&world, 1).await;
    world.settled().await;
    world.kill(WORKER);
    let asked = ["projections", "rebuild", "inbox", "--reason", "a test", "--stalled-after", "1s"];
    let ended = world.exodrive(&asked).await;
    let printed = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{printed}");
    let generation = format!("generation 1 (version {}): active, at 1", Inbox::VERSION);
    for part in ["Nothing has moved for 1s", "is recorded", &generation] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    world.start_worker(WORKER);
    at_rest(&world).await;
}
