//! Folds with defects: a panic or an endless loop parks an event and the later ones of its key, and
//! harms nothing else.

use exodrive_projections::{Projection, views::inbox::Inbox};
use exodrive_tests::{Delivery, Process, WORKER, World, email_body, eventually};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// A worker of `inbox` with another fold than the release's.
pub(crate) struct OtherWorker {
    // First, so that it ends before its folder goes.
    _process: Process,
    _folder: tempfile::TempDir,
}

pub(crate) fn worker_with(world: &World, fold: &str) -> OtherWorker {
    let folder = tempfile::tempdir().unwrap();
    let mut env = world.env().to_vec();
    env.push(("WORKER_FOLD".to_owned(), fold.to_owned()));
    let program = Path::new(env!("CARGO_BIN_EXE_worker-with-another-fold"));
    let process = Process::start(program, &[], &env, &folder.path().join("log"));
    OtherWorker { _process: process, _folder: folder }
}

fn delivery(id: &str, n: u32, kind: &str, email: &str) -> Delivery {
    Delivery::new(id, email_body(kind, email, &format!("2026-11-20T09:{n:02}:00Z"), ""))
}

/// A system whose only worker is one of `inbox` with defects.
async fn world_with_defects() -> (World, OtherWorker) {
    let world = World::without_processes(&[]).await;
    world.migrate().await;
    world.start_api();
    let worker = worker_with(&world, "defective");
    world.post_until_taken(&delivery("first", 0, "sent", "em-0")).await;
    folded(&world, 1).await;
    (world, worker)
}

/// Waits until `inbox` has reached a position.
async fn folded(world: &World, position: i64) {
    eventually("inbox is level", async || {
        let sql = "select position from checkpoints where projection = 'inbox'";
        let reached: i64 = sqlx::query_scalar(sql).fetch_one(world.database()).await.unwrap();
        (reached >= position).then_some(())
    })
    .await;
}

/// Parked events: key, position, the beginning of the error, attempts.
async fn parked(world: &World) -> Vec<(String, i64, String, i32)> {
    let sql = "select key, position, left(error, 16), attempts from parked_events
         where projection = 'inbox' order by position";
    sqlx::query_as(sql).fetch_all(world.database()).await.unwrap()
}

async fn status(world: &World, email: &str) -> Value {
    let rows = world.rows("inbox").await;
    rows.get(email).map_or(Value::Null, |(_, row)| row["status"].clone())
}

#[tokio::test]
async fn a_panic_and_an_endless_loop_park_their_keys_and_harm_nothing_else() {
    let (world, worker) = world_with_defects().await;
    for event in [
        delivery("a", 1, "sent", "em-1"),
        delivery("panic", 2, "delivered", "em-1"),
        delivery("b", 3, "sent", "em-2"),
        delivery("endless", 4, "delivered", "em-2"),
        delivery("c", 5, "opened", "em-1"),
        delivery("d", 6, "opened", "em-2"),
        delivery("keys-panic", 7, "sent", "em-3"),
        delivery("e", 8, "delivered", "em-3"),
        delivery("f", 9, "delivered", "em-0"),
    ] {
        world.stored(&event).await;
    }
    folded(&world, 10).await;
    let found: Vec<_> = parked(&world).await.into_iter().map(|it| (it.0, it.1, it.2)).collect();
    let requested = [
        ("em-1", 3, "the fold panicke"),
        ("em-2", 5, "the fold did not"),
        ("em-1", 6, ""),
        ("em-2", 7, ""),
        ("exo.email.em-3", 8, "the fold panicke"),
        ("exo.email.em-3", 9, ""),
    ];
    assert_eq!(found, requested.map(|(key, at, error)| (key.to_owned(), at, error.to_owned())));
    for (email, folded) in [("em-0", "delivered"), ("em-1", "sent"), ("em-2", "sent")] {
        assert_eq!(status(&world, email).await, folded, "{email}");
    }

    // A panic is retried automatically, after longer and longer pauses; an endless loop only when
    // an operator requests it.
    eventually("the panic is retried", async || {
        let attempts = |found: &[(String, i64, String, i32)], at| {
            found.iter().find(|it| it.1 == at).map(|it| it.3)
        };
        let found = parked(&world).await;
        assert_eq!(attempts(&found, 5), Some(10), "the endless loop is in quarantine");
        (attempts(&found, 3) >= Some(2)).then_some(())
    })
    .await;
    let answer = eventually("readers of the key are informed", async || {
        let answer = world.get("/v1/inbox/em-1").await;
        (answer.status == 200 && !answer.header("exodrive-blocked-at").is_empty()).then_some(answer)
    })
    .await;
    assert_eq!(answer.header("exodrive-blocked-at"), "3");
    assert_eq!(world.get("/v1/inbox/em-3").await.status, 404);
    assert_eq!(world.get("/v1/inbox/em-0").await.header("exodrive-blocked-at"), "");

    // The release without the defects.
    drop(worker);
    world.start_worker(WORKER);
    world.wait_until("ready").await;
    world.exodrive_prints(&["projections", "retry", "inbox"]).await;
    eventually("all of it is folded", async || parked(&world).await.is_empty().then_some(())).await;
    world.views_equal_a_fresh_fold().await;
    eventually("readers are no longer informed", async || {
        let answer = world.get("/v1/inbox/em-1").await;
        let reported = answer.header("exodrive-blocked-at").to_owned();
        (reported.is_empty() && answer.json()["status"] == "opened").then_some(())
    })
    .await;
}

