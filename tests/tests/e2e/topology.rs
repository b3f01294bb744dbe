//! Settings of the log: a start fails if the log could lose or change an event,
//! and names the setting.

use crate::in_process::InProcess;
use async_nats::jetstream::{self, stream::Config};
use exodrive_runtime::services::Service;
use exodrive_tests::{
    API, Answer, Delivery, PermissionErrors, WORKER, World, email_body, eventually, free_address,
    jetstream_as, open_log,
};
use reqwest::Method;
use std::{fs, time::Duration};

/// Runs a command that fails to start, and returns what it prints.
async fn refusal(world: &World, command: &str) -> String {
    let done = world.exodrive(&[command]).await;
    assert_eq!(done.status.code(), Some(1), "{command}");
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[tokio::test]
async fn a_start_fails_and_names_the_wrong_setting() {
    let mut world = World::without_processes(&[]).await;
    let jetstream = jetstream_as(&world.urls().nats_operator, PermissionErrors::default()).await;

    // The private server of a test does not flush before it acknowledges.
    world.set("EXODRIVE_LOG_SYNC", "always");
    for command in ["migrate", "serve", "work"] {
        let said = refusal(&world, command).await;
        assert!(said.contains("sync_interval") && said.contains("EXODRIVE_LOG_SYNC"), "{said}");
        assert!(jetstream.get_stream("EXODRIVE").await.is_err(), "and nothing was made");
    }
    world.set("EXODRIVE_LOG_SYNC", "default");
    let said = refusal(&world, "doctor").await;
    assert!(said.contains("no stream EXODRIVE") && said.contains("exodrive migrate"), "{said}");
    world.migrate().await;
    jetstream.delete_stream("EXODRIVE").await.unwrap();

    let valid = || Config {
        name: "EXODRIVE".to_owned(),
        subjects: vec!["exo.>".to_owned()],
        discard: jetstream::stream::DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        allow_atomic_publish: true,
        duplicate_window: Duration::from_secs(3 * 24 * 3600),
        ..Config::default()
    };
    for (setting, config) in [
        ("deny_purge", Config { deny_purge: false, ..valid() }),
        ("deny_delete", Config { deny_delete: false, ..valid() }),
        ("max_msgs", Config { max_messages: 1_000_000, ..valid() }),
        ("max_age", Config { max_age: Duration::from_secs(30 * 24 * 3600), ..valid() }),
        ("discard", Config { discard: jetstream::stream::DiscardPolicy::Old, ..valid() }),
        ("allow_atomic", Config { allow_atomic_publish: false, ..valid() }),
        ("subjects", Config { subjects: vec!["exo.email.*".to_owned()], ..valid() }),
        ("duplicate_window", Config { duplicate_window: Duration::from_secs(120), ..valid() }),
    ] {
        jetstream.create_stream(config).await.unwrap();
        for command in ["serve", "work", "migrate", "doctor"] {
            let said = refusal(&world, command).await;
            let wrong = format!("{setting} of stream EXODRIVE is ");
            assert!(said.contains(&wrong), "{command} with {setting}: {said}");
        }
        jetstream.delete_stream("EXODRIVE").await.unwrap();
    }

    // The same with valid settings: the failures above had no other cause. A limit that refuses
    // what is new loses nothing.
    jetstream.create_stream(Config { max_bytes: 10 << 20, ..valid() }).await.unwrap();
    world.start_api();
    world.wait_until("not_ready").await;
    world.kill(API);
    world.set("EXODRIVE_DUPLICATE_WINDOW", "1h");
    let said = refusal(&world, "serve").await;
    assert!(said.contains("duplicate_window of stream EXODRIVE is "), "{said}");
    world.set("EXODRIVE_DUPLICATE_WINDOW", "3d");

    // The streams beside the log are checked as well.
    let keys = jetstream.get_stream("EXODRIVE_KEYS").await.unwrap().get_info().await.unwrap();
    let weak = Config { max_messages: 1_000, ..keys.config };
    jetstream.update_stream(weak).await.unwrap();
    for command in ["serve", "migrate"] {
        let said = refusal(&world, command).await;
        assert!(said.contains("max_msgs of stream EXODRIVE_KEYS is 1000"), "{said}");
    }
}

#[tokio::test]
async fn a_log_that_is_full_refuses_what_is_new_and_loses_nothing() {
    let world = InProcess::start().await;
    world.settled().await;
    let jetstream = jetstream_as(&world.urls().nats_operator, PermissionErrors::default()).await;
    let info = jetstream.get_stream("EXODRIVE").await.unwrap().get_info().await.unwrap();
    let limit = i64::try_from(info.state.bytes).unwrap() + 20_000;
    let limited = |max_bytes| Config { max_bytes, ..info.config.clone() };
    jetstream.update_stream(limited(limit)).await.unwrap();
    let delivery = |n: usize| {
        let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", "");
        Delivery::new(format!("msg_{n}"), body)
    };
    let mut taken = 0;
    let full = loop {
        let answer = world.post(&delivery(taken)).await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1_000, "the limit is not reached");
    };
    assert!(taken > 0);
    assert_eq!(full.status, 503, "as long as it is full");
    assert!(full.headers.contains_key("retry-after"));
    // A process starts on such a log, and readers have all that was acknowledged.
    assert_eq!(world.events().await.len(), taken);
    open_log(&world.urls().nats).await;
    jetstream.update_stream(limited(-1)).await.unwrap();
    world.post_until_taken(&delivery(taken)).await;
    assert_eq!(world.events().await.len(), taken + 1);
    world.settled().await;
}

