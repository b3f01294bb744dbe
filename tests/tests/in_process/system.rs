//! A system whose API and workers run in the test's own process.

use clap::{ArgMatches, CommandFactory, FromArgMatches};
use exodrive_api::{
    cli::{serve::Serve, work::Work},
    settings::Connections,
};
use exodrive_log::Log;
use exodrive_runtime::{services::ServiceUrls, tasks::Tasks};
use exodrive_tests::{System, program};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{
    fmt::Display,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    ops::{Deref, DerefMut},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Systems that the servers have room for: as many as this program has tests that start one,
/// and some more.
const SYSTEMS: u16 = 200;

/// The servers of this program's tests, and what of them no test has yet.
struct Servers {
    // Its standard input is open as long as this program runs.
    _process: Child,
    folder: TempDir,
    free: Mutex<Vec<ServiceUrls>>,
}

static SERVERS: LazyLock<Servers> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Command::new(program("test-servers"))
        .arg(folder.path().join("services"))
        .arg(SYSTEMS.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // An interrupt of the tests is not one of the servers, which then remove their data.
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let free = serde_json::from_str(&line).expect("the servers start");
    Servers { _process: process, folder, free: Mutex::new(free) }
});

/// A whole system of its own: a NATS account, a database and a Redis database on servers that all
/// tests share; API and workers as tasks of the test. It ends with the test.
pub(crate) struct InProcess {
    stop: CancellationToken,
    system: System,
}

impl InProcess {
    /// A system with settings that let tests work at full speed, ready.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A system with these settings on top, ready.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let urls = SERVERS.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let urls = urls.expect("SYSTEMS is as large as the number of tests");
        create_database(&urls.database).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir_in(SERVERS.folder.path()).unwrap();
        let system = System::new(folder, urls, listener.local_addr().unwrap(), settings);
        let urls = system.urls();
        let connections: Connections = parse(system.env());
        let config = connections
            .appending_config(urls.nats_operator.clone(), urls.nats_monitor.clone())
            .unwrap();
        Log::prepare(&config).await.unwrap();
        let stop = CancellationToken::new();
        let (serve, work): (Serve, Work) = (parse(system.env()), parse(system.env()));
        let service = serve.connect(Tasks::new(stop.child_token())).await.unwrap();
        tokio::spawn(async move { report("serve", service.serve(listener).await) });
        let tasks = Tasks::new(stop.child_token());
        tokio::spawn(async move { report("work", work.work(tasks).await) });
        system.wait_until("ready").await;
        Self { stop, system }
    }
}

/// Shows with the output of a failed test that a part of its system has failed.
fn report(part: &str, outcome: Result<(), impl Display>) {
    if let Err(error) = outcome {
        println!("`{part}` has ended: {error}");
    }
}

impl Deref for InProcess {
    type Target = System;

    fn deref(&self) -> &System {
        &self.system
    }
}

impl DerefMut for InProcess {
    fn deref_mut(&mut self) -> &mut System {
        &mut self.system
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Makes the database of this address: a copy of the migrated one.
async fn create_database(url: &str) {
    let (server, name) = url.rsplit_once('/').unwrap();
    let mut connection = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let sql = format!("create database {name} template exodrive strategy file_copy");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

#[derive(clap::Parser)]
struct Parsed<T: clap::Args> {
    #[command(flatten)]
    settings: T,
}

/// The settings of a command that this environment gives, and nothing else: not the environment of
/// the test's own process.
fn parse<T: clap::Args>(env: &[(String, String)]) -> T {
    let command = Parsed::<T>::command();
    let given = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?.to_str()?;
        let (_, value) = env.iter().find(|(known, _)| known == name)?;
        Some(format!("--{}={value}", argument.get_long()?))
    });
    let args: Vec<_> = std::iter::once("test".to_owned()).chain(given).collect();
    let matches: ArgMatches = command
        .mut_args(|argument| argument.env(clap::builder::Resettable::Reset))
        .try_get_matches_from(args)
        .unwrap();
    Parsed::<T>::from_arg_matches(&matches).unwrap().settings
}