#[tokio::test]
async fn parked_events_are_shown_and_skipped_with_a_reason() {
    let (world, _worker) = world_with_defects().await;
    world.start_worker(WORKER);
    for event in [
        delivery("a", 1, "sent", "em-1"),
        delivery("panic", 2, "bounced", "em-1"),
        delivery("c", 3, "delivered", "em-1"),
    ] {
        world.stored(&event).await;
    }
    // Either worker may hold inbox: the one that runs the others gives it up.
    let held = "select worker from checkpoints where projection = 'inbox'";
    let worker: Option<String> =
        sqlx::query_scalar(held).fetch_one(world.database()).await.unwrap();
    assert_eq!(worker.as_deref(), Some("defective"));
    folded(&world, 4).await;
    let shown = world.exodrive_prints(&["projections", "show", "inbox", "--key", "em-1"]).await;
    for text in ["the fold panicked", "email.bounced", "sent", "panic"] {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    let skip = ["projections", "skip", "inbox", "--key", "em-1", "--position", "3"];
    let refused = world.exodrive(&skip).await;
    assert_eq!(refused.status.code(), Some(2), "a reason is required");
    world.exodrive_prints(&[&skip[..], &["--reason", "a test"]].concat()).await;
    eventually("the later ones are folded", async || {
        (status(&world, "em-1").await == "delivered" && parked(&world).await.is_empty())
            .then_some(())
    })
    .await;

    // A rebuild leaves it out too, and so does a verification.
    drop(_worker);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let args = ["projections", "rebuild", "inbox", "--reason", "a test", "--json"];
    let done: Value = serde_json::from_str(&world.exodrive_prints(&args).await).unwrap();
    assert_eq!(done["comparison"]["difference_count"], 0, "{done}");
    assert_eq!(status(&world, "em-1").await, "delivered");
    let verified = world.exodrive(&["projections", "verify", "inbox", "--all"]).await;
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test]
async fn a_rebuild_parks_events_that_cannot_be_folded() {
    let world = World::start().await;
    for event in [
        delivery("a", 1, "sent", "em-1"),
        delivery("endless", 2, "delivered", "em-1"),
        delivery("b", 3, "opened", "em-1"),
        delivery("c", 4, "sent", "em-2"),
    ] {
        world.stored(&event).await;
    }
    world.settled().await;
    world.kill(WORKER);
    let _worker = worker_with(&world, "defective");
    let sql = "insert into rebuilds (id, projection, kind, version, actor, reason)
         values (gen_random_uuid(), 'inbox', 'rebuild', $1, 'a test', 'a test')";
    let version = i32::try_from(Inbox::VERSION).unwrap();
    sqlx::query(sql).bind(version).execute(world.database()).await.unwrap();
    let comparison = eventually("the generations are compared", async || {
        let sql = "select comparison from rebuilds where state = 'waiting'";
        sqlx::query_scalar::<_, Value>(sql).fetch_optional(world.database()).await.unwrap()
    })
    .await;
    assert_eq!(comparison["difference_count"], 1, "{comparison}");
    let sql = "select key, position, left(error, 16), attempts from parked_events
         where projection = 'inbox' and generation = 2 order by position";
    let parked: Vec<(String, i64, String, i32)> =
        sqlx::query_as(sql).fetch_all(world.database()).await.unwrap();
    let requested = [("em-1", 2, "the fold did not", 10), ("em-1", 3, "", 0)];
    assert_eq!(
        parked,
        requested.map(|(key, at, error, tried)| (key.into(), at, error.into(), tried))
    );
    let status: Value =
        sqlx::query_scalar("select data -> 'status' from inbox_g2.inbox where key = 'em-1'")
            .fetch_one(world.database())
            .await
            .unwrap();
    assert_eq!(status, "sent");
    assert_eq!(self::status(&world, "em-1").await, "opened", "readers see what they saw");
}
