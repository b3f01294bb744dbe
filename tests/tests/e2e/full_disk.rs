//! A log whose disk is full: it says so, takes nothing, and loses nothing. (NATS may write no file
//! beyond a size, which fails like a full disk, and is as final for the stream.)

use crate::cli::Up;
use exodrive_runtime::{folder, services::Service};
use exodrive_tests::{
    API, Answer, Delivery, WAIT_TIMEOUT, World, email_body, eventually, sign, within,
};
use reqwest::Method;
use serde_json::Value;
use std::process::Command;

/// The size of a file beyond which NATS cannot write.
const SMALL: u64 = 300_000;
const BODY: usize = 30_000;
/// Deliveries that do not fit.
const MANY: usize = 20;

/// Sets the size beyond which a process can write no file.
fn limit_files(pid: u32, bytes: Option<u64>) {
    let bytes = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    let limit = format!("--fsize={bytes}:");
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(limited.unwrap().success());
}

fn delivery(n: usize) -> Delivery {
    let padding = "x".repeat(BODY);
    let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", &padding);
    Delivery::new(format!("msg_{n}"), body)
}

/// What `/readyz` of a process says of the log, once it is not ready for its sake.
async fn not_ready_for_the_log(world: &World, process: &str) -> String {
    let what = format!("/readyz of {process} names the log");
    let problem = eventually(&what, async || {
        let answer = Answer::of(world.request_to(process, Method::GET, "/readyz")).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let check = answer.json()["checks"]["log"].clone();
        let problem = check["problem"].as_str().filter(|_| answer.status == 503);
        problem.map(str::to_owned).ok_or_else(|| answer.json().to_string())
    });
    problem.await
}

#[tokio::test]
async fn a_full_disk_takes_no_event_is_named_by_readiness_and_loses_nothing() {
    // This process sees what becomes of its appends, the other what the monitoring endpoint says.
    let nobody = "http://127.0.0.1:1";
    let world = World::with(&[("EXODRIVE_NATS_MONITOR_URL", nobody)]).await;
    let monitor = world.urls().nats_monitor.clone().unwrap();
    world.start_with("idle", API, &[("EXODRIVE_NATS_MONITOR_URL", &monitor)]);
    let idle = world.wait_until_at("idle", "ready").await;
    assert!(idle["checks"]["log_store"]["used_percent"].is_number(), "{idle}");

    limit_files(world.services.pid(Service::Nats).unwrap(), Some(SMALL));
    let mut taken = Vec::new();
    let refused = loop {
        let next = delivery(taken.len());
        let answer = world.post(&next).await;
        if answer.status != 200 {
            break answer;
        }
        taken.push(next.id);
        assert!(taken.len() < MANY, "everything was stored");
    };
    assert!(!taken.is_empty());
    refused.problem(503, "log_unavailable");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    let problem = not_ready_for_the_log(&world, API).await;
    assert!(problem.contains("stores no event"), "{problem}");
    let problem = not_ready_for_the_log(&world, "idle").await;
    assert!(problem.contains("could not write to its disk"), "{problem}");
    eventually("the alarm is raised", async || {
        let stuck = world.metric(API, "exodrive_log_stuck").await;
        let idle = world.metric("idle", "exodrive_log_stuck").await;
        (stuck == Some(1.0) && idle == Some(1.0)).then_some(()).ok_or(format!("{stuck:?} {idle:?}"))
    })
    .await;

    // Space alone does not help: the stream is stuck until the server is restarted.
    limit_files(world.services.pid(Service::Nats).unwrap(), None);
    world.post(&delivery(MANY)).await.problem(503, "log_unavailable");
    not_ready_for_the_log(&world, API).await;
    not_ready_for_the_log(&world, "idle").await;

    world.services.stop_service(Service::Nats).await.unwrap();
    world.services.start_service(Service::Nats).await.unwrap();
    world.wait_until("ready").await;
    world.wait_until_at("idle", "ready").await;
    world.post_until_taken(&delivery(MANY)).await;
    taken.push(delivery(MANY).id);
    let events = world.views_equal_a_fresh_fold().await;
    for id in &taken {
        let stored = events.iter().filter(|event| event.envelope.id == *id).count();
        assert_eq!(stored, 1, "{id} was acknowledged");
    }
}

