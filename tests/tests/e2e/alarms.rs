//! No false alarm: connections that are cut lose what is on its way, and nobody takes that for
//! events that are missing. A true hole is found all the same.

use crate::{
    append::{decision, log_of},
    edited_log,
    in_process::take_system,
    seal::{deliver, sealed},
};
use exodrive_log::{Log, Reader};
use exodrive_runtime::services::{Service, ServiceUrls};
use exodrive_tests::{Delivery, Exposed, Proxy, WORKER, World, email_body, eventually, key};
use futures::future::join_all;
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::sleep;

const POSTERS: usize = 8;
/// The time between two deliveries of a poster.
const BREATH: Duration = Duration::from_millis(40);
const BODY: usize = 20_000;
/// As long as connections are cut; what comes afterwards takes a few seconds.
const STORM: Duration = Duration::from_secs(12);
/// Fewer would not be a test.
const CUTS: usize = 150;

/// Cuts connections to NATS until `done`, each as soon as the last one is made again. Gives how
/// many.
async fn storm(exposed: &Exposed, done: &AtomicBool) -> usize {
    let [api, worker] = exposed.ways_to(Service::Nats);
    let worker = cut(worker, Duration::from_millis(12), done);
    let api = cut(api, Duration::from_millis(400), done);
    let (worker, api) = tokio::join!(worker, api);
    worker + api
}

/// Each connection stands for a while, then is cut. Gives the number of cuts.
async fn cut(proxy: &Proxy, stands: Duration, done: &AtomicBool) -> usize {
    let mut cuts = 0;
    while !done.load(Ordering::Relaxed) {
        let before = proxy.accepted();
        match cuts % 5 {
            4 => proxy.half_close(),
            _ => proxy.cut(),
        }
        cuts += 1;
        // A worker that has found a true hole may end by itself.
        eventually("the connection is made again", async || {
            (proxy.accepted() > before || done.load(Ordering::Relaxed)).then_some(())
        })
        .await;
        sleep(stands).await;
    }
    cuts
}

