//! Permissions of NATS users: only the operator may change a stream's settings
//! or take messages out of the log. The API's user and the worker's user may
//! not.

use crate::in_process::InProcess;
use async_nats::jetstream::{
    consumer::{AckPolicy, pull, push},
    stream::{Config, State},
};
use exodrive_tests::{
    API, Delivery, PermissionErrors, Process, System, WORKER, World, email_body, eventually,
    free_address, jetstream_as,
};
use futures::future::join_all;
use std::{fs, path::Path, time::Duration};

const STREAMS: [&str; 5] =
    ["EXODRIVE", "EXODRIVE_CANARY", "EXODRIVE_KEYS", "EXODRIVE_SEALS", "EXODRIVE_REFUSALS"];

async fn mail(world: &System, count: usize) {
    for n in 0..count {
        let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", "");
        world.stored(&Delivery::new(format!("msg_{n}"), body)).await;
    }
}

#[tokio::test]
async fn api_and_worker_can_change_no_stream_and_take_nothing_out() {
    let world = InProcess::start().await;
    mail(&world, 3).await;
    world.settled().await;
    let operator = jetstream_as(&world.urls().nats_operator, PermissionErrors::default()).await;
    let mut before = Vec::new();
    for name in STREAMS {
        before.push(operator.get_stream(name).await.unwrap().get_info().await.unwrap());
    }
    let urls = world.urls();
    for url in [&urls.nats, &urls.nats_worker] {
        let refusals = PermissionErrors::default();
        let jetstream = jetstream_as(url, refusals.clone()).await;
        // The server does not answer a publish that it denies. All run at once,
        // since each waits a second.
        let attempts = STREAMS.into_iter().zip(&before).map(async |(name, found)| {
            let stream = jetstream.get_stream(name).await.unwrap();
            let lowered = Config { max_messages: 1, ..found.config.clone() };
            let kept = name == "EXODRIVE_KEYS";
            let (updated, purged, deleted, taken) = tokio::join!(
                jetstream.update_stream(lowered),
                stream.purge().into_future(),
                jetstream.delete_stream(name),
                async { kept || stream.delete_message(1).await.is_err() },
            );
            assert!(updated.is_err() && purged.is_err() && deleted.is_err() && taken, "{name}");
        });
        join_all(attempts).await;
        let other = Config { name: "OTHER".to_owned(), ..Config::default() };
        assert!(jetstream.create_stream(other).await.is_err());
        // Every attempt failed for its permissions, and for no other reason.
        assert_eq!(refusals.lock().unwrap().len(), 3 * 5 + 4 + 1, "{refusals:?}");
    }
    assert!(operator.get_stream("OTHER").await.is_err());
    for (name, before) in STREAMS.into_iter().zip(before) {
        let after = operator.get_stream(name).await.unwrap().get_info().await.unwrap();
        assert_eq!(after.config, before.config, "{name}");
        assert_eq!(after.created, before.created, "{name}");
        // The readiness check and sealing go on writing to these streams.
        if !["EXODRIVE_CANARY", "EXODRIVE_SEALS"].contains(&name) {
            let held = |it: &State| (it.messages, it.bytes, it.first_sequence, it.last_sequence);
            assert_eq!(held(&after.state), held(&before.state), "{name}");
        }
    }
    assert_eq!(world.events().await.len(), 3);
}

#[tokio::test]
async fn the_worker_destroys_keys_and_keeps_seals_and_the_api_does_neither() {
    let world = InProcess::start().await;
    let (refusals, urls) = (PermissionErrors::default(), world.urls());
    let api = jetstream_as(&urls.nats, refusals.clone()).await;
    let worker = jetstream_as(&urls.nats_worker, PermissionErrors::default()).await;
    let ack = api.publish("exo-keys.one", "wrapped".into()).await.unwrap().await.unwrap();
    let keys = api.get_stream("EXODRIVE_KEYS").await.unwrap();
    assert!(keys.delete_message(ack.sequence).await.is_err());
    assert_eq!(keys.direct_get(ack.sequence).await.unwrap().payload, "wrapped");
    let sealed = async |by: &async_nats::jetstream::Context| {
        let sent = by.publish("exo-seals.last", "checkpoint".into()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), sent.into_future()).await
    };
    assert!(!matches!(sealed(&api).await, Ok(Ok(_))));
    assert_eq!(refusals.lock().unwrap().len(), 2, "{refusals:?}");

    let same = worker.get_stream("EXODRIVE_KEYS").await.unwrap();
    same.delete_message(ack.sequence).await.unwrap();
    assert!(keys.direct_get(ack.sequence).await.is_err());
    sealed(&worker).await.unwrap().unwrap();

    // A consumer cannot be used to deliver messages to a subject where
    // publishing is denied.
    let stream = api.get_stream("EXODRIVE_REFUSALS").await.unwrap();
    for (name, to) in [("a", "exo-seals.last"), ("b", "$JS.API.STREAM.DELETE.EXODRIVE_CANARY")] {
        let config = push::Config {
            durable_name: Some(name.to_owned()),
            deliver_subject: to.to_owned(),
            ack_policy: AckPolicy::None,
            ..push::Config::default()
        };
        // The server may deny it as well.
        let _ = stream.create_consumer(config).await;
    }
    api.publish("exo-refusals.none", "".into()).await.unwrap().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seals = worker.get_stream("EXODRIVE_SEALS").await.unwrap();
    let last = seals.get_last_raw_message_by_subject("exo-seals.last").await.unwrap();
    assert_eq!((last.sequence, &last.payload[..]), (1, &b"checkpoint"[..]));
    worker.get_stream("EXODRIVE_CANARY").await.unwrap();
}