#[tokio::test]
async fn a_start_fails_if_nobody_knows_whether_the_log_is_flushed() {
    let mut world = World::without_processes(&[]).await;
    let silent = free_address();
    world.set("EXODRIVE_LOG_SYNC", "always");
    world.set("EXODRIVE_NATS_MONITOR_URL", &format!("http://{silent}"));
    // The doctor does not wait.
    let done = world.exodrive(&["doctor"]).await;
    let said = String::from_utf8_lossy(&done.stdout).replace(['\n', '|'], " ");
    assert!(said.contains("unknown") && said.contains("does not answer"), "{said}");
    assert!(said.contains("EXODRIVE_LOG_SYNC=unchecked"), "{said}");
    world.unset("EXODRIVE_NATS_MONITOR_URL");
    for command in ["migrate", "serve", "work"] {
        let said = refusal(&world, command).await;
        assert!(said.contains("no monitoring endpoint") && said.contains("unchecked"), "{said}");
    }
    world.set("EXODRIVE_LOG_SYNC", "unchecked");
    world.migrate().await;
}

#[tokio::test]
async fn a_log_that_flushes_no_more_is_reported_while_it_is_used() {
    let mut world = World::without_processes(&[]).await;
    world.set("EXODRIVE_LOG_SYNC", "always");
    let flushes = async |always: bool| {
        world.services.stop_service(Service::Nats).await.unwrap();
        let file = world.data_dir().join("nats/nats.conf");
        let config = fs::read_to_string(&file).unwrap().replace("  sync_interval: always\n", "");
        let (begin, setting) = ("jetstream {\n", "  sync_interval: always\n");
        assert!(config.contains(begin), "{config}");
        let setting = if always { setting } else { "" };
        fs::write(&file, config.replace(begin, &format!("{begin}{setting}"))).unwrap();
        world.services.start_service(Service::Nats).await.unwrap();
    };
    flushes(true).await;
    world.migrate().await;
    world.start_api();
    world.start_worker(WORKER);
    // What readiness says of it, and the metric.
    let is_reported = async |what: &str, weak: bool| {
        eventually(what, async || {
            let answer = Answer::of(world.request(Method::GET, "/readyz")).await;
            let said = answer.map_err(|error| error.to_string())?.json();
            let problem = said["checks"]["log_store"]["problem"].as_str().unwrap_or_default();
            let named = problem.contains("acknowledges before it has flushed");
            let status = said["status"] == if weak { "degraded" } else { "ready" };
            let metric = world.metric(API, "exodrive_log_acknowledges_unflushed").await;
            let all = status && named == weak && metric == Some(f64::from(u8::from(weak)));
            all.then_some(()).ok_or_else(|| format!("{metric:?} {said}"))
        })
        .await;
    };
    is_reported("all is well", false).await;
    flushes(false).await;
    is_reported("it is reported that the log does not flush first any more", true).await;
    let printed = world.printed(API);
    let lines = printed.matches("acknowledges events before it has flushed").count();
    assert_eq!(lines, 1, "it is said once: {printed}");
    flushes(true).await;
    is_reported("all is well again", false).await;
}

#[tokio::test]
async fn a_start_fails_without_what_it_needs() {
    let mut world = World::without_processes(&[]).await;
    for secret in ["whsec_", "whsec_not base64", ","] {
        world.set("EXODRIVE_RESEND_WEBHOOK_SECRETS", secret);
        let done = world.exodrive(&["serve"]).await;
        assert_eq!(done.status.code(), Some(2));
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("EXODRIVE_RESEND_WEBHOOK_SECRETS"), "{said}");
    }
    let secret = world.webhook_secret.clone();
    world.set("EXODRIVE_RESEND_WEBHOOK_SECRETS", &secret);
    world.set("EXODRIVE_RATE_LIMIT_PUBLIC", "many");
    let done = world.exodrive(&["serve"]).await;
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("--rate-limit-public"));
}

#[tokio::test]
async fn every_command_that_appends_refuses_a_log_that_serve_would_refuse() {
    let mut world = World::start().await;
    world.settled().await;
    let end = world.log().await.last_position().await.unwrap();
    // The private server of a test does not flush before it acknowledges.
    world.set("EXODRIVE_LOG_SYNC", "always");
    let season = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/season");
    for command in [
        &["import", season][..],
        &["projections", "pause", "inbox", "--reason", "a try"],
        &["projections", "rebuild", "inbox", "--reason", "a try"],
        &["projections", "rollback", "inbox", "--reason", "a try"],
        &["audit", "erase", "--email-address", "ada@example.com", "--reason", "a try"],
        &["audit", "hold", "--email-address", "ada@example.com", "--reason", "a try"],
    ] {
        let done = world.exodrive(command).await;
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("sync_interval") && said.contains("EXODRIVE_LOG_SYNC"), "{said}");
    }
    assert_eq!(world.log().await.last_position().await.unwrap(), end, "nothing was appended");
}
