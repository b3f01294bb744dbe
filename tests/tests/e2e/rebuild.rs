//! Rebuilds under load: another generation is built, compared and swapped in
//! while readers and writers go on undisturbed.

use crate::defects::worker_with;
use crate::in_process::InProcess;
use exodrive_projections::{Projection, engine::partition_of, names, views::inbox::Inbox};
use exodrive_tests::{
    API, Delivery, System, WORKER, World, day, email_body, eventually, rounds, within,
};
use futures::future::join_all;
use rand::RngExt;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const EMAILS: usize = 20;
const KINDS: [&str; 5] = ["sent", "delivered", "opened", "clicked", "complained"];

fn delivery(n: usize) -> Delivery {
    let at = format!("2026-11-20T09:{:02}:{:02}Z", n / 60 % 60, n % 60);
    let email = format!("em-{}", n / KINDS.len() % EMAILS);
    Delivery::new(format!("msg_{n}"), email_body(KINDS[n % KINDS.len()], &email, &at, ""))
}

pub(crate) async fn post_many(world: &System, from: usize, to: usize) {
    let posts: Vec<_> = (from..to).map(delivery).collect();
    for chunk in posts.chunks(50) {
        join_all(chunk.iter().map(|delivery| world.stored(delivery))).await;
    }
}

/// Requests a rebuild as an operator does, and waits for its end.
pub(crate) async fn rebuild(world: &System, args: &[&str]) -> Value {
    let args = [&["projections", "rebuild"], args, &["--reason", "a test", "--json"]].concat();
    serde_json::from_str(&world.exodrive_prints(&args).await).unwrap()
}

async fn generations(world: &System, projection: &str) -> Vec<(i32, i32, String)> {
    let sql = "select generation, version, state from generations where projection = $1
         order by generation";
    sqlx::query_as(sql).bind(projection).fetch_all(world.database()).await.unwrap()
}

/// Waits until no rebuild has anything left to do.
pub(crate) async fn at_rest(world: &System) {
    eventually("no rebuild is in progress and nothing is left of one", async || {
        let sql = "select (select count(*) from rebuilds
                 where state not in ('done', 'cancelled', 'failed'))
             + (select count(*) from generations
                where state in ('building', 'catching_up', 'dropping'))";
        let left = sqlx::query_scalar(sql).fetch_one(world.database()).await;
        let left: i64 = left.map_err(|error| error.to_string())?;
        (left == 0).then_some(()).ok_or_else(|| format!("{left} left"))
    })
    .await;
}

pub(crate) async fn is_verified(world: &System) {
    world.settled().await;
    let verified = world.exodrive(&["projections", "verify", "--all"]).await;
    let reported = String::from_utf8_lossy(&verified.stdout).into_owned()
        + &String::from_utf8_lossy(&verified.stderr);
    assert_eq!(verified.status.code(), Some(0), "{reported}");
}

/// Writers and readers that a rebuild must not disturb.
struct Noon {
    stop: AtomicBool,
    posted: AtomicUsize,
    reads: AtomicUsize,
}

