//! The private services, with real servers.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use exodrive_runtime::services::{
    Options, Output, PrivateServices, ProcessSpec, Service, ServiceError, Signal, SyncMode,
    running, supervise,
};

fn options(data_dir: &Path) -> Options {
    Options { ephemeral: false, ..Options::for_tests(data_dir) }
}

fn alive(pid: u32) -> bool {
    // A process that ended and was not waited for has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| !text.is_empty())
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn faults_restarts_and_a_second_start() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let services = PrivateServices::start(options(&dir)).await.unwrap();
    let urls = services.urls().clone();
    assert_eq!(running(&dir), Some(urls.clone()));
    assert!(format!("{urls:?}").contains("nats: \"nats://***@127.0.0.1:"));

    match PrivateServices::start(options(&dir)).await {
        Err(ServiceError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        _ => unreachable!("a second start on one data folder"),
    }

    for service in Service::ALL {
        let before = services.pid(service).unwrap();
        services.signal(service, Signal::SIGKILL).unwrap();
        eventually("a restart", || services.pid(service).is_some_and(|pid| pid != before)).await;
        services.wait_until_ready(service).await.unwrap();
        assert_eq!(services.restarts(service), 1);

        services.signal(service, Signal::SIGSTOP).unwrap();
        let wait = services.wait_until_ready(service);
        // A stopped Redis or NATS does not answer; nor does Postgres, whose postmaster must fork.
        assert!(tokio::time::timeout(Duration::from_millis(300), wait).await.is_err(), "{service}");
        services.signal(service, Signal::SIGCONT).unwrap();
        services.wait_until_ready(service).await.unwrap();
    }

    services.stop_service(Service::Redis).await.unwrap();
    assert_eq!(services.pid(Service::Redis), None);
    assert!(matches!(
        services.signal(Service::Redis, Signal::SIGKILL),
        Err(ServiceError::NotRun(Service::Redis))
    ));
    services.start_service(Service::Redis).await.unwrap();

    let data = fs::canonicalize(dir.join("postgres")).unwrap();
    fs::write(data.join("mark"), "").unwrap();
    services.stop().await;
    assert_eq!(running(&dir), None);

    let again =
        PrivateServices::start(Options { sync: SyncMode::Always, ..options(&dir) }).await.unwrap();
    assert_eq!(again.urls(), &urls);
    assert_eq!(fs::canonicalize(dir.join("postgres")).unwrap(), data);
    assert!(data.join("mark").exists());
    assert!(
        fs::read_to_string(dir.join("nats/nats.conf")).unwrap().contains("sync_interval: always")
    );
    again.stop().await;

    // The file of an earlier release: one user of NATS, and addresses of fewer
    // users.
    let file = dir.join("services.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    saved["nats_password"] = "of one user".into();
    for user in ["api", "worker", "operator"] {
        saved.as_object_mut().unwrap().remove(&format!("nats_{user}_password")).unwrap();
    }
    for user in ["worker", "operator"] {
        saved["urls"].as_object_mut().unwrap().remove(&format!("nats_{user}")).unwrap();
    }
    // And one login of Postgres.
    saved["postgres_logins_made"] = false.into();
    saved.as_object_mut().unwrap().remove("postgres_worker_password").unwrap();
    fs::write(&file, saved.to_string()).unwrap();
    let upgraded = PrivateServices::start(options(&dir)).await.unwrap();
    assert_eq!(upgraded.urls().database, urls.database);
    let users = [&upgraded.urls().nats, &upgraded.urls().nats_worker];
    assert!(users.iter().all(|url| url.contains("://exodrive-") && !url.contains(":@")));
    upgraded.stop().await;
    exodrive_runtime::services::remove(&dir).unwrap();
    assert!(!dir.exists() && !data.exists());
}

#[tokio::test]
async fn nothing_is_left_after_a_drop() {
    let temp = tempfile::tempdir().unwrap();
    // As root, the user of Postgres cannot get in here, so its data is elsewhere.
    fs::set_permissions(temp.path(), Permissions::from_mode(0o700)).unwrap();
    let dir = temp.path().join("data");
    let services = PrivateServices::start(Options::for_tests(&dir)).await.unwrap();
    let data = fs::canonicalize(dir.join("postgres")).unwrap();
    let pids = Service::ALL.map(|service| services.pid(service).unwrap());
    services.signal(Service::Postgres, Signal::SIGSTOP).unwrap();
    drop(services);
    assert!(pids.into_iter().all(|pid| !alive(pid)));
    assert!(!dir.exists() && !data.exists());
}

#[tokio::test]
async fn services_that_run_elsewhere_are_not_started() {
    let temp = tempfile::tempdir().unwrap();
    let services = PrivateServices::start(Options {
        nats: Some("nats://a:4222".to_owned()),
        database: Some("postgres://u:secret@b/c".to_owned()),
        redis: Some("redis://c".to_owned()),
        ..options(temp.path())
    })
    .await
    .unwrap();
    assert!(Service::ALL.into_iter().all(|service| services.pid(service).is_none()));
    assert_eq!(services.urls().nats_monitor, None);
    assert_eq!(services.urls().nats_operator, "nats://a:4222", "unless another user is named");
    assert!(!format!("{:?}", services.urls()).contains("secret"));
    assert_eq!(running(temp.path()).as_ref(), Some(services.urls()));
}

#[tokio::test]
async fn a_child_is_started_again_until_it_is_stopped() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("child.log");
    let mut spec = ProcessSpec::new("child", "sh")
        .arg("-c")
        .arg("echo $WORD; exec sleep 60")
        .env("WORD", "hello");
    spec.output = Output::File(log.clone());
    let child = supervise(spec).unwrap();
    let first = child.pid().unwrap();
    eventually("the first output", || fs::read_to_string(&log).unwrap() == "hello\n").await;
    child.signal(Signal::SIGKILL).unwrap();
    eventually("the second output", || fs::read_to_string(&log).unwrap() == "hello\nhello\n").await;
    let second = child.pid().unwrap();
    assert!(first != second && child.restarts() == 1);
    child.stop().await;
    assert!(!alive(second) && child.pid().is_none());

    assert!(supervise(ProcessSpec::new("none", "/does/not/exist")).is_err());
}
