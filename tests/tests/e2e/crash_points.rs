//! A worker that is killed, or hangs, between any two steps of a batch.

use exodrive_projections::{Projection, for_each_projection};
use exodrive_runtime::services::Signal;
use exodrive_tests::{
    API, Delivery, Process, WORKER, World, email_body, eventually, fold, reports, within,
};
use futures::future::join_all;
use std::{fs, os::unix::process::ExitStatusExt, path::Path, time::Duration};

const STEPS: [&str; 6] = ["Read", "Loaded", "Written", "Advanced", "Committed", "Published"];

struct Doomed {
    process: Process,
    folder: tempfile::TempDir,
}

impl Doomed {
    /// A worker of `projection` that will get `signal` at `step` of a batch that it reads after
    /// [`Doomed::seal_fate`].
    fn start(world: &World, projection: &str, step: &str, signal: Signal) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut env = world.env().to_vec();
        let trigger = folder.path().join("trigger");
        for (name, value) in [
            ("WORKER_PROJECTION", projection),
            ("WORKER_STEP", step),
            ("WORKER_SIGNAL", signal.as_str()),
            ("WORKER_TRIGGER", trigger.to_str().unwrap()),
        ] {
            env.push((name.to_owned(), value.to_owned()));
        }
        let program = Path::new(env!("CARGO_BIN_EXE_worker-that-dies"));
        let process = Process::start(program, &[], &env, &folder.path().join("log"));
        Self { process, folder }
    }

    fn seal_fate(&self) {
        fs::write(self.folder.path().join("trigger"), "").unwrap();
    }

    fn met_its_fate(&self) -> bool {
        !self.folder.path().join("trigger").exists()
    }

    fn printed(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// Events of an email that has a row already, of one that has no row, and a message that the log
/// holds already.
async fn post_some(world: &World, n: usize) {
    let at = format!("2026-11-20T09:{:02}:00Z", n % 60);
    let deliveries = [
        Delivery::new(format!("msg_{n}_a"), email_body("opened", "em-known", &at, "")),
        Delivery::new(format!("msg_{n}_b"), email_body("sent", &format!("em-{n}"), &at, "")),
        Delivery::new(format!("msg_{n}_c"), email_body("delivered", &format!("em-{n}"), &at, "")),
        Delivery::new(format!("msg_{n}_d"), "not json"),
    ];
    join_all(deliveries.iter().map(|delivery| world.stored(delivery))).await;
}

/// The lease of a killed worker ends by itself after some seconds, which another test covers.
async fn end_leases(world: &World) {
    let sql = "update checkpoints set lease_until = null";
    sqlx::query(sql).execute(world.database()).await.unwrap();
}

async fn position(world: &World, projection: &str) -> u64 {
    let sql = "select position from checkpoints where projection = $1";
    let position: i64 =
        sqlx::query_scalar(sql).bind(projection).fetch_one(world.database()).await.unwrap();
    position.try_into().unwrap()
}

/// Rows and checkpoint of one projection belong together: whatever has been
/// committed is the fold of the log up to the checkpoint.
async fn rows_are_the_fold_up_to_the_checkpoint<P: Projection>(world: &World, after: &str) -> u64 {
    let position = position(world, P::NAME).await;
    let mut events = world.events().await;
    events.retain(|event| event.position <= position);
    assert_eq!(world.rows(P::NAME).await, fold::<P>(&events), "{} after {after}", P::NAME);
    position
}

#[tokio::test]
async fn a_worker_killed_between_any_two_steps_leaves_no_double_and_no_gap() {
    let world = World::without_processes(&[]).await;
    world.migrate().await;
    world.start_api();
    eventually("the API answers", async || {
        let request = world.request(reqwest::Method::GET, "/livez");
        request.send().await.ok()
    })
    .await;
    let mut n = 0;
    for_each_projection!(P => {
        for step in STEPS {
            let mut doomed = Doomed::start(&world, P::NAME, step, Signal::SIGKILL);
            // First it completes what the previous worker left.
            let end = world.log().await.last_position().await.unwrap();
            eventually("the worker reaches the log's end", async || {
                (position(&world, P::NAME).await == end).then_some(())
            })
            .await;
            rows_are_the_fold_up_to_the_checkpoint::<P>(&world, "recovery").await;
            doomed.seal_fate();
            post_some(&world, n).await;
            n += 1;
            let ended = eventually("the worker dies", async || doomed.process.ended()).await;
            assert_eq!(ended.signal(), Some(9), "{}", doomed.printed());
            let reached = rows_are_the_fold_up_to_the_checkpoint::<P>(&world, step).await;
            let committed = ["Committed", "Published"].contains(&step);
            assert_eq!(reached > end, committed, "{} after {step}", P::NAME);
            end_leases(&world).await;
        }
    });
    world.start_worker(WORKER);
    world.wait_until("ready").await;
    let events = world.views_equal_a_fresh_fold().await;
    assert_eq!(events.len(), 4 * n);
    let (_, known) = &world.rows("inbox").await["em-known"];
    assert_eq!(known["email"]["repeats"], 0);
    assert_eq!(reports(known), n);
    let answer = eventually("the cache has the last state", async || {
        let answer = world.get("/v1/inbox/em-known").await;
        (answer.header("x-cache") != "MISS" && answer.json()["events"] == n).then_some(answer)
    })
    .await;
    assert_eq!(answer.json()["repeats"], 0);
    assert!(!world.printed(API).contains("\"ERROR\""));
}

#[tokio::test]
async fn a_worker_that_hangs_in_a_transaction_is_replaced_and_writes_nothing_later() {
    for step in ["Loaded", "Written", "Advanced", "Committed"] {
        let world = World::without_processes(&[]).await;
        world.migrate().await;
        world.start_api();
        let hung = Doomed::start(&world, "inbox", step, Signal::SIGSTOP);
        let first = Delivery::new("msg_1", email_body("sent", "em-1", "2026-11-20T09:00:00Z", ""));
        world.post_until_taken(&first).await;
        eventually("the first event is folded", async || {
            (position(&world, "inbox").await == 1).then_some(())
        })
        .await;
        hung.seal_fate();
        let second =
            Delivery::new("msg_2", email_body("delivered", "em-1", "2026-11-20T09:01:00Z", ""));
        world.stored(&second).await;
        eventually("the worker hangs", async || hung.met_its_fate().then_some(())).await;

        world.start_worker(WORKER);
        within(
            Duration::from_secs(5),
            &format!("another worker takes over from one that hangs after {step}"),
            async || {
                let sql = "select worker from checkpoints where projection = 'inbox'";
                let worker: Option<String> =
                    sqlx::query_scalar(sql).fetch_one(world.database()).await.unwrap();
                let taken = worker.is_some_and(|worker| worker != "worker-that-dies");
                (taken && position(&world, "inbox").await == 2).then_some(())
            },
        )
        .await;
        hung.process.signal(Signal::SIGCONT);
        eventually("the one that hung learns of it", async || {
            let printed = hung.printed();
            (printed.contains("taken over") || printed.contains("interrupted")).then_some(())
        })
        .await;
        world
            .stored(&Delivery::new(
                "msg_3",
                email_body("opened", "em-1", "2026-11-20T09:02:00Z", ""),
            ))
            .await;
        world.views_equal_a_fresh_fold().await;
        let (_, row) = &world.rows("inbox").await["em-1"];
        assert_eq!(
            (&row["status"], &row["email"]["repeats"]),
            (&"opened".into(), &0.into()),
            "{step}"
        );
    }
}
