//! `exodrive up`, and the commands that find the system it started.

use exodrive_runtime::services::Signal;
use exodrive_tests::{Process, eventually, free_address, program, run};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// A system as a user starts it, in a folder of its own.
pub(crate) struct Up {
    process: Process,
    pub(crate) folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    pub(crate) url: String,
}

impl Up {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address().to_string();
        let data = folder.path().join("data").to_str().unwrap().to_owned();
        let env: Vec<_> = [
            ("EXODRIVE_DATA_DIR", data),
            ("EXODRIVE_HTTP_ADDR", address.clone()),
            ("EXODRIVE_JWT_ISSUER", "https://id.example.com".to_owned()),
            ("EXODRIVE_JWT_AUDIENCE", "exodrive".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let output = folder.path().join("up.log");
        let args = [&["up", "--ephemeral"], args].concat();
        let process = Process::start(&program("exodrive"), &args, &env, &output);
        Self { process, folder, env, url: format!("http://{address}") }
    }

    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default()
    }

    pub(crate) async fn is_up(&mut self) {
        eventually("the banner is shown", async || {
            if let Some(ended) = self.process.ended() {
                panic!("`exodrive up` ended: {ended}\n{}", self.printed());
            }
            self.printed().contains("ExoDrive is running").then_some(())
        })
        .await;
    }

    pub(crate) async fn prints(&self, args: &[&str]) -> String {
        let done = run(args, &self.env).await;
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

/// The processes that a process has started, and those that they have.
fn descendants(of: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all: Vec<u32> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let mut found = vec![of];
    let mut seen = 0;
    while seen < found.len() {
        let own = all.iter().filter(|pid| parent(**pid) == Some(found[seen]));
        found.extend(own.copied().collect::<Vec<_>>());
        seen += 1;
    }
    found.split_off(1)
}

/// The command line or the environment of a process.
fn of_process(pid: u32, what: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', "\n")
}

/// Processes whose command line or working folder is in the folder.
fn living_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let at = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let folder_text = folder.to_str().unwrap();
        let here = at.starts_with(folder)
            || command.contains(folder_text)
            || environment.contains(folder_text);
        if here && !command.is_empty() {
            found.push(command);
        }
    }
    found
}

