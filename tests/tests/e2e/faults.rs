//! Servers and processes that stop, die and come back, under load.

use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{
    API, Answer, Delivery, WORKER, World, email_body, eventually, reports, within,
};
use futures::future::join_all;
use reqwest::Method;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

#[tokio::test]
async fn a_log_that_hangs_is_answered_503_within_5_s_and_recovers_by_itself() {
    let world = World::start().await;
    let delivery = |n: u32| {
        Delivery::new(
            format!("msg_{n}"),
            email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", ""),
        )
    };
    world.stored(&delivery(1)).await;
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    let refused = world.post(&delivery(2)).await;
    assert!(refused.took < Duration::from_secs(5), "{:?}", refused.took);
    refused.problem(503, "log_unavailable");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    world.post_until_taken(&delivery(2)).await;
    world.stored(&delivery(3)).await;
    world.wait_until("ready").await;
    let events = world.views_equal_a_fresh_fold().await;
    let ids: Vec<_> = events.iter().map(|event| event.envelope.id.as_str()).collect();
    assert_eq!(ids, ["msg_1", "msg_2", "msg_3"]);
}

const POSTERS: usize = 4;
const EMAILS: usize = 25;
const KINDS: [&str; 5] = ["sent", "delivered", "opened", "clicked", "complained"];

/// Simulates Resend: deliveries one after the other, each sent again until it is accepted, some of
/// them once more for no reason.
struct Load {
    taken: Mutex<BTreeMap<String, Delivery>>,
    stop: AtomicBool,
    next: AtomicUsize,
}

impl Load {
    async fn run(&self, world: &World) {
        while !self.stop.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            // Old deliveries are looked up in Postgres, new ones are not.
            let at = match n % 2 {
                0 => chrono::Utc::now().to_rfc3339(),
                _ => format!("2026-01-20T09:{:02}:{:02}Z", n / 60 % 60, n % 60),
            };
            let email = format!("em-{}", n / KINDS.len() % EMAILS);
            let body = email_body(KINDS[n % KINDS.len()], &email, &at, "");
            let delivery = Delivery::new(format!("msg_{n}"), body);
            for _ in 0..if n.is_multiple_of(7) { 2 } else { 1 } {
                world.post_until_taken(&delivery).await;
                self.taken.lock().unwrap().insert(delivery.id.clone(), delivery.clone());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this many more deliveries have been accepted.
    async fn flows(&self, more: usize) {
        let before = self.taken.lock().unwrap().len();
        eventually("deliveries are accepted again", async || {
            (self.taken.lock().unwrap().len() >= before + more).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn each_part_is_killed_under_load_and_nothing_acknowledged_is_missing() {
    let world = World::start().await;
    let load =
        Load { taken: Mutex::default(), stop: AtomicBool::new(false), next: AtomicUsize::new(0) };
    let posters = join_all((0..POSTERS).map(|_| load.run(&world)));
    let killings = async {
        load.flows(60).await;
        for service in [Service::Nats, Service::Postgres, Service::Redis] {
            world.kill_service(service).await;
            load.flows(40).await;
        }
        world.kill(WORKER);
        load.flows(40).await;
        world.start_worker(WORKER);
        load.flows(40).await;
        world.kill(API);
        world.start_api();
        load.flows(40).await;
        load.stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(posters, killings);

    world.wait_until("ready").await;
    let events = world.views_equal_a_fresh_fold().await;
    let taken = load.taken.lock().unwrap().clone();
    let mut stored: BTreeMap<String, Delivery> = BTreeMap::new();
    for event in &events {
        let delivery = Delivery::new(event.envelope.id.clone(), event.body.clone());
        let twice = stored.insert(delivery.id.clone(), delivery);
        assert_eq!(twice, None, "the log holds it once");
    }
    assert_eq!(stored, taken, "all that was acknowledged is in the log, and nothing else");
    every_event_counts_once(&world, &taken).await;
    every_cached_view_is_the_newest(&world).await;
}

async fn every_event_counts_once(world: &World, taken: &BTreeMap<String, Delivery>) {
    let inbox = world.rows("inbox").await;
    let counted: usize = inbox.values().map(|(_, row)| reports(row)).sum();
    assert_eq!(counted, taken.len());
    assert!(inbox.values().all(|(_, row)| row["email"]["repeats"] == 0));
    assert_eq!(world.rows("deliveries").await.len(), taken.len());
    assert_eq!(world.rows("email_timeline").await.len(), taken.len());
}

async fn every_cached_view_is_the_newest(world: &World) {
    let end = world.log().await.last_position().await.unwrap();
    for n in 0..EMAILS {
        let path = format!("/v1/inbox/em-{n}");
        let request = world.request(Method::GET, &path).bearer_auth(world.token("auditor"));
        let request = request.header("exodrive-min-position", end);
        let newest = Answer::of(request).await.unwrap().expect(200);
        eventually("the cache has the newest view", async || {
            let cached = world.get(&path).await;
            (cached.header("x-cache") != "MISS" && cached.json() == newest).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn another_worker_takes_over_from_one_that_hangs_within_5_s() {
    let world = World::start().await;
    let delivery = |n: u32, kind| {
        let body = email_body(kind, "em-1", &format!("2026-11-20T09:0{n}:00Z"), "");
        Delivery::new(format!("msg_{n}"), body)
    };
    world.stored(&delivery(1, "sent")).await;
    world.settled().await;
    let first = workers(&world).await;
    assert_eq!(first.len(), 1, "one worker holds every projection: {first:?}");
    world.start_worker("second");
    eventually("the second worker works", async || {
        world.printed("second").contains("Working").then_some(())
    })
    .await;

    world.signal(WORKER, Signal::SIGSTOP);
    world.stored(&delivery(2, "delivered")).await;
    within(Duration::from_secs(5), "the second worker takes over", async || {
        let now = workers(&world).await;
        let behind: i64 = sqlx::query_scalar("select min(position) from checkpoints")
            .fetch_one(world.database())
            .await
            .unwrap();
        (now.len() == 1 && now != first && behind == 2).then_some(())
    })
    .await;

    world.signal(WORKER, Signal::SIGCONT);
    world.stored(&delivery(3, "opened")).await;
    eventually("the first worker learns that it was replaced", async || {
        // The fence rejected it, or its reader of the log ended in the meantime.
        let printed = world.printed(WORKER);
        let noticed = |text: &str| printed.matches(text).count();
        (noticed("has taken over") + noticed("Projection interrupted") >= 3).then_some(())
    })
    .await;
    world.views_equal_a_fresh_fold().await;
    let (_, row) = &world.rows("inbox").await["em-1"];
    assert_eq!((&row["status"], &row["email"]["repeats"]), (&"opened".into(), &0.into()));
}

/// The workers that hold a projection, each once, and the fencing epochs.
async fn workers(world: &World) -> Vec<String> {
    let sql = "select distinct coalesce(worker, '-') from checkpoints";
    sqlx::query_scalar(sql).fetch_all(world.database()).await.unwrap()
}