/// An answer may hold what only the one who asked may know.
#[tokio::test]
async fn nobody_receives_answers_that_are_meant_for_others() {
    let world = InProcess::start().await;
    let urls = world.urls();
    let as_one = async |url: &str| {
        let refusals = PermissionErrors::default();
        (jetstream_as(url, refusals.clone()).await.client(), refusals)
    };
    let (api, worker) = (as_one(&urls.nats).await, as_one(&urls.nats_worker).await);
    for ((client, refusals), other) in [(&api, "worker"), (&worker, "api")] {
        for answers in ["_INBOX.>".to_owned(), format!("_INBOX.exodrive-{other}.>")] {
            let _subscription = client.subscribe(answers.clone()).await.unwrap();
            let quoted = format!("\"{answers}\"");
            eventually("the server refuses that", async || {
                refusals.lock().unwrap().iter().any(|it| it.contains(&quoted)).then_some(())
            })
            .await;
        }
        // It has its own answers all the same.
        client.request("$SYS.REQ.USER.INFO", "".into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_consumer_that_nobody_reads_does_not_stay() {
    let world = InProcess::start().await;
    let api = jetstream_as(&world.urls().nats, PermissionErrors::default()).await;
    for name in ["EXODRIVE", "EXODRIVE_KEYS", "EXODRIVE_SEALS", "EXODRIVE_REFUSALS"] {
        let stream = api.get_stream(name).await.unwrap();
        let durable = |inactive_threshold| pull::Config {
            durable_name: Some("stays".to_owned()),
            inactive_threshold,
            ..pull::Config::default()
        };
        let day = Duration::from_secs(24 * 3_600);
        stream.create_consumer(durable(day)).await.unwrap_err();
        let mut made = stream.create_consumer(durable(Duration::ZERO)).await.unwrap();
        let kept = made.info().await.unwrap().config.inactive_threshold;
        assert_eq!(kept, Duration::from_secs(60), "{name}");
    }
}

#[tokio::test]
async fn ordinary_work_meets_no_denial() {
    let world = World::start().await;
    mail(&world, 20).await;
    world.settled().await;
    for arguments in [
        &["projections", "rebuild", "inbox", "--reason", "a test"][..],
        &["projections", "verify", "--all"],
        &["replay", "email", "em-1"],
        &["demo"],
    ] {
        world.exodrive(arguments).await;
    }
    world.kill(API);
    world.kill(WORKER);
    let printed = world.nats_printed();
    assert!(printed.contains("Server is ready"));
    let refused = printed.lines().find(|line| line.contains("Violation"));
    assert_eq!(refused, None);
    // The server's log would show a violation: it shows those of the doctor.
    world.exodrive(&["doctor"]).await;
    assert!(world.nats_printed().contains("Violation"));
}

/// Runs NATS with docs/nats.conf on other ports, changed by `change`.
fn server(world: &World, folder: &Path, change: impl Fn(String) -> String) -> (Process, [u16; 2]) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let ports = [free_address().port(), free_address().port()];
    let text = fs::read_to_string(docs.join("nats.conf")).unwrap();
    let text = text
        .replace("127.0.0.1:4222\"\n", &format!("127.0.0.1:{}\"\n", ports[0]))
        .replace("127.0.0.1:8222\"\n", &format!("127.0.0.1:{}\"\n", ports[1]))
        .replace("\"nats-data\"", &format!("{:?}", folder.join("data")));
    let file = folder.join("nats.conf");
    fs::write(&file, change(text)).unwrap();
    fs::copy(docs.join("nats-permissions.conf"), folder.join("nats-permissions.conf")).unwrap();
    let pid = world.services.pid(exodrive_runtime::services::Service::Nats).unwrap();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let env = ["OPERATOR", "API", "WORKER"]
        .map(|user| (format!("EXODRIVE_NATS_{user}_PASSWORD"), format!("secret-{user}")));
    let arguments = ["-c", file.to_str().unwrap()];
    (Process::start(&program, &arguments, &env, &folder.join("nats.log")), ports)
}

/// The finding of `exodrive doctor` about one part.
pub(crate) async fn said_of(world: &System, part: &str) -> String {
    let done = world.exodrive(&["doctor"]).await;
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    let line = printed.lines().find(|line| line.contains(part));
    line.unwrap_or_else(|| panic!("nothing of {part}: {printed}")).to_owned()
}

#[tokio::test]
async fn the_doctor_proves_the_permissions_of_the_documented_server() {
    let mut world = World::without_processes(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let url = |user: &str, ports: [u16; 2]| {
        let password = format!("secret-{}", user.to_uppercase());
        format!("nats://exodrive-{user}:{password}@127.0.0.1:{}", ports[0])
    };
    let point_at = |world: &mut World, ports: [u16; 2]| {
        world.set("EXODRIVE_NATS_URL", &url("api", ports));
        world.set("EXODRIVE_NATS_WORKER_URL", &url("worker", ports));
        world.set("EXODRIVE_NATS_OPERATOR_URL", &url("operator", ports));
        world.set("EXODRIVE_NATS_MONITOR_URL", &format!("http://127.0.0.1:{}", ports[1]));
    };
    let (documented, ports) = server(&world, folder.path(), |text| text);
    point_at(&mut world, ports);
    world.set("EXODRIVE_LOG_SYNC", "always");
    world.migrate().await;
    for part in ["event log", "log writes", "nats api", "nats worker", "nats operator"] {
        let said = said_of(&world, part).await;
        assert!(said.contains(" ok "), "{said}");
    }
    // The operator's tasks are given to a user who may not do them.
    world.set("EXODRIVE_NATS_OPERATOR_URL", &url("worker", ports));
    let said = said_of(&world, "nats operator").await;
    assert!(said.contains("FAULT") && said.contains("may not publish to $JS.API."), "{said}");
    // One user has both roles, where that is possible.
    world.set("EXODRIVE_NATS_OPERATOR_URL", &url("operator", ports));
    world.set("EXODRIVE_NATS_WORKER_URL", &url("api", ports));
    let said = said_of(&world, "nats user").await;
    assert!(said.contains(" ok "), "{said}");
    drop(documented);

    let (mighty, ports) = server(&world, folder.path(), |text| {
        // The server says that an included variable which no user refers to is
        // unknown.
        let spare = "users: [\n    { user: spare, password: spare, permissions: $EXODRIVE_API }";
        text.replace("permissions: $EXODRIVE_API ", "permissions: $EXODRIVE_OPERATOR ")
            .replace("users: [", spare)
    });
    point_at(&mut world, ports);
    eventually("the server answers", async || {
        std::net::TcpStream::connect(("127.0.0.1", ports[0])).ok()
    })
    .await;
    let said = said_of(&world, "nats api").await;
    assert!(said.contains("FAULT") && said.contains("must not be able to publish to"), "{said}");
    assert!(said.contains("must not receive the answers"), "{said}");
    assert!(said_of(&world, "nats worker").await.contains(" ok "));
    // Without another user it is a note: it was so before there were users.
    world.set("EXODRIVE_NATS_OPERATOR_URL", &url("api", ports));
    world.set("EXODRIVE_NATS_WORKER_URL", &url("api", ports));
    let said = said_of(&world, "nats user").await;
    assert!(said.contains(" note ") && said.contains("may do everything"), "{said}");
    // The attempts have changed nothing.
    let jetstream = jetstream_as(&url("operator", ports), PermissionErrors::default()).await;
    for name in STREAMS {
        let info = jetstream.get_stream(name).await.unwrap().get_info().await.unwrap();
        // The exceptions are the messages of the readiness check, and the key
        // that makes MACs.
        let expected = ["EXODRIVE_CANARY", "EXODRIVE_KEYS"].contains(&name);
        assert_eq!(info.state.messages, u64::from(expected), "{name}");
    }
    drop(mighty);
}
