//! Private NATS, Postgres and Redis for a person's machine and for tests, and a supervisor for any child process.
//!
//! Everything lives in one data folder: `nats/`, `postgres/`, `redis/`, `logs/`, `lock` and `services.json` with the
//! ports and passwords, which stay the same from one start to the next.

mod folder;
mod nats;
mod postgres;
mod probe;
mod process;
mod redis;
mod slot;
mod stuck;
mod supervisor;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::Flock;
pub use nix::sys::signal::Signal;
pub use process::send as signal_process;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

pub use folder::PortClaim;
use folder::{NatsServer, Ports, SavedSettings};
pub use nats::{NatsPlace, binary as nats_server};
use probe::Probe;
pub use slot::NatsNode;
use slot::Slot;
pub use supervisor::{Output, ProcessSpec, Supervised, supervise};

/// The policy by which the private nats-server flushes to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// Before each acknowledgement: a power cut loses no acknowledged event.
    Always,
    /// The same, of a server that cannot be asked.
    Unchecked,
    /// Every two minutes, the server's default: a killed server loses no event, a power cut may lose some.
    Default,
}

/// One of the three servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `nats-server`.
    Nats,
    /// Postgres.
    Postgres,
    /// `redis-server`.
    Redis,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nats, Self::Postgres, Self::Redis];
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        })
    }
}

/// The services to start, and the folder of their data.
#[derive(Clone)]
pub struct Options {
    /// Folder of all data; created if it is not there.
    pub data_dir: PathBuf,
    /// The policy by which NATS flushes to disk.
    pub sync: SyncMode,
    /// For tests: Postgres does not flush to disk and takes less memory.
    pub fast: bool,
    /// The number of nats-servers: 1, or 3 for a cluster in which each keeps a copy of every stream.
    pub nats_nodes: u16,
    /// For tests: where each nats-server runs. Those that are not named run on 127.0.0.1.
    pub nats_places: Vec<NatsPlace>,
    /// For tests: the number of systems beside the first that share the servers, each
    /// with a NATS account and a Redis database of its own.
    pub neighbours: u16,
    /// The data folder is removed when the services are stopped or dropped.
    pub ephemeral: bool,
    /// NATS that runs elsewhere, as the API's user; none is started then.
    pub nats: Option<String>,
    /// The same with the worker's user; without it, the API's user is used.
    pub nats_worker: Option<String>,
    /// The same with the user who makes streams; without it, the API's user is
    /// used.
    pub nats_operator: Option<String>,
    /// Monitoring address of the NATS that runs elsewhere.
    pub nats_monitor: Option<String>,
    /// Postgres that runs elsewhere, as the API's login; none is started then.
    pub database: Option<String>,
    /// The same as the worker's login; without it, the API's login is used.
    pub database_worker: Option<String>,
    /// The same as the login that owns the tables; without it, the API's login is used.
    pub database_operator: Option<String>,
    /// Redis that runs elsewhere, as the API's user; none is started then.
    pub redis: Option<String>,
    /// The same with the worker's user; without it, the API's user is used.
    pub redis_worker: Option<String>,
}

impl Options {
    /// Starts all three, durable against a power cut.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            sync: SyncMode::Always,
            fast: false,
            nats_nodes: 1,
            nats_places: Vec::new(),
            neighbours: 0,
            ephemeral: false,
            nats: None,
            nats_worker: None,
            nats_operator: None,
            nats_monitor: None,
            database: None,
            database_worker: None,
            database_operator: None,
            redis: None,
            redis_worker: None,
        }
    }

    /// Options of a test: all three services, fast, with data that is removed afterwards.
    pub fn for_tests(data_dir: impl Into<PathBuf>) -> Self {
        Self { sync: SyncMode::Default, fast: true, ephemeral: true, ..Self::new(data_dir) }
    }
}