#[tokio::test]
async fn a_log_that_may_hold_no_more_refuses_events_drops_none_and_is_named_by_readiness() {
    let world = World::start().await;
    let jetstream = world.jetstream().await;
    let first = world.stored(&delivery(0)).await;
    let limit = async |bytes: i64| {
        let mut stream = jetstream.get_stream("EXODRIVE").await.unwrap();
        let config = stream.info().await.unwrap().config.clone();
        let config = async_nats::jetstream::stream::Config { max_bytes: bytes, ..config };
        jetstream.update_stream(config).await.unwrap();
    };
    limit(BODY as i64 * 2).await;
    let mut taken = vec![delivery(0).id];
    let refused = loop {
        let next = delivery(taken.len());
        let answer = world.post(&next).await;
        if answer.status != 200 {
            break answer;
        }
        taken.push(next.id);
        assert!(taken.len() < MANY, "everything was stored");
    };
    refused.problem(503, "log_unavailable");
    let problem = not_ready_for_the_log(&world, API).await;
    assert!(problem.contains("stores no event"), "{problem}");
    limit(-1).await;
    let last = delivery(taken.len());
    world.post_until_taken(&last).await;
    taken.push(last.id);
    world.wait_until("ready").await;
    let events = world.views_equal_a_fresh_fold().await;
    let ids: Vec<_> = events.iter().map(|event| event.envelope.id.clone()).collect();
    assert_eq!((ids, first), (taken, 1));
}

/// The answer to a delivery that is posted to `exodrive up`: its position in the log, or the status.
async fn post(up: &Up, client: &reqwest::Client, delivery: &Delivery) -> Result<u64, u16> {
    let secret = folder::secrets(&up.folder.path().join("data")).unwrap().webhook;
    let at = chrono::Utc::now().timestamp();
    let signature = sign(secret.expose(), &delivery.id, at, &delivery.body);
    let request = client
        .post(format!("{}/v1/webhooks/resend", up.url))
        .header("content-type", "application/json")
        .header("svix-id", &delivery.id)
        .header("svix-timestamp", at.to_string())
        .header("svix-signature", signature)
        .body(delivery.body.clone());
    let answer = request.send().await.unwrap();
    match answer.status().as_u16() {
        200 => Ok(answer.json::<Value>().await.unwrap()["position"].as_u64().unwrap()),
        status => Err(status),
    }
}

#[tokio::test]
async fn under_up_a_full_disk_recovers_by_itself_when_there_is_space() {
    let mut up = Up::start();
    up.is_up().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let pid = std::fs::read_to_string(up.folder.path().join("data/nats/nats.pid")).unwrap();
    // The server that takes its place has no such limit.
    limit_files(pid.trim().parse().unwrap(), Some(SMALL));
    let mut taken = Vec::new();
    loop {
        match post(&up, &client, &delivery(taken.len())).await {
            Ok(position) => taken.push((delivery(taken.len()).id, position)),
            Err(status) => break assert_eq!(status, 503),
        }
        assert!(taken.len() < MANY, "everything was stored");
    }
    let last = delivery(MANY);
    let position = within(2 * WAIT_TIMEOUT, "the log takes events again", async || {
        post(&up, &client, &last).await.map_err(|status| format!("{status}: {}", up.printed()))
    })
    .await;
    taken.push((last.id, position));
    let printed = up.printed();
    assert!(printed.contains("it is started again"), "it says so: {printed}");
    eventually("the system is ready", async || {
        let answer = client.get(format!("{}/readyz", up.url)).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        (status == 200).then_some(()).ok_or(format!("{status}"))
    })
    .await;
    let env = up.prints(&["env"]).await;
    let nats = env.lines().find_map(|it| it.strip_prefix("EXODRIVE_NATS_OPERATOR_URL=")).unwrap();
    let jetstream = exodrive_tests::jetstream_as(nats, Default::default()).await;
    let log = jetstream.get_stream("EXODRIVE").await.unwrap();
    for (id, position) in taken {
        let stored = log.get_raw_message(position).await.unwrap();
        assert_eq!(stored.headers.get("ce-id").unwrap().as_str(), id, "at {position}");
    }
}