#[tokio::test]
async fn two_systems_come_up_side_by_side_and_ctrl_c_leaves_nothing_behind() {
    let (mut one, mut other) = (Up::start(), Up::start());
    one.is_up().await;
    other.is_up().await;
    assert!(living_in(one.folder.path()).len() >= 4, "itself and three servers");
    let parts = descendants(one.process.id());
    let part = |command: &str| {
        let is = |pid: &&u32| of_process(**pid, "cmdline").trim_end().ends_with(command);
        *parts.iter().find(is).unwrap_or_else(|| panic!("no {command} runs"))
    };
    // Neither part finds the passwords of the other one, of the operator or of the administrators.
    let saved = fs::read_to_string(one.folder.path().join("data/services.json")).unwrap();
    let saved: BTreeMap<String, Value> = serde_json::from_str(&saved).unwrap();
    for (command, own) in [("\nserve", "_api_password"), ("\nwork", "_worker_password")] {
        let environment = of_process(part(command), "environ");
        assert!(environment.contains("EXODRIVE_NATS_URL="), "{command:?}");
        assert!(!environment.contains("EXODRIVE_DATA_DIR="), "{command:?}");
        for (name, value) in saved.iter().filter(|(name, _)| name.ends_with("_password")) {
            let known = environment.contains(value.as_str().unwrap());
            assert_eq!(known, name.ends_with(own), "{command:?} knows {name}");
        }
    }
    assert!(!one.printed().contains("postgres::notice"), "{}", one.printed());

    // Each command finds the system of its own folder.
    let variables = |text: &str| -> BTreeMap<String, String> {
        let line = |line: &str| {
            let (name, value) = line.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        text.lines().filter_map(line).collect()
    };
    let env = variables(&one.prints(&["env"]).await);
    let others = variables(&other.prints(&["env"]).await);
    for name in [
        "NATS",
        "NATS_WORKER",
        "NATS_OPERATOR",
        "NATS_MONITOR",
        "DATABASE",
        "DATABASE_WORKER",
        "DATABASE_OPERATOR",
        "REDIS",
        "REDIS_WORKER",
    ] {
        let name = format!("EXODRIVE_{name}_URL");
        assert!(env[&name].contains("127.0.0.1:"), "{name}");
        assert_ne!(env[&name], others[&name]);
    }
    sqlx::PgPool::connect(&env["EXODRIVE_DATABASE_URL"]).await.unwrap();

    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let inbox = async |token: &str| {
        let request = client.get(format!("{}/v1/inbox", one.url)).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    let token = one.prints(&["token", "--role", "auditor"]).await;
    assert_eq!(inbox(token.trim()).await, 200);
    let banner = one.printed();
    assert!(banner.contains("token --role") && !banner.contains("eyJ"), "no token in a file");
    let token = one.prints(&["token", "--role", "customer"]).await;
    assert_eq!(inbox(token.trim()).await, 403);
    let foreign = other.prints(&["token", "--role", "auditor"]).await;
    assert_eq!(inbox(foreign.trim()).await, 401, "another folder's secret");

    let list: Value =
        serde_json::from_str(&one.prints(&["projections", "status", "--json"]).await).unwrap();
    assert_eq!(list.as_array().unwrap().len(), exodrive_projections::names().len());
    for projection in list.as_array().unwrap() {
        for field in ["name", "version", "generation", "position", "lag_events", "parked"] {
            assert!(!projection[field].is_null(), "{field} of {projection}");
        }
        assert!(projection["heartbeat_age_seconds"].as_f64().unwrap() < 10.0);
    }
    let checkup = one.prints(&["doctor"]).await;
    assert!(!checkup.contains("FAULT"), "{checkup}");
    let ready = client.get(format!("{}/readyz", one.url)).send().await.unwrap();
    let ready: Value = ready.json().await.unwrap();
    assert_eq!(ready["status"], "ready");

    one.process.signal(Signal::SIGINT);
    let ended = eventually("it stops", async || one.process.ended()).await;
    assert!(ended.success(), "{}", one.printed());
    assert_eq!(living_in(one.folder.path()), Vec::<String>::new());
    let left: Vec<_> =
        parts.iter().filter(|pid| !of_process(**pid, "cmdline").is_empty()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!one.folder.path().join("data").exists(), "ephemeral data is gone");
    let again = run(&["env"], &one.env).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("make run"), "it says what to do");

    // The other system has not noticed.
    let ready = client.get(format!("{}/readyz", other.url)).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 200);
    // When it is killed, its servers and processes end with it: nothing holds the ports and
    // folders.
    let parts = descendants(other.process.id());
    other.process.signal(Signal::SIGKILL);
    eventually("its servers and processes end with it", async || {
        let gone = parts.iter().all(|pid| of_process(*pid, "cmdline").is_empty());
        (gone && living_in(other.folder.path()).is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_description_of_the_api_is_printed() {
    let done = run(&["openapi"], &[]).await;
    let description: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in ["/v1/webhooks/resend", "/v1/inbox", "/v1/inbox/{email_id}", "/readyz", "/livez"] {
        assert!(!description["paths"][path].is_null(), "{path}");
    }
}

/// Who is between two machines could read along, or stand in for a server.
#[tokio::test]
async fn servers_on_other_machines_are_verified_or_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "of-this-test";
    let local = |name: &str| match name {
        "REDIS" => format!("redis://u:{secret}@127.0.0.1/0"),
        _ => format!("postgres://u:{secret}@localhost/x"),
    };
    let base = [
        ("EXODRIVE_DATA_DIR".to_owned(), folder.path().to_str().unwrap().to_owned()),
        ("EXODRIVE_NATS_URL".to_owned(), "nats://127.0.0.1:1".to_owned()),
        ("EXODRIVE_DATABASE_URL".to_owned(), local("DATABASE")),
        ("EXODRIVE_REDIS_URL".to_owned(), local("REDIS")),
    ];
    let with = |name: &str, url: &str| {
        let mut env = base.to_vec();
        env.push((format!("EXODRIVE_{name}_URL"), url.to_owned()));
        env
    };
    assert!(run(&["env"], &base).await.status.success());
    let far = format!("u:{secret}@db.example.com");
    for (name, url) in [
        ("NATS", format!("nats://{far}:4222")),
        ("NATS_WORKER", format!("nats://u:{secret}@127.0.0.1:1,nats://{far}:4222")),
        ("NATS_OPERATOR", far.clone()),
        ("DATABASE", format!("postgres://{far}/x")),
        ("DATABASE_WORKER", format!("postgres://{far}/x?sslmode=require")),
        ("DATABASE_OPERATOR", format!("postgres://{far}/x?sslmode=verify-ca")),
        ("REDIS", format!("redis://{far}/0")),
        ("REDIS_WORKER", format!("rediss://{far}/0#insecure")),
    ] {
        for command in ["env", "serve", "work", "migrate", "doctor", "up"] {
            let done = run(&[command], &with(name, &url)).await;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success(), "{command} with {name}");
            assert!(said.contains(&format!("EXODRIVE_{name}_URL is on another machine")), "{said}");
            assert!(
                said.contains("EXODRIVE_ALLOW_UNVERIFIED=") && !said.contains(secret),
                "{said}"
            );
        }
        let mut allowed = with(name, &url);
        allowed.push(("EXODRIVE_ALLOW_UNVERIFIED".to_owned(), "nats,postgres,redis".to_owned()));
        let done = run(&["env"], &allowed).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    for (name, url) in [
        ("NATS", format!("tls://{far}:4222,tls://{far}:4223")),
        ("NATS", format!("nats://{far}?sslrootcert=/ca.pem")),
        ("DATABASE", format!("postgres://{far}/x?sslmode=verify-full")),
        ("REDIS", format!("rediss://{far}/0")),
    ] {
        let done = run(&["env"], &with(name, &url)).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Of NATS, an address names several servers. Of the others, one that fails over.
#[tokio::test]
async fn addresses_and_files_that_cannot_be_meant_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let base = [
        ("EXODRIVE_DATA_DIR", folder.path().to_str().unwrap()),
        ("EXODRIVE_NATS_URL", "tls://nats.example"),
        ("EXODRIVE_DATABASE_URL", "postgres://localhost/x"),
        ("EXODRIVE_REDIS_URL", "redis://127.0.0.1/0"),
    ];
    let env = |more: &[(&str, &str)]| -> Vec<(String, String)> {
        let all = base.iter().chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    for (more, said) in [
        (&[("EXODRIVE_REDIS_URL", "rediss://a.example,b.example/0")][..], "several servers"),
        (
            &[("EXODRIVE_DATABASE_URL", "postgres://a,b/x?sslmode=verify-full")],
            "EXODRIVE_DATABASE_URL names several",
        ),
        (&[("EXODRIVE_NATS_CLIENT_CERT", "/a.pem")], "belong together"),
        (
            &[("EXODRIVE_NATS_CREDS", "/a"), ("EXODRIVE_NATS_NKEY_FILE", "/b")],
            "cannot be used with",
        ),
        (&[("EXODRIVE_NATS_URL", "tls://nats.example?cred=/a")], "EXODRIVE_NATS_URL"),
        (
            &[
                ("EXODRIVE_NATS_URL", "tls://me:secret@nats.example"),
                ("EXODRIVE_NATS_WORKER_CREDS", "/a"),
            ],
            "EXODRIVE_NATS_WORKER_URL is needed",
        ),
    ] {
        let done = run(&["env"], &env(more)).await;
        let printed = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && printed.contains(said), "{more:?}: {printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }
    // Each user has files and an inbox of its own; a process that is handed such an address needs
    // nothing else.
    let files = [
        ("EXODRIVE_NATS_CA", "/ca.pem"),
        ("EXODRIVE_NATS_CREDS", "/api.creds"),
        ("EXODRIVE_NATS_WORKER_CREDS", "/worker.creds"),
    ];
    let done = run(&["env"], &env(&files)).await;
    let printed = String::from_utf8(done.stdout).unwrap();
    let api = "tls://nats.example?sslrootcert=/ca.pem&creds=/api.creds&inbox=exodrive-api";
    assert!(printed.contains(&format!("EXODRIVE_NATS_URL={api}\n")), "{printed}");
    let worker = api.replace("api", "worker");
    assert!(printed.contains(&format!("EXODRIVE_NATS_WORKER_URL={worker}\n")), "{printed}");
    assert!(printed.contains(&format!("EXODRIVE_NATS_OPERATOR_URL={api}\n")), "{printed}");
    let again = env(&[files[0], files[1], ("EXODRIVE_NATS_URL", &worker)]);
    let done = run(&["env"], &again).await;
    let printed = String::from_utf8(done.stdout).unwrap();
    assert!(printed.contains(&format!("EXODRIVE_NATS_URL={worker}\n")), "{printed}");
}

#[tokio::test]
async fn a_cluster_of_three_servers_comes_up_and_every_command_finds_all_of_them() {
    let mut up = Up::with(&["--nodes", "3"]);
    up.is_up().await;
    let env = up.prints(&["env"]).await;
    for name in ["NATS", "NATS_WORKER", "NATS_OPERATOR", "NATS_MONITOR"] {
        let begin = format!("EXODRIVE_{name}_URL=");
        let addresses = env.lines().find_map(|line| line.strip_prefix(&begin)).unwrap();
        assert_eq!(addresses.matches("127.0.0.1:").count(), 3, "{name}");
    }
    // It looks at the copies of each stream, at every server's sync mode, and at each user.
    up.prints(&["doctor"]).await;
    up.process.signal(Signal::SIGINT);
    eventually("it ends", async || up.process.ended()).await;
    assert_eq!(living_in(up.folder.path()), Vec::<String>::new());
}