/// The addresses of the services. They hold passwords, so `Debug` leaves them
/// out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceUrls {
    /// NATS, as the user of the API and of commands that read or append. As the next two, it may be
    /// several addresses with commas between them.
    pub nats: String,
    /// NATS, as the worker's user.
    pub nats_worker: String,
    /// NATS, as the user who makes streams.
    pub nats_operator: String,
    /// HTTP monitoring of NATS, if known; one address for each server, with commas between them.
    pub nats_monitor: Option<String>,
    /// Postgres, as the API's login.
    pub database: String,
    /// Postgres, as the worker's login and that of commands that look at projections.
    pub database_worker: String,
    /// Postgres, as the login that owns the tables.
    pub database_operator: String,
    /// Redis, as the API's user.
    pub redis: String,
    /// Redis, as the worker's user and that of commands that look at projections.
    pub redis_worker: String,
}

impl fmt::Debug for ServiceUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceUrls")
            .field("nats", &redact(&self.nats))
            .field("nats_worker", &redact(&self.nats_worker))
            .field("nats_operator", &redact(&self.nats_operator))
            .field("nats_monitor", &self.nats_monitor.as_deref().map(redact))
            .field("database", &redact(&self.database))
            .field("database_worker", &redact(&self.database_worker))
            .field("database_operator", &redact(&self.database_operator))
            .field("redis", &redact(&self.redis))
            .field("redis_worker", &redact(&self.redis_worker))
            .finish()
    }
}

/// The addresses of private servers as those who may do everything, for tests that go behind the
/// system's back.
#[derive(Clone, Serialize, Deserialize)]
pub struct Administrators {
    /// Postgres, as a superuser.
    pub database: String,
    /// Redis, as the default user.
    pub redis: String,
}

impl Administrators {
    /// Those of the database of this number.
    #[must_use]
    pub fn of_neighbour(&self, number: u16) -> Self {
        let redis = self.redis.strip_suffix("/0").unwrap_or(&self.redis);
        Self { database: format!("{}_{number}", self.database), redis: format!("{redis}/{number}") }
    }
}

/// An address, or several with commas between them, without user, password and parameters: fit for a log line.
pub fn redact(url: &str) -> String {
    let (url, parameters) = match url.split_once('?') {
        Some((url, _)) => (url, "?***"),
        None => (url, ""),
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        // No scheme: only the text after the last @ is surely not a secret.
        let shown = url.rsplit_once('@').map_or(url.to_owned(), |(_, host)| format!("***@{host}"));
        return shown + parameters;
    };
    let mut out = scheme.to_owned();
    for part in rest.split("://") {
        out.push_str("://");
        match part.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("***@");
                out.push_str(host);
            }
            None => out.push_str(part),
        }
    }
    out + parameters
}

/// Reason why the services could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The operating system reported an error.
    #[error("cannot {doing}: {source}")]
    Io {
        /// The attempted action.
        doing: String,
        /// The answer.
        source: io::Error,
    },
    /// A program is not installed.
    #[error("{what} is needed (found: {found}); run `make tools`")]
    Missing {
        /// The requirement.
        what: String,
        /// The state that was found instead.
        found: String,
    },
    /// Another process uses the data folder.
    #[error("{} is in use by process {pid}", data_dir.display())]
    Locked {
        /// The data folder.
        data_dir: PathBuf,
        /// The process that holds it.
        pid: String,
    },
    /// A program that prepares a service failed.
    #[error("{command} failed: {output}")]
    Failed {
        /// The program.
        command: String,
        /// Its output.
        output: String,
    },
    /// A server was started and does not answer.
    #[error("{service} does not answer after {seconds} s (see {}): {tail}", log.display())]
    NotReady {
        /// The service.
        service: Service,
        /// The timeout in seconds.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The last lines of that log.
        tail: String,
    },
    /// The data folder was made for another number of nats-servers.
    #[error(
        "{} is of {made} nats-server(s), not {asked}: the streams of one are not those of the other. Use another folder, or the same number",
        data_dir.display()
    )]
    OtherNodes {
        /// The data folder.
        data_dir: PathBuf,
        /// The number that it was made for.
        made: u16,
        /// The number that was asked for.
        asked: u16,
    },
    /// The service runs elsewhere, or is stopped.
    #[error("{0} is not run by this process now")]
    NotRun(Service),
}

