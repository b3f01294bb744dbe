//! The system that is measured: private servers, and `exodrive` as processes.

use crate::{
    Failure,
    load::{Connection, Requests},
    mail::{WEBHOOK_SECRET, uuid},
};
use exodrive_log::{Log, LogConfig, NewEvent, address::NatsAddress};
use exodrive_runtime::services::{Options, PrivateServices, Service, ServiceUrls, SyncMode};
use exodrive_tests::{DATA_KEYS, Process, SEAL_KEY, free_address, program, token, wrapping_keys};
use futures::StreamExt;
use nix::sys::{
    signal::Signal,
    statfs::{TMPFS_MAGIC, statfs},
};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const TOKEN_SECRET: &str = "a secret of the benchmark, of 32 bytes";
/// Appends in flight.
const PIPELINE: usize = 1_000;
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The server remembers ids for as long as in a system of default settings.
pub(crate) const DUPLICATE_WINDOW: Duration = Duration::from_secs(3 * 86_400);

/// Servers, and the processes that use them. Dropping it ends all of them.
pub(crate) struct System {
    // In this order: processes end before servers, and servers before their
    // folder.
    api: Option<Process>,
    services: PrivateServices,
    sync: SyncMode,
    pub(crate) address: SocketAddr,
    folder: TempDir,
}

