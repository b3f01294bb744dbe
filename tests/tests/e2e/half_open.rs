//! Connections that are dead without either side knowing it: a network has forgotten them, and
//! answers nothing.

use exodrive_runtime::services::Service;
use exodrive_tests::{API, Answer, Delivery, Exposed, Proxy, email_body, within};
use futures::future::join_all;
use reqwest::Method;
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