impl ServiceError {
    fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }
}

/// The private services of one data folder. Dropping this kills them.
pub struct PrivateServices {
    data_dir: PathBuf,
    ephemeral: bool,
    neighbours: u16,
    administrators: Administrators,
    urls: ServiceUrls,
    slots: Vec<Slot>,
    // The last field, so that the folder is free only when no service runs in it any more.
    _lock: Flock<File>,
}

/// The steps that precede the start of the servers. They run one after the
/// other.
struct ServicePreparation {
    data_dir: PathBuf,
    lock: Flock<File>,
    saved: SavedSettings,
    nats: Option<(PathBuf, Vec<Ports>)>,
    postgres: Option<(PathBuf, Ports)>,
    redis: Option<(PathBuf, Ports)>,
}

impl ServicePreparation {
    fn prepare_folder(options: &Options) -> Result<Self, ServiceError> {
        // Programs are checked first: a start that cannot succeed creates no files.
        let nats = options.nats.is_none().then(nats::binary).transpose()?;
        let postgres = options.database.is_none().then(postgres::binaries).transpose()?;
        let redis = options.redis.is_none().then(redis::binary).transpose()?;

        let mode = match postgres::user()? {
            Some(user) if postgres.is_some() && postgres::reachable(&options.data_dir, user) => {
                0o711
            }
            _ => 0o700,
        };
        folder::create(&options.data_dir, mode)?;
        let data_dir = options.data_dir.canonicalize().map_err(|error| {
            ServiceError::io(format!("find {}", options.data_dir.display()), error)
        })?;
        let lock = folder::lock(&data_dir)?;
        folder::create(&data_dir.join("logs"), 0o700)?;

        let mut saved = SavedSettings::read(&data_dir)?;
        if nats.is_some() {
            saved.choose_nodes(&data_dir, options.nats_nodes)?;
        }
        saved.urls = None;
        saved.fill_passwords();
        stop_leftovers(&data_dir, &saved);
        let take = |requested: &mut [&mut u16]| -> Result<Ports, ServiceError> {
            let mut ports = Ports::default();
            for port in requested {
                **port = ports.reserve(**port)?;
            }
            Ok(ports)
        };
        let nats = match nats {
            Some(binary) => {
                let mut ports = Vec::new();
                for server in &mut saved.nats_servers {
                    let NatsServer { port, monitor_port, cluster_port } = server;
                    ports.push(take(&mut [port, monitor_port, cluster_port])?);
                }
                Some((binary, ports))
            }
            None => None,
        };
        let postgres = match postgres {
            Some(binaries) => Some((binaries, take(&mut [&mut saved.postgres_port])?)),
            None => None,
        };
        let redis = match redis {
            Some(binary) => Some((binary, take(&mut [&mut saved.redis_port])?)),
            None => None,
        };
        saved.write(&data_dir)?;
        Ok(Self { data_dir, lock, saved, nats, postgres, redis })
    }
}

fn stop_leftovers(data_dir: &Path, saved: &SavedSettings) {
    let data = saved.postgres_folder.clone().unwrap_or_else(|| data_dir.join("postgres"));
    let folders = [data_dir, &data];
    let nodes = (1..).take(saved.nats_servers.len());
    for node in nodes {
        let file = nats::pid_file(&nats::home(data_dir, saved, node));
        if let Some(pid) = process::read_pid(&file) {
            process::stop_leftover("nats", pid, Signal::SIGTERM, &folders);
        }
    }
    for (name, file, signal) in [
        ("redis", redis::pid_file(data_dir), Signal::SIGTERM),
        ("postgres", postgres::pid_file(&data), Signal::SIGINT),
    ] {
        if let Some(pid) = process::read_pid(&file) {
            process::stop_leftover(name, pid, signal, &folders);
        }
    }
}