/// Posts large deliveries until `done`, each until it is taken.
async fn post(
    world: &World,
    next: &AtomicUsize,
    taken: &Mutex<BTreeSet<String>>,
    done: &AtomicBool,
) {
    let filling = format!(r#","text":"{}""#, "x".repeat(BODY));
    while !done.load(Ordering::Relaxed) {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", &filling);
        let delivery = Delivery::new(format!("msg_{n}"), body);
        world.post_until_taken(&delivery).await;
        taken.lock().unwrap().insert(delivery.id);
        sleep(BREATH).await;
    }
}

#[tokio::test]
async fn hundreds_of_cut_connections_under_load_are_no_alarm_and_lose_nothing() {
    let exposed = Exposed::start().await;
    let world = &exposed.world;
    let worker = exposed.worker.to_service(Service::Nats);
    // Something is always on its way.
    worker.delay(Duration::from_millis(2));
    let (next, taken) = (AtomicUsize::new(0), Mutex::default());
    let (calm, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let began = Instant::now();
    let clock = async {
        sleep(STORM).await;
        calm.store(true, Ordering::Relaxed);
        done.store(true, Ordering::Relaxed);
    };
    let posters = join_all((0..POSTERS).map(|_| post(world, &next, &taken, &done)));
    let (_, cuts, ()) = tokio::join!(posters, storm(&exposed, &calm), clock);
    let taken = taken.into_inner().unwrap();
    worker.delay(Duration::ZERO);

    let events = world.views_equal_a_fresh_fold().await;
    let ids: BTreeSet<_> = events.iter().map(|event| event.envelope.id.clone()).collect();
    println!(
        "{cuts} cuts, {} acknowledged, {} in the log, {:.1?}",
        taken.len(),
        events.len(),
        began.elapsed()
    );
    assert_eq!(ids.len(), events.len(), "the log holds each once");
    assert_eq!(ids, taken, "all that was acknowledged is in the log, and nothing else");
    assert_eq!(world.rows("deliveries").await.len(), taken.len());
    sealed(world, events.len() as u64).await;
    exposed.is_calm().await;
    assert!(cuts >= CUTS, "only {cuts} cuts");
}

#[tokio::test]
async fn a_true_hole_is_found_while_connections_are_cut() {
    let exposed = Exposed::start().await;
    let world = &exposed.world;
    deliver(world, 12).await;
    sealed(world, 12).await;
    let done = AtomicBool::new(false);
    let found = async {
        // The server leaves out what it finds damaged.
        edited_log::edit(world, |bytes| {
            let place = bytes.len() / 2;
            bytes[place] ^= 0xff;
        })
        .await;
        eventually("sealing halts", async || {
            world.printed(WORKER).contains("Sealing has halted").then_some(())
        })
        .await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        cut(exposed.worker.to_service(Service::Nats), Duration::from_millis(100), &done),
        found
    );
    let ready = world.get("/readyz").await.json();
    assert_eq!(ready["checks"]["seals"]["ok"], false, "{ready}");
}

/// A log on a server, and the same one behind a proxy.
async fn two_ways() -> (Log, Proxy, Log) {
    let urls = take_system();
    let timeout = Duration::from_secs(2);
    let log = log_of(&urls, timeout).await;
    let proxy = Proxy::start(&urls.nats).await;
    let proxied = ServiceUrls { nats: proxy.url(&urls.nats), ..urls };
    let behind = log_of(&proxied, timeout).await;
    (log, proxy, behind)
}

/// Appends events of one email.
async fn append(log: &Log, count: usize) {
    for _ in 0..count {
        log.append_fact(&decision("alarm", &key())).await.unwrap();
    }
}

/// The positions that a reader gives until `last`.
async fn positions(reader: &mut Reader, last: u64) -> Vec<u64> {
    let mut all = Vec::new();
    eventually("the reader reaches the last event", async || {
        let batch = reader.next_batch(100, Duration::from_secs(3)).await.unwrap();
        all.extend(batch.events.iter().map(|event| event.position));
        (all.last() >= Some(&last)).then_some(()).ok_or_else(|| format!("{all:?}"))
    })
    .await;
    all
}

#[tokio::test]
async fn a_reader_gives_again_what_got_lost_on_its_way() {
    let (log, proxy, behind) = two_ways().await;
    let mine = ["exo.email.>".to_owned()];
    let readers = [behind.reader(1), behind.reader_of(&mine, 1)];
    for (mut reader, filter) in readers.into_iter().zip(["no filter", "a filter"]) {
        let end = log.last_position().await.unwrap();
        append(&log, 1).await;
        let first = positions(&mut reader, end + 1).await;
        assert_eq!(first.last(), Some(&(end + 1)), "{filter}");
        // The server sends these to a reader that waits, and they get nowhere.
        proxy.black_hole(true);
        append(&log, 3).await;
        sleep(Duration::from_millis(100)).await;
        proxy.black_hole(false);
        // One that arrives shows that others were lost ...
        append(&log, 1).await;
        assert_eq!(
            positions(&mut reader, end + 5).await,
            [end + 2, end + 3, end + 4, end + 5],
            "{filter}"
        );
        proxy.black_hole(true);
        append(&log, 2).await;
        sleep(Duration::from_millis(100)).await;
        let before = proxy.accepted();
        proxy.black_hole(false);
        proxy.cut();
        eventually("it connects again", async || (proxy.accepted() > before).then_some(())).await;
        // ... and if none arrives, the cut connection does.
        assert_eq!(positions(&mut reader, end + 7).await, [end + 6, end + 7], "{filter}");
    }
}

#[tokio::test]
async fn a_missing_event_is_asked_for_again_a_moment_later() {
    let log = log_of(&take_system(), Duration::from_secs(2)).await;
    append(&log, 1).await;
    // The first answer is that of a leader that is not up to date.
    let later = async {
        sleep(Duration::from_millis(300)).await;
        append(&log, 1).await;
    };
    let asked = async { tokio::join!(log.last_position_expecting(2), log.read_expected(2)) };
    let ((end, event), ()) = tokio::join!(asked, later);
    assert_eq!(end.unwrap(), 2);
    assert_eq!(event.unwrap(), log.read_stored(2).await.unwrap());
    // What is not there is missing in the end.
    let began = Instant::now();
    let (end, event) = tokio::join!(log.last_position_expecting(3), log.read_expected(3));
    assert_eq!((end.unwrap(), event.unwrap()), (2, None));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
