//! The disk of Postgres is full: what needs the log alone goes on, readiness says that the views stand
//! still, and everything catches up by itself when there is space again.

use exodrive_runtime::services::Service;
use exodrive_tests::{API, Answer, Delivery, SmallDisk, WORKER, World, email_body, within};
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;

/// Deliveries at a time.
const MANY: usize = 40;
/// Bytes of the subject of each, which rows have too.
const SUBJECT: usize = 3_000;

/// Postgres is started again after longer and longer pauses, and a writer waits for its predecessor.
const CATCHES_UP: Duration = Duration::from_secs(90);

fn delivery(n: usize) -> Delivery {
    let subject = format!(r#","subject":"{n} {}""#, "abcdefghi ".repeat(SUBJECT / 10));
    // Of an older one the view is asked whether it is a repeat.
    let now = chrono::Utc::now().to_rfc3339();
    let body = email_body("sent", &format!("em-{n}"), &now, &subject);
    Delivery::new(format!("msg_{n}"), body)
}

/// Sends some more deliveries; each is taken at once.
async fn deliver(world: &World, taken: &mut Vec<String>) {
    for _ in 0..MANY {
        let next = delivery(taken.len());
        world.stored(&next).await;
        taken.push(next.id);
    }
}

/// Waits until readiness is 503, and `found` in what it says.
async fn not_ready(world: &World, disk: &SmallDisk, what: &str, found: impl Fn(&Value) -> bool) {
    within(CATCHES_UP, what, async || {
        disk.seen(world);
        let answer = Answer::of(world.request(Method::GET, "/readyz")).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let said = answer.json();
        (answer.status == 503 && found(&said["checks"])).then_some(()).ok_or(said.to_string())
    })
    .await;
}

/// A read is answered with what there is, or with a clear refusal.
async fn reads_are_answered(world: &World) {
    for path in ["/v1/inbox?limit=5", "/v1/inbox/em-0"] {
        let read = world.get(path).await;
        if read.status != 200 {
            read.problem(503, "view_unavailable");
            assert!(read.header("retry-after").parse::<u64>().unwrap() > 0);
        }
    }
}

/// Space is there again: the views have everything, once.
async fn catches_up(world: &World, taken: &[String]) {
    within(CATCHES_UP, "the system is ready again", async || {
        let answer = Answer::of(world.request(Method::GET, "/readyz")).await;
        let answer = answer.map_err(|error| error.to_string())?;
        (answer.status == 200).then_some(()).ok_or(answer.json().to_string())
    })
    .await;
    let events = world.views_equal_a_fresh_fold().await;
    let ids = events.iter().map(|event| event.envelope.id.clone());
    let ids: Vec<_> = ids.filter(|id| id.starts_with("msg_")).collect();
    assert_eq!(ids, taken, "each is in the log once");
    let rows = world.rows("inbox").await;
    assert_eq!(rows.len(), taken.len());
    assert!(rows.values().all(|(_, row)| row["email"]["repeats"] == 0), "none counts twice");
    let halted = world.wait_until("ready").await["checks"]["seals"]["problem"].clone();
    assert_eq!(halted, Value::Null);
    for process in [API, WORKER] {
        assert!(world.runs(process), "{process} has ended");
        for word in ["deleted", "halted", "has lost events", "is missing"] {
            let printed = world.printed(process);
            let alarm = printed.lines().find(|line| line.contains(word));
            assert_eq!(alarm, None, "{process}");
        }
    }
}

#[tokio::test]
async fn while_the_disk_of_postgres_is_full_webhooks_are_taken_and_the_views_catch_up_afterwards() {
    let world = World::without_processes(&[]).await;
    let disk = SmallDisk::of_postgres(&world).await;
    world.migrate().await;
    world.start_api();
    world.start_worker(WORKER);
    world.wait_until("ready").await;
    let mut taken = Vec::new();
    deliver(&world, &mut taken).await;
    world.settled().await;

    // No table can grow. (Where no file system can be mounted, nothing can be written at all.)
    if disk.is_mounted() {
        disk.fill();
        deliver(&world, &mut taken).await;
        let stands = |checks: &Value| {
            let views = checks["projections"].as_array().into_iter().flatten();
            let problem = |it: &Value| it["problem"].as_str().unwrap_or_default().to_owned();
            views
                .into_iter()
                .any(|it| it["name"] == "inbox" && problem(it).contains("stands still"))
        };
        not_ready(&world, &disk, "readiness says that the view stands still", stands).await;
        reads_are_answered(&world).await;
        deliver(&world, &mut taken).await;
        disk.free();
        catches_up(&world, &taken).await;
    }

    // Nothing can be written: Postgres ends, and does not start again.
    let before = world.services.restarts(Service::Postgres);
    disk.fill();
    within(CATCHES_UP, "Postgres has ended for want of space", async || {
        disk.seen(&world);
        // Its own log needs a new file.
        let more = "select pg_switch_wal(); update projections set paused = paused";
        let ended = sqlx::raw_sql(more).execute(world.database()).await.is_err();
        let restarts = world.services.restarts(Service::Postgres);
        (ended && restarts > before).then_some(()).ok_or(restarts)
    })
    .await;
    deliver(&world, &mut taken).await;
    if disk.is_mounted() {
        let silent = |checks: &Value| checks["postgres"]["ok"] == false;
        not_ready(&world, &disk, "readiness says that Postgres does not answer", silent).await;
    }
    reads_are_answered(&world).await;
    deliver(&world, &mut taken).await;
    disk.seen(&world);
    disk.free();
    catches_up(&world, &taken).await;
}