impl System {
    /// Starts the servers, as `exodrive up` does.
    pub(crate) async fn start(sync: SyncMode) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        if statfs(folder.path())?.filesystem_type() == TMPFS_MAGIC {
            progress(
                "WARNING: the data is on a tmpfs, nothing is flushed to any disk (see TMPDIR)",
            );
        }
        let services = folder.path().join("services");
        let options = Options { sync, ephemeral: true, ..Options::new(services) };
        let services = PrivateServices::start(options).await?;
        Ok(Self { api: None, services, sync, address: free_address(), folder })
    }

    pub(crate) fn urls(&self) -> &ServiceUrls {
        self.services.urls()
    }

    /// The log, made if it is not there.
    pub(crate) async fn log(&self) -> Result<Log, Failure> {
        let config = LogConfig {
            url: self.urls().nats_operator.clone(),
            monitor_url: None,
            require_sync: false,
            duplicate_window: DUPLICATE_WINDOW,
            replicas: 1,
            ack_timeout: WAIT_TIMEOUT,
            connect_timeout: WAIT_TIMEOUT,
            keys: wrapping_keys(),
        };
        Ok(Log::prepare(&config).await?)
    }

    /// Runs `exodrive` on a database of these servers.
    pub(crate) fn exodrive(&self, command: &str, database: &str) -> Process {
        self.start_with(&[command], database)
    }

    /// Runs `exodrive` to its end, which must be a good one.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<(), Failure> {
        let mut process = self.start_with(args, self.database());
        loop {
            match process.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return self.still_runs(&mut process, args[0]),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// The address of the first database as a superuser.
    pub(crate) fn database(&self) -> &str {
        &self.services.administrators().database
    }

    /// The address of Redis as a user who may do everything.
    pub(crate) fn redis(&self) -> &str {
        &self.services.administrators().redis
    }

    fn start_with(&self, args: &[&str], database: &str) -> Process {
        let urls = self.urls();
        // The same database, as the login of the part.
        let as_login = |url: &str| {
            let (server, _) = url.rsplit_once('/').unwrap_or_default();
            let (_, name) = database.rsplit_once('/').unwrap_or_default();
            format!("{server}/{name}")
        };
        let env = [
            ("EXODRIVE_DATA_DIR", self.folder.path().join("data").display().to_string()),
            ("EXODRIVE_NATS_URL", urls.nats.clone()),
            ("EXODRIVE_NATS_WORKER_URL", urls.nats_worker.clone()),
            ("EXODRIVE_NATS_OPERATOR_URL", urls.nats_operator.clone()),
            ("EXODRIVE_NATS_MONITOR_URL", urls.nats_monitor.clone().unwrap_or_default()),
            ("EXODRIVE_DATABASE_URL", as_login(&urls.database)),
            ("EXODRIVE_DATABASE_WORKER_URL", as_login(&urls.database_worker)),
            ("EXODRIVE_DATABASE_OPERATOR_URL", as_login(&urls.database_operator)),
            ("EXODRIVE_REDIS_URL", urls.redis.clone()),
            ("EXODRIVE_REDIS_WORKER_URL", urls.redis_worker.clone()),
            ("EXODRIVE_DATA_KEYS", DATA_KEYS.to_owned()),
            ("EXODRIVE_SEAL_KEYS", SEAL_KEY.to_owned()),
            ("EXODRIVE_HTTP_ADDR", self.address.to_string()),
            ("EXODRIVE_RESEND_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned()),
            ("EXODRIVE_JWT_SECRET", TOKEN_SECRET.to_owned()),
            ("EXODRIVE_LINK_SECRET", TOKEN_SECRET.to_owned()),
            ("EXODRIVE_RATE_LIMIT_ADMIN", "1000000/1s".to_owned()),
            ("EXODRIVE_RATE_LIMIT_PUBLIC", "1000000/1s".to_owned()),
            ("EXODRIVE_RATE_LIMIT_BOOKING", "1000000/1s".to_owned()),
            (
                "EXODRIVE_LOG_SYNC",
                match self.sync {
                    SyncMode::Always | SyncMode::Unchecked => "always".to_owned(),
                    SyncMode::Default => "default".to_owned(),
                },
            ),
        ];
        let env: Vec<_> = env.map(|(name, value)| (name.to_owned(), value)).into();
        Process::start(&program("exodrive"), args, &env, &self.log_file(args[0]))
    }

    fn log_file(&self, command: &str) -> PathBuf {
        self.folder.path().join(format!("{command}.log"))
    }

    /// Fails with the output of a process if it has ended.
    pub(crate) fn still_runs(&self, process: &mut Process, command: &str) -> Result<(), Failure> {
        match process.ended() {
            None => Ok(()),
            Some(status) => {
                let printed = fs::read_to_string(self.log_file(command)).unwrap_or_default();
                Err(format!("exodrive {command} has ended ({status}):\n{printed}").into())
            }
        }
    }

    /// Prepares a database.
    pub(crate) async fn migrate(&self, database: &str) -> Result<(), Failure> {
        let mut process = self.exodrive("migrate", database);
        loop {
            match process.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return self.still_runs(&mut process, "migrate"),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Starts the API and waits until it answers.
    pub(crate) async fn serve(&mut self, database: &str) -> Result<(), Failure> {
        let mut process = self.exodrive("serve", database);
        until_served(self.address, || self.still_runs(&mut process, "serve")).await?;
        self.api = Some(process);
        Ok(())
    }

    /// A line of proc_pid_status(5) about the API's memory, in MiB.
    pub(crate) fn api_memory(&self, line: &str) -> f64 {
        let pid = self.api.as_ref().map_or(0, Process::id);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':'));
        let kib = line.and_then(|it| it.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(f64::NAN) / 1_024.0
    }

    /// The processor time that the parts of the system have used so far.
    pub(crate) fn cpu(&self) -> Cpu {
        let seconds = |pid: Option<u32>| pid.map_or(0.0, cpu_seconds);
        Cpu {
            client: cpu_seconds(std::process::id()),
            server: seconds(self.api.as_ref().map(Process::id)),
            nats: seconds(self.services.pid(Service::Nats)),
            redis: seconds(self.services.pid(Service::Redis)),
        }
    }
}

/// A connection to NATS without any of our code.
pub(crate) async fn client(url: &str) -> Result<async_nats::Client, Failure> {
    let address = NatsAddress::parse(url)?;
    Ok(address.options()?.connect(address.servers()).await?)
}

/// Waits until a server answers HTTP there.
pub(crate) async fn until_served(
    address: SocketAddr,
    mut check: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        if let Ok(mut connection) = Connection::open(address).await
            && connection.exchange(&get("/livez", None)).await.is_ok()
        {
            return Ok(());
        }
        check()?;
        if began.elapsed() > WAIT_TIMEOUT {
            return Err(format!("no server answers at {address}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Seconds of processor time by part.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    /// The benchmark itself.
    pub(crate) client: f64,
    /// `exodrive serve`.
    pub(crate) server: f64,
    pub(crate) nats: f64,
    pub(crate) redis: f64,
}

impl Cpu {
    /// The average cost of each of `count` requests since `before`.
    pub(crate) fn since(&self, before: &Self, count: usize) -> Self {
        let each = |now: f64, before: f64| (now - before) / count.max(1) as f64;
        Self {
            client: each(self.client, before.client),
            server: each(self.server, before.server),
            nats: each(self.nats, before.nats),
            redis: each(self.redis, before.redis),
        }
    }
}

/// User and system time of a process so far.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything, but ends with the last parenthesis.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    ticks(after_name, 11, 2)
}

/// The seconds that some fields of a line add up to.
fn ticks(line: &str, from: usize, count: usize) -> f64 {
    const PER_SECOND: f64 = 100.0;
    let fields = line.split_whitespace().skip(from).take(count);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / PER_SECOND
}

/// Observes the use of the processors during a measurement: the time of other
/// processes is missing from our figures.
pub(crate) struct Watch {
    began: Instant,
    all: f64,
    ours: f64,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), all: all_cpu_seconds(), ours: our_cpu_seconds() }
    }

    /// The processor time of this process and its children, in seconds.
    pub(crate) fn ours(&self) -> f64 {
        our_cpu_seconds() - self.ours
    }

    /// The share of the machine that other processes used, in percent.
    pub(crate) fn others(&self) -> f64 {
        let others = (all_cpu_seconds() - self.all - self.ours()).max(0.0);
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        100.0 * others / (self.began.elapsed().as_secs_f64() * cores)
    }
}

/// The processor time of all processes since the machine began.
fn all_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default();
    // User, nice and system; then interrupts, which count as the time of the
    // interrupted process.
    ticks(all, 1, 3) + ticks(all, 6, 2)
}