impl PrivateServices {
    /// Starts the services that do not run elsewhere, all at once, and waits until each answers.
    pub async fn start(options: Options) -> Result<Self, ServiceError> {
        let began = Instant::now();
        let asked = options.clone();
        let ground = blocking(move || ServicePreparation::prepare_folder(&asked)).await?;
        let ServicePreparation {
            data_dir,
            lock,
            mut saved,
            nats: nats_ground,
            postgres: postgres_ground,
            redis: redis_ground,
        } = ground;

        let nats = async {
            let Some((binary, ports)) = nats_ground else { return Ok(Vec::new()) };
            let mut starting = JoinSet::new();
            for (node, (server, ports)) in (1..).zip(saved.nats_servers.iter().zip(ports)) {
                let spec = nats::prepare(&data_dir, &saved, &options, &binary, node)?;
                let host = nats::place(&options, node).clients;
                let probe = Probe::Nats { host, port: server.port, monitor: server.monitor_port };
                let slot = Slot::new(&data_dir, (Service::Nats, node), spec, probe, ports);
                // One alone is not healthy: a cluster needs most of its servers.
                starting.spawn(async move { slot.start().await.map(|()| slot) });
            }
            let started: Result<Vec<Slot>, ServiceError> =
                starting.join_all().await.into_iter().collect();
            started.map(|mut slots| {
                slots.sort_by_key(|slot| slot.node);
                slots
            })
        };
        let redis = async {
            let Some((binary, ports)) = redis_ground else { return Ok(None) };
            let spec = redis::prepare(&data_dir, &saved, options.neighbours, &binary)?;
            let probe =
                Probe::Redis { port: saved.redis_port, password: saved.redis_password.clone() };
            let slot = Slot::new(&data_dir, (Service::Redis, 1), spec, probe, ports);
            slot.start().await.map(|()| Some(slot))
        };
        let postgres = async {
            let Some((binaries, ports)) = postgres_ground else { return Ok(None) };
            let (folder, mut saved, fast) = (data_dir.clone(), saved.clone(), options.fast);
            let (spec, saved) = blocking(move || {
                let spec = postgres::prepare(&folder, &mut saved, fast, &binaries)?;
                Ok((spec, saved))
            })
            .await?;
            let data = saved.postgres_folder.clone().unwrap_or_else(|| data_dir.join("postgres"));
            let probe =
                Probe::Postgres { port: saved.postgres_port, pid_file: postgres::pid_file(&data) };
            let slot = Slot::new(&data_dir, (Service::Postgres, 1), spec, probe, ports);
            slot.start().await.map(|()| Some((slot, saved)))
        };
        // All three run to their end, even if one fails: an abandoned initdb
        // would go on in the folder.
        let (nats, postgres, redis) = tokio::join!(nats, postgres, redis);
        let postgres: Result<_, ServiceError> = postgres;
        let mut slots = Vec::new();
        let result: Result<(), ServiceError> = (|| {
            let nats: Vec<Slot> = nats?;
            slots.extend(nats);
            if let Some((slot, made)) = postgres? {
                slots.push(slot);
                saved.postgres_folder = made.postgres_folder;
                saved.postgres_made = made.postgres_made;
                saved.postgres_logins_made = made.postgres_logins_made;
            }
            slots.extend(redis?);
            Ok(())
        })();

        let private = options.nats.is_none();
        let nats_addresses = |before: &str, port: fn(&NatsServer) -> u16| {
            let address = |(node, server)| {
                format!("{before}{}:{}", nats::place(&options, node).clients, port(server))
            };
            (1..).zip(&saved.nats_servers).map(address).collect::<Vec<_>>().join(",")
        };
        let nats_as = |user: &str, password: &str, elsewhere: &Option<String>| {
            let private =
                || nats_addresses(&format!("nats://exodrive-{user}:{password}@"), |it| it.port);
            elsewhere.clone().or_else(|| options.nats.clone()).unwrap_or_else(private)
        };
        let database_as = |login: &str, password: &str, elsewhere: &Option<String>| {
            let private = || postgres::url(&saved, login, password, "exodrive");
            elsewhere.clone().or_else(|| options.database.clone()).unwrap_or_else(private)
        };
        let redis_as = |user: &str, password: &str, elsewhere: &Option<String>| {
            let private = || redis::url(&saved, &format!("exodrive-{user}"), password);
            elsewhere.clone().or_else(|| options.redis.clone()).unwrap_or_else(private)
        };
        let urls = ServiceUrls {
            nats: nats_as("api", &saved.nats_api_password, &None),
            nats_worker: nats_as("worker", &saved.nats_worker_password, &options.nats_worker),
            nats_operator: nats_as(
                "operator",
                &saved.nats_operator_password,
                &options.nats_operator,
            ),
            nats_monitor: if private {
                Some(nats_addresses("http://", |it| it.monitor_port))
            } else {
                options.nats_monitor.clone()
            },
            database: database_as("exodrive_api", &saved.postgres_api_password, &None),
            database_worker: database_as(
                "exodrive_worker",
                &saved.postgres_worker_password,
                &options.database_worker,
            ),
            database_operator: database_as(
                "exodrive_migrate",
                &saved.postgres_operator_password,
                &options.database_operator,
            ),
            redis: redis_as("api", &saved.redis_api_password, &None),
            redis_worker: redis_as("worker", &saved.redis_worker_password, &options.redis_worker),
        };
        // Built before a failure is returned, so that an ephemeral folder is removed in that case too.
        let services = Self {
            data_dir,
            ephemeral: options.ephemeral,
            neighbours: options.neighbours,
            administrators: Administrators {
                database: postgres::superuser_url(&saved),
                redis: redis::url(&saved, "", &saved.redis_password),
            },
            urls,
            slots,
            _lock: lock,
        };
        result?;
        saved.urls = Some(services.urls.clone());
        saved.write(&services.data_dir)?;
        tracing::info!(
            data_dir = %services.data_dir.display(),
            started = services.slots.len(),
            took_ms = began.elapsed().as_millis() as u64,
            "services are ready"
        );
        Ok(services)
    }