impl Noon {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            stop: AtomicBool::new(false),
            posted: AtomicUsize::new(100),
            reads: AtomicUsize::new(0),
        })
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    async fn write(&self, world: &System) {
        while self.goes_on() {
            world.stored(&delivery(self.posted.fetch_add(1, Ordering::Relaxed))).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Reads one email and the lists again and again. There must be no error,
    /// and no answer older than an earlier one.
    async fn read(&self, world: &System, email: &str) {
        let (mut newest, mut longest) = ((0, 0), 0);
        let path = format!("/v1/inbox/{email}");
        while self.goes_on() {
            let answer = world.get(&path).await;
            let (position, reported) =
                (answer.header("exodrive-position"), answer.header("x-cache"));
            let seen = (
                position.parse().unwrap_or_default(),
                answer.clone().expect(200)["events"].as_u64().unwrap(),
            );
            assert!(seen >= newest, "{email} went from {newest:?} back to {seen:?} ({reported})");
            newest = seen;
            for path in ["/v1/inbox?limit=5", "/v1/cars?limit=5"] {
                world.get(path).await.expect(200);
            }
            let timeline = world.get(&format!("{path}/timeline")).await.expect(200);
            let length = timeline["data"].as_array().unwrap().len();
            assert!(length >= longest, "{email}: a timeline of {longest} became one of {length}");
            longest = length;
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn a_rebuild_at_noon_disturbs_no_reader_and_no_writer() {
    let world = World::start().await;
    post_many(&world, 0, 100).await;
    world.settled().await;
    let noon = Noon::new();
    let load = async {
        let emails: Vec<_> = (0..4).map(|n| format!("em-{n}")).collect();
        let readers = join_all(emails.iter().map(|email| noon.read(&world, email)));
        tokio::join!(readers, noon.write(&world), noon.write(&world));
    };
    let operator = async {
        for round in 0..2 {
            for name in ["inbox", "email_timeline", "deliveries", "cars"] {
                let before = generations(&world, name).await;
                let rebuilt = rebuild(&world, &[name]).await;
                assert_eq!(rebuilt["state"], "done", "{rebuilt}");
                assert_eq!(rebuilt["comparison"]["difference_count"], 0, "{rebuilt}");
                let reads = noon.reads.load(Ordering::Relaxed);
                eventually("reads go on", async || {
                    (noon.reads.load(Ordering::Relaxed) > reads + 4).then_some(())
                })
                .await;
                let after = generations(&world, name).await;
                assert!(after.last().unwrap().0 > before.last().unwrap().0);
                if round == 1 {
                    let args = ["projections", "rollback", name, "--reason", "a test", "--json"];
                    let back = world.exodrive_prints(&args).await;
                    let back: Value = serde_json::from_str(&back).unwrap();
                    assert_eq!(back["state"], "done", "{back}");
                }
            }
        }
        noon.stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, operator);
    world.views_equal_a_fresh_fold().await;
    at_rest(&world).await;
    is_verified(&world).await;
    let saved = generations(&world, "inbox").await;
    let states: Vec<_> = saved.iter().map(|(_, _, state)| state.as_str()).collect();
    assert_eq!(states, ["active", "previous"], "rolled back, and old ones are pruned");
    let text = "exodrive.projection.swapped";
    eventually("each swap is recorded in the log", async || {
        let reported =
            world.events().await.iter().filter(|event| event.envelope.kind == text).count();
        (reported == 12).then_some(())
    })
    .await;
    assert!(!world.printed(API).contains("\"ERROR\""));
}

#[tokio::test]
async fn a_worker_killed_at_any_moment_leaves_no_rebuild_half_done() {
    let world = World::start().await;
    post_many(&world, 0, 300).await;
    let car = world.admin().add_car("rebuilt-car", 10_000).await;
    world.visitor().booked(&car, day(10), day(14)).await;
    let mut posted = 300;
    for round in 0..rounds(8) {
        let name = names()[rand::rng().random_range(0..names().len())];
        let args = ["projections", "rebuild", name, "--reason", "a test", "--no-wait", "--json"];
        world.exodrive_prints(&args).await;
        post_many(&world, posted, posted + 20).await;
        posted += 20;
        let pause = rand::rng().random_range(0..700);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        world.kill(WORKER);
        // Readers see complete rows at every step.
        world.get("/v1/inbox/em-0").await.expect(200);
        world.start_worker(WORKER);
        at_rest(&world).await;
        world.views_equal_a_fresh_fold().await;
        is_verified(&world).await;
        let states = "select count(*) from rebuilds where state = 'done'";
        let done: i64 = sqlx::query_scalar(states).fetch_one(world.database()).await.unwrap();
        assert_eq!(done, i64::try_from(round + 1).unwrap(), "each rebuild came to its end");
    }
}

#[tokio::test]
async fn a_difference_is_shown_and_asked_about_before_the_swap() {
    let world = InProcess::start().await;
    post_many(&world, 0, 60).await;
    world.settled().await;
    let change = "update inbox_g1.inbox set data = jsonb_set(data, '{status}', '\"bounced\"')
         where key = 'em-3'";
    sqlx::query(change).execute(world.database()).await.unwrap();
    let args = ["projections", "rebuild", "inbox", "--reason", "a test"];
    let asked = world.exodrive(&args).await;
    let reported = String::from_utf8_lossy(&asked.stdout).into_owned()
        + &String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(1), "{reported}");
    assert!(reported.contains("em-3") && reported.contains("--accept"), "{reported}");
    let status = async || -> String {
        let rows = world.rows("inbox").await;
        rows["em-3"].1["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status().await, "bounced", "nothing was swapped");
    world.exodrive_prints(&["projections", "rebuild", "inbox", "--cancel"]).await;
    at_rest(&world).await;
    assert_eq!(generations(&world, "inbox").await.len(), 1, "what was built is gone");
    let done = rebuild(&world, &["inbox", "--accept-differences"]).await;
    assert_eq!(done["comparison"]["difference_count"], 1, "{done}");
    assert_eq!(done["comparison"]["differences"], json!([{"key": "em-3", "change": "changed"}]));
    world.views_equal_a_fresh_fold().await;
    is_verified(&world).await;
}

#[tokio::test]
async fn one_row_is_folded_again_or_all_that_changed_since() {
    let world = InProcess::start().await;
    post_many(&world, 0, 60).await;
    world.settled().await;
    let change = "update inbox_g1.inbox set data = jsonb_set(data, '{status}', '\"bounced\"'),
         position = 10000 where key in ('em-3', 'em-11')";
    sqlx::query(change).execute(world.database()).await.unwrap();
    let done = rebuild(&world, &["inbox", "--key", "em-3"]).await;
    assert_eq!(done["comparison"]["difference_count"], 1, "{done}");
    assert_eq!(generations(&world, "inbox").await.len(), 1, "in its place");
    let again = rebuild(&world, &["inbox", "--key", "em-3"]).await;
    assert_eq!(again["comparison"]["difference_count"], 0, "{again}");
    let answer = eventually("readers see it", async || {
        let answer = world.get("/v1/inbox/em-3").await;
        (answer.header("x-cache") != "MISS" && answer.json()["status"] == "complained")
            .then_some(answer)
    })
    .await;
    assert_ne!(answer.header("exodrive-position"), "10000");
    // em-11 has its last event at 60, the others before 55.
    let done = rebuild(&world, &["inbox", "--from", "55", "--accept-differences"]).await;
    assert_eq!(done["comparison"]["differences"], json!([{"key": "em-11", "change": "changed"}]));
    world.views_equal_a_fresh_fold().await;
    is_verified(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_beyond_the_limit_of_memory_wait_in_the_table() {
    let world = InProcess::with(&[("EXODRIVE_REBUILD_MEMORY_MIB", "1")]).await;
    // Events of these emails come long after the emails were parked.
    for (turn, kind) in KINDS.iter().take(3).enumerate() {
        for from in (0..1_500).step_by(50) {
            let padding = format!(r#","padding":"{}""#, "x".repeat(600));
            let posts: Vec<_> = (from..from + 50)
                .map(|n| {
                    let at = format!("2026-11-20T0{turn}:{:02}:{:02}Z", n / 60 % 60, n % 60);
                    let body = email_body(kind, &format!("em-{n}"), &at, &padding);
                    Delivery::new(format!("msg_{turn}_{n}"), body)
                })
                .collect();
            join_all(posts.iter().map(|delivery| world.stored(delivery))).await;
        }
    }
    world.settled().await;
    for name in ["inbox", "email_timeline", "deliveries"] {
        let done = rebuild(&world, &[name]).await;
        assert_eq!(done["comparison"]["difference_count"], 0, "{done}");
    }
    world.views_equal_a_fresh_fold().await;
    is_verified(&world).await;
}

#[tokio::test]
async fn a_newer_version_is_built_beside_and_two_releases_serve() {
    let world = World::start().await;
    post_many(&world, 0, 60).await;
    world.settled().await;
    let newer = worker_with(&world, "newer");
    let older = i32::try_from(Inbox::VERSION).unwrap();
    eventually("the newer version is swapped in", async || {
        let saved = generations(&world, "inbox").await;
        let requested = [(1, older, "previous".to_owned()), (2, older + 1, "active".to_owned())];
        (saved == requested).then_some(())
    })
    .await;
    let sql = "select comparison from rebuilds where kind = 'version'";
    let comparison: Value = sqlx::query_scalar(sql).fetch_one(world.database()).await.unwrap();
    assert_eq!(
        comparison["difference_count"],
        EMAILS.min(12),
        "the comparison has the differences"
    );
    // The older release goes on reading its own rows, which its own worker
    // maintains.
    post_many(&world, 60, 80).await;
    eventually("the newer one follows the log", async || {
        let rows = world.rows("inbox").await;
        let (_, row) = rows.get("em-15")?;
        row["search"].as_str().unwrap().starts_with("newer\n").then_some(())
    })
    .await;
    let answer = eventually("so does the older one", async || {
        let answer = world.get("/v1/inbox/em-15").await;
        (answer.status == 200 && answer.json()["events"] == 5).then_some(answer)
    })
    .await;
    assert!(answer.header("etag").starts_with(&format!("\"{older}-")), "by its own version");
    let listed = world.get("/v1/inbox?q=newer").await.expect(200);
    assert_eq!(listed["data"], json!([]), "and lists too");
    // Its worker stops: it reads the rows that there are.
    world.kill(WORKER);
    within(Duration::from_secs(20), "the older release reads the newer rows", async || {
        let listed = world.get("/v1/inbox?q=newer&limit=1").await;
        (listed.status == 200 && listed.json()["data"] != json!([])).then_some(())
    })
    .await;
    drop(newer);
}

#[tokio::test]
async fn a_projection_in_several_parts_is_shared_by_workers() {
    let world = World::start().await;
    post_many(&world, 0, 100).await;
    world.settled().await;
    world.start_worker("second");
    world.start_worker("third");
    let done = rebuild(&world, &["email_timeline", "--partitions", "4"]).await;
    assert_eq!(done["comparison"]["difference_count"], 0, "{done}");
    let sql = "select count(distinct worker) from checkpoints";
    eventually("three workers share the parts", async || {
        let workers: i64 = sqlx::query_scalar(sql).fetch_one(world.database()).await.unwrap();
        (workers == 3).then_some(())
    })
    .await;
    world.kill("second");
    post_many(&world, 100, 200).await;
    within(Duration::from_secs(5), "the others take over", async || {
        let end = world.log().await.last_position().await.unwrap();
        let sql = "select min(position) from checkpoints
             join projections on name = projection and generation = active_generation";
        let reached: i64 = sqlx::query_scalar(sql).fetch_one(world.database()).await.unwrap();
        (reached >= i64::try_from(end).unwrap()).then_some(())
    })
    .await;
    world.views_equal_a_fresh_fold().await;
    is_verified(&world).await;
    let parts: HashMap<_, usize> =
        world.rows("email_timeline").await.keys().fold(HashMap::new(), |mut parts, key| {
            *parts.entry(partition_of(key, 4)).or_default() += 1;
            parts
        });
    assert_eq!(parts.len(), 4, "every part has rows: {parts:?}");
    let one = rebuild(&world, &["email_timeline", "--partitions", "1"]).await;
    assert_eq!(one["comparison"]["difference_count"], 0, "{one}");
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_paused_projection_keeps_its_rows_until_it_is_resumed() {
    let world = InProcess::start().await;
    post_many(&world, 0, 10).await;
    world.settled().await;
    let pause = ["projections", "pause", "inbox", "--reason", "a test"];
    world.exodrive_prints(&pause).await;
    let mut posted = 10;
    eventually("it folds nothing any more", async || {
        post_many(&world, posted, posted + 1).await;
        posted += 1;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let args = ["projections", "status", "--json"];
        let status: Value = serde_json::from_str(&world.exodrive_prints(&args).await).unwrap();
        let status = status.as_array().unwrap().iter().find(|it| it["name"] == "inbox").unwrap();
        (status["state"] == "paused" && status["lag_events"].as_u64() > Some(0)).then_some(())
    })
    .await;
    world.get("/v1/inbox/em-0").await.expect(200);
    world.exodrive_prints(&["projections", "resume", "inbox"]).await;
    world.views_equal_a_fresh_fold().await;
}
