//! A system whose API and workers run in the test's own process.

use clap::{ArgMatches, CommandFactory, FromArgMatches};
use exodrive_api::{
    cli::{serve::Serve, work::Work},
    settings::Connections,
};
use exodrive_log::Log;
use exodrive_runtime::{services::ServiceUrls, tasks::Tasks};
use exodrive_tests::{API, Answer, Servers, System, eventually, program};
use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{
    fmt::Display,
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind},
    ops::{Deref, DerefMut},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::LazyLock,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The folder that `test-servers` has made: `make test` runs the tests under it. Without it, this
/// program starts servers of its own.
#[expect(clippy::zombie_processes, reason = "it ends when this program does")]
static SERVERS: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(folder) = std::env::var_os("EXODRIVE_TEST_SERVERS") {
        return folder.into();
    }
    let own = Command::new(program("test-servers"))
        .args(["sh", "-c", "echo $EXODRIVE_TEST_SERVERS; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // An interrupt ends the tests, and then the servers.
        .process_group(0)
        .spawn()
        .unwrap();
    // The servers run until their input ends: when this program does.
    std::mem::forget(own.stdin);
    let mut folder = String::new();
    BufReader::new(own.stdout.unwrap()).read_line(&mut folder).unwrap();
    folder.trim_end().into()
});

/// The addresses of a system that no other test has: nothing is in it, and its database is not there yet.
pub(crate) fn take_system() -> ServiceUrls {
    let Servers { urls, administrators } = take_servers();
    // Such tests are the API, the worker, and whoever goes behind their backs.
    ServiceUrls { redis: administrators.redis, ..urls }
}

fn take_servers() -> Servers {
    let systems = fs::read(SERVERS.join("systems.json")).unwrap();
    let systems: Vec<Servers> = serde_json::from_slice(&systems).unwrap();
    let taken = |number: usize| {
        let file = SERVERS.join("taken").join(number.to_string());
        match File::create_new(file) {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => true,
            Err(error) => panic!("cannot take a system: {error}"),
        }
    };
    systems
        .into_iter()
        .enumerate()
        .find(|(number, _)| !taken(*number))
        .expect("test-servers has as many systems as there are tests")
        .1
}

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
        let servers = take_servers();
        create_database(&servers.administrators.database).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let system = System::new(folder, servers, listener.local_addr().unwrap(), settings);
        let urls = system.urls();
        let connections: Connections = parse(system.env());
        let config = connections
            .appending_config(urls.nats_operator.clone(), urls.nats_monitor.clone())
            .unwrap();
        Log::prepare(&config).await.unwrap();
        let world = Self { stop: CancellationToken::new(), system };
        world.serve(listener).await;
        let tasks = Tasks::new(world.stop.child_token());
        let work: Work = parse(world.env());
        tokio::spawn(async move { report("work", work.work(tasks).await) });
        world.wait_until_readable().await;
        world
    }

    /// Starts one more API; gives the names of all, once they answer.
    pub(crate) async fn serve_from(&self, number: usize) -> Vec<String> {
        let mut names = vec![API.to_owned()];
        for n in 2..=number {
            let name = format!("{API}-{n}");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            self.add_address(&name, listener.local_addr().unwrap());
            self.serve(listener).await;
            names.push(name);
        }
        for name in &names {
            self.wait_until_at(name, "ready").await;
        }
        names
    }

    async fn serve(&self, listener: TcpListener) {
        let serve: Serve = parse(self.env());
        let service = serve
            .connect(Tasks::new(CancellationToken::new()), self.stop.child_token())
            .await
            .unwrap();
        tokio::spawn(async move { report("serve", service.serve(listener).await) });
    }

    /// Waits until reads are answered. Workers may still be starting.
    async fn wait_until_readable(&self) {
        eventually("reads are answered", async || {
            let answer = Answer::of(self.request(Method::GET, "/readyz")).await.unwrap().json();
            let readable = answer["checks"]["erasures"]["ok"] == true;
            readable.then_some(()).ok_or_else(|| answer.to_string())
        })
        .await;
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

/// Makes the database of this address of a superuser: a copy of the migrated one. What roles may do with a database is
/// not copied.
async fn create_database(url: &str) {
    let (server, name) = url.rsplit_once('/').unwrap();
    let mut connection = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let sql = format!(
        "create database {name} template exodrive strategy file_copy owner exodrive_migrate"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    let sql = format!(
        "grant create on database {name} to exodrive_worker;
         revoke temporary on database {name} from public"
    );
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