    /// The addresses of the services.
    pub fn urls(&self) -> &ServiceUrls {
        &self.urls
    }

    /// The addresses of those who may do everything. They mean something only for services that
    /// are private.
    pub fn administrators(&self) -> &Administrators {
        &self.administrators
    }

    /// The addresses of a neighbour, numbered from 1: its NATS account, its Redis
    /// database, and its Postgres database, which does not exist yet. `None` if there
    /// are fewer, or if a service runs elsewhere.
    pub fn neighbour(&self, number: u16) -> Option<ServiceUrls> {
        if !(1..=self.neighbours).contains(&number) || self.slots.len() < Service::ALL.len() {
            return None;
        }
        // In its account a user has the permissions of the first system's, and so its inbox.
        let nats = |url: &str, inbox: &str| {
            let (user, rest) = url.rsplit_once(':').and_then(|(url, port)| {
                let (user, password) = url.rsplit_once(':')?;
                Some((user.to_owned(), format!("{password}:{port}")))
            })?;
            Some(format!("{}:{rest}?inbox=exodrive-{inbox}", nats::neighbour(&user, number)))
        };
        Some(ServiceUrls {
            nats: nats(&self.urls.nats, "api")?,
            nats_worker: nats(&self.urls.nats_worker, "worker")?,
            nats_operator: nats(&self.urls.nats_operator, "operator")?,
            nats_monitor: self.urls.nats_monitor.clone(),
            database: format!("{}_{number}", self.urls.database),
            database_worker: format!("{}_{number}", self.urls.database_worker),
            database_operator: format!("{}_{number}", self.urls.database_operator),
            redis: format!("{}/{number}", self.urls.redis.strip_suffix("/0")?),
            redis_worker: format!("{}/{number}", self.urls.redis_worker.strip_suffix("/0")?),
        })
    }

    /// Process id of a service that this process runs; for Postgres its postmaster.
    pub fn pid(&self, service: Service) -> Option<u32> {
        self.slot(service).ok()?.pid()
    }

    /// The number of times that the supervisor has restarted a service.
    pub fn restarts(&self, service: Service) -> u32 {
        self.slot(service)
            .ok()
            .and_then(|slot| slot.running().as_ref().map(Supervised::restarts))
            // What does not run has no supervisor that counts.
            .unwrap_or(0)
    }

