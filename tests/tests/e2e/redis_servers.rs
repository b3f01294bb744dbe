//! The servers of Redis that are supported: one under one name, by TLS on another machine.

use crate::{in_process::InProcess, permissions::said_of};
use exodrive_tests::{Authority, Process, eventually, free_address, program};
use std::{fs, net::TcpStream, path::Path};
use tempfile::TempDir;

/// Starts a redis-server on a port, with these arguments.
fn start(folder: &Path, port: u16, arguments: &[&str]) -> Process {
    let port = port.to_string();
    let mut all = arguments.to_vec();
    all.extend(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"]);
    all.push(folder.to_str().unwrap());
    Process::start(Path::new("redis-server"), &all, &[], &folder.join("redis.log"))
}

async fn answers(port: u16) {
    eventually("redis-server answers", async || TcpStream::connect(("127.0.0.1", port)).ok()).await;
}

/// The arguments of a node of a cluster, and of a sentinel.
fn unsupported(folder: &TempDir) -> [(&'static str, Vec<String>); 2] {
    let bus = free_address().port().to_string();
    let nodes = folder.path().join("nodes.conf").to_str().unwrap().to_owned();
    let sentinel = folder.path().join("sentinel.conf");
    fs::write(&sentinel, "").unwrap();
    let cluster =
        ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-config-file", &nodes];
    let sentinel = [sentinel.to_str().unwrap(), "--sentinel"];
    [("cluster", strings(&cluster)), ("sentinel", strings(&sentinel))]
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_cluster_and_a_sentinel_are_refused_with_what_is_supported() {
    let mut world = InProcess::start().await;
    for mode in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let (mode, arguments) = unsupported(&folder)[mode].clone();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let port = free_address().port();
        let url = format!("redis://127.0.0.1:{port}/0");
        world.set("EXODRIVE_REDIS_URL", &url);
        world.set("EXODRIVE_REDIS_WORKER_URL", &url);

        // A process that has started without Redis finds out when it answers.
        let output = folder.path().join("serve.log");
        world.set("EXODRIVE_HTTP_ADDR", &free_address().to_string());
        let mut early = Process::start(&program("exodrive"), &["serve"], world.env(), &output);
        eventually("it serves without Redis", async || {
            fs::read_to_string(&output).unwrap().contains("Serving").then_some(())
        })
        .await;
        let _server = start(folder.path(), port, &arguments);
        answers(port).await;
        let ended = eventually("it ends", async || early.ended()).await;
        let said = fs::read_to_string(&output).unwrap();
        assert!(!ended.success() && said.contains(&format!("runs as {mode}")), "{said}");

        for (command, variable) in
            [("serve", "EXODRIVE_REDIS_URL"), ("work", "EXODRIVE_REDIS_WORKER_URL")]
        {
            let done = world.exodrive(&[command]).await;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(1), "{said}");
            assert!(
                said.contains(&format!("{variable} names a Redis that runs as {mode}")),
                "{said}"
            );
            assert!(said.contains("one server under one name"), "{said}");
        }
        for part in ["redis api", "redis worker"] {
            let said = said_of(&world, part).await;
            assert!(said.contains("FAULT") && said.contains("Redis that runs as"), "{said}");
        }
    }
}

#[tokio::test]
async fn redis_by_tls_is_verified() {
    let mut world = InProcess::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [own, other] = ["own", "other"].map(|name| Authority::new(folder.path(), name));
    let [certificate, key] = own.issue("redis", "IP:127.0.0.1");
    let port = free_address().port();
    let tls_port = port.to_string();
    // Its port without TLS is off.
    let _server = start(
        folder.path(),
        0,
        &[
            "--tls-port",
            &tls_port,
            "--tls-auth-clients",
            "no",
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            own.roots(),
        ],
    );
    answers(port).await;
    let url = format!("rediss://127.0.0.1:{port}/0");
    world.set("EXODRIVE_REDIS_URL", &url);
    let mut said = Vec::new();
    for roots in [None, Some(other.roots()), Some(own.roots())] {
        if let Some(roots) = roots {
            world.set("EXODRIVE_REDIS_CA", roots);
        }
        said.push(said_of(&world, "redis api").await);
    }
    assert!(said[0].contains("FAULT") && said[1].contains("FAULT"), "{said:?}");
    assert!(said[2].contains("answers"), "{said:?}");
    // The address says the same for one of the users.
    world.unset("EXODRIVE_REDIS_CA");
    world.set("EXODRIVE_REDIS_URL", &format!("{url}?sslrootcert={}", own.roots()));
    assert!(said_of(&world, "redis api").await.contains("answers"));
}