/// The processor time of this process, its descendants, and those of them that
/// have ended.
fn our_cpu_seconds() -> f64 {
    let mut processes: Vec<(u32, u32, f64)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let parent = after_name.split_whitespace().nth(1).and_then(|parent| parent.parse().ok());
        processes.push((pid, parent.unwrap_or_default(), ticks(after_name, 11, 4)));
    }
    let mut ours = vec![std::process::id()];
    let mut sum = 0.0;
    while let Some(pid) = ours.pop() {
        for &(id, parent, used) in &processes {
            if id == pid {
                sum += used;
            }
            if parent == pid {
                ours.push(id);
            }
        }
    }
    sum
}

/// A GET in its bytes.
pub(crate) fn get(path: &str, token: Option<&str>) -> Vec<u8> {
    let authorization =
        token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n{authorization}accept: application/json\r\n\r\n")
        .into_bytes()
}

/// A POST of JSON in its bytes, under a key of its own.
pub(crate) fn post(path: &str, body: &Value) -> Vec<u8> {
    let (key, body) = (uuid(), body.to_string());
    format!("POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Appends events, many at a time; ignores their guards.
pub(crate) async fn append_all(log: &Log, events: &[NewEvent]) -> Result<(), Failure> {
    append(log, events, PIPELINE).await
}

/// Appends events, a number of them at a time.
pub(crate) async fn append(
    log: &Log,
    events: &[NewEvent],
    in_flight: usize,
) -> Result<(), Failure> {
    let mut appended =
        futures::stream::iter(events).map(|event| log.append_fact(event)).buffered(in_flight);
    while let Some(outcome) = appended.next().await {
        outcome?;
    }
    Ok(())
}

/// A token of an auditor.
pub(crate) fn auditor() -> String {
    token(TOKEN_SECRET, "auditor", "auditor", 3_600)
}

/// Requests that are sent again and again.
pub(crate) fn again(requests: Vec<Vec<u8>>) -> Requests {
    Requests { bytes: requests.into(), again: true }
}

/// Stops a process as its supervisor would, and waits for its end.
pub(crate) async fn stop(mut process: Process) {
    process.signal(Signal::SIGTERM);
    let began = Instant::now();
    while process.ended().is_none() && began.elapsed() < WAIT_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Prints the current step.
pub(crate) fn progress(what: &str) {
    eprintln!("bench: {what}");
}