    /// Sends a signal to a service, to test a fault. Stop, continue and kill reach all of its processes.
    pub fn signal(&self, service: Service, signal: Signal) -> Result<(), ServiceError> {
        let sent = match &*self.slot(service)?.running() {
            Some(child) => child
                .signal(signal)
                .map_err(|error| ServiceError::io(format!("signal {service}"), error))?,
            None => false,
        };
        if sent { Ok(()) } else { Err(ServiceError::NotRun(service)) }
    }

    /// Waits until a service answers, for example after a signal.
    pub async fn wait_until_ready(&self, service: Service) -> Result<(), ServiceError> {
        self.slot(service)?.wait_until_ready().await
    }

    /// Stops a service; it stays down until `start_service`.
    pub async fn stop_service(&self, service: Service) -> Result<(), ServiceError> {
        self.slot(service)?.stop().await;
        Ok(())
    }

    /// Starts a stopped service on the same port with the same data and waits until it answers.
    pub async fn start_service(&self, service: Service) -> Result<(), ServiceError> {
        self.slot(service)?.start().await
    }

    /// Stops all services cleanly, and removes the data folder if it is ephemeral.
    pub async fn stop(self) {
        let stops = async |service| {
            if let Ok(slot) = self.slot(service) {
                slot.stop().await;
            }
        };
        let stop_nats = async {
            for slot in self.slots.iter().filter(|slot| slot.service == Service::Nats) {
                slot.stop().await;
            }
        };
        tokio::join!(stop_nats, stops(Service::Postgres), stops(Service::Redis));
    }

    /// One of the nats-servers, numbered from 1.
    ///
    /// # Errors
    /// When there are fewer, or they run elsewhere.
    pub fn nats_node(&self, number: u16) -> Result<NatsNode<'_>, ServiceError> {
        let mut nodes = self.slots.iter().filter(|slot| slot.service == Service::Nats);
        let slot = nodes.find(|slot| slot.node == number);
        slot.map(NatsNode::new).ok_or(ServiceError::NotRun(Service::Nats))
    }

    fn slot(&self, service: Service) -> Result<&Slot, ServiceError> {
        self.slots.iter().find(|slot| slot.service == service).ok_or(ServiceError::NotRun(service))
    }
}

impl Drop for PrivateServices {
    fn drop(&mut self) {
        self.slots.clear();
        if self.ephemeral
            && let Err(error) = remove_all(&self.data_dir)
        {
            tracing::warn!(data_dir = %self.data_dir.display(), %error, "cannot remove the data folder");
        }
    }
}

/// The addresses of a running system's services; `None` if nothing runs on this
/// data folder.
pub fn running(data_dir: &Path) -> Option<ServiceUrls> {
    // The lock goes with the process that holds it, so a killed one is not taken for a running one.
    if !folder::is_locked(data_dir) {
        return None;
    }
    SavedSettings::read(data_dir).ok()?.urls
}

/// Removes a data folder, and the Postgres data if it had to be stored
/// elsewhere.
pub fn remove(data_dir: &Path) -> Result<(), ServiceError> {
    if !data_dir.exists() {
        return Ok(());
    }
    let _lock = folder::lock(data_dir)?;
    stop_leftovers(data_dir, &SavedSettings::read(data_dir)?);
    remove_all(data_dir)
}

fn remove_all(data_dir: &Path) -> Result<(), ServiceError> {
    postgres::remove_outside(&SavedSettings::read(data_dir)?)?;
    match fs::remove_dir_all(data_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ServiceError::io(format!("remove {}", data_dir.display()), error))
        }
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(ServiceError::io("run in the background", io::Error::other(error)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_hold_no_secret() {
        for (url, shown) in [
            ("nats://u:p@a:4222", "nats://***@a:4222"),
            ("nats://u:p@a:1,nats://u:p,q@b:2", "nats://***@a:1,nats://***@b:2"),
            ("redis://:p@h/0?protocol=resp3", "redis://***@h/0?***"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
            ("u:p@h", "***@h"),
        ] {
            assert_eq!(redact(url), shown);
        }
    }
}
