//! A power cut: what was acknowledged is in the log afterwards, if and only if its server flushes to
//! disk before it acknowledges.

use crate::append::decision;
use exodrive_log::{Log, LogConfig};
use exodrive_runtime::services::{Signal, nats_server, signal_process};
use exodrive_tests::{Process, TRACED, TracedFiles, eventually, free_address, wrapping_keys};
use futures::future::join_all;
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tempfile::TempDir;

const APPENDERS: usize = 8;
/// Events that are acknowledged before the cut, at least.
const ENOUGH: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_flushed_before_it_was_acknowledged() {
    let (acknowledged, left) = cut_the_power(true).await;
    let lost: Vec<_> = acknowledged.difference(&left).collect();
    assert!(lost.is_empty(), "{lost:?} of {} are lost", acknowledged.len());
}

/// If this kept everything, the other test would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_what_was_acknowledged_before_it_was_flushed() {
    let (acknowledged, left) = cut_the_power(false).await;
    assert!(left.len() < acknowledged.len(), "all {} are left", acknowledged.len());
}

/// Three servers of a cluster lose their power at the same moment, as in one room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_three_servers_takes_nothing_that_they_acknowledged() {
    let (acknowledged, left) = cut_the_power_of_three(true).await;
    let lost: Vec<_> = acknowledged.difference(&left).collect();
    assert!(lost.is_empty(), "{lost:?} of {} are lost", acknowledged.len());
}

/// If this kept everything, the other test would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_three_servers_takes_what_was_acknowledged_before_it_was_flushed() {
    let (acknowledged, left) = cut_the_power_of_three(false).await;
    assert!(left.len() < acknowledged.len(), "all {} are left", acknowledged.len());
}

/// As [`cut_the_power`], of three servers at once.
async fn cut_the_power_of_three(flushes: bool) -> (BTreeSet<String>, BTreeSet<String>) {
    // Of these tests each is a process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let servers = Server::prepare_three(&folder, "before", flushes);
    let mut started: Vec<_> = servers.iter().map(|server| server.start_traced()).collect();
    let config = config_of(&servers, flushes);
    eventually("the log is prepared", async || {
        Log::prepare(&config).await.map_err(|error| error.to_string())
    })
    .await;
    let log = Log::connect(&config).await.unwrap();
    let mut files = Vec::new();
    for server in &servers {
        let mut seen = seen_in(server).await;
        seen.settle();
        files.push(seen);
    }
    let acknowledged = append_until_cut(&log, || servers.iter().for_each(Server::kill)).await;
    for process in &mut started {
        eventually("a server has ended", async || process.ended()).await;
    }
    let again = Server::prepare_three(&folder, "after", flushes);
    for ((mut files, before), after) in files.into_iter().zip(&servers).zip(&again) {
        files.replay(&fs::read_to_string(before.trace()).unwrap());
        files.restore(&after.store);
    }
    let program = nats_server().unwrap();
    let _again: Vec<_> = again.iter().map(|server| server.start(&program, &[])).collect();
    let config = config_of(&again, flushes);
    let left = eventually("the servers are back", async || match Log::connect(&config).await {
        Ok(log) => log.last_position().await.map(|_| log).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    let left = left_in(&left).await;
    (acknowledged, left)
}

/// The ids of the events that were acknowledged before a power cut, and of those that are in the log
/// afterwards.
async fn cut_the_power(flushes: bool) -> (BTreeSet<String>, BTreeSet<String>) {
    // Of these tests each is a process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::prepare(&folder, "before", flushes, "");
    let mut process = server.start_traced();
    let config = server.config(flushes);
    eventually("the log is prepared", async || {
        Log::prepare(&config).await.map_err(|error| error.to_string())
    })
    .await;
    let log = Log::connect(&config).await.unwrap();
    // As after some minutes.
    let mut files = seen_in(&server).await;
    files.settle();

    let acknowledged = append_until_cut(&log, || server.kill()).await;
    eventually("the server has ended", async || process.ended()).await;

    // What was not done to its end when it was killed may be on the disk, or not.
    files.replay(&fs::read_to_string(server.trace()).unwrap());
    let again = Server::prepare(&folder, "after", flushes, "");
    files.restore(&again.store);
    let _again = again.start(&nats_server().unwrap(), &[]);
    eventually("the server is back", async || {
        Log::open(&again.config(flushes)).await.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
    let left = left_in(&Log::connect(&again.config(flushes)).await.unwrap()).await;
    (acknowledged, left)
}

/// Appends until enough events are acknowledged, and cuts the power meanwhile; gives the ids of
/// those that were acknowledged before.
async fn append_until_cut(log: &Log, cut_power: impl Fn()) -> BTreeSet<String> {
    let cut = AtomicBool::new(false);
    let appenders = join_all((0..APPENDERS).map(async |appender| {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            let id = format!("{appender}-{n}");
            let event = decision(&format!("em-{appender}-{n}"), &id);
            let appended = log.append_decision(&event, 0).await;
            if cut.load(Ordering::SeqCst) || appended.is_err() {
                break;
            }
            acknowledged.push(id);
            if acknowledged.len() >= ENOUGH && appender == 0 {
                cut.store(true, Ordering::SeqCst);
                cut_power();
            }
        }
        acknowledged
    }));
    appenders.await.into_iter().flatten().collect()
}

/// The files of a server by its trace, once that is complete.
async fn seen_in(server: &Server) -> TracedFiles {
    eventually("the trace says what the files are", async || {
        let mut files = TracedFiles::below(&server.store);
        files.replay(&fs::read_to_string(server.trace()).unwrap());
        files.differs().map_or(Ok(files), Err)
    })
    .await
}

async fn left_in(log: &Log) -> BTreeSet<String> {
    let end = usize::try_from(log.last_position().await.unwrap()).unwrap();
    let (mut reader, mut left) = (log.reader(1), BTreeSet::new());
    while left.len() < end {
        let batch = reader.next_batch(2_000, Duration::from_secs(5)).await.unwrap();
        assert!(!batch.events.is_empty(), "the log says that it has {end} events");
        left.extend(batch.events.into_iter().map(|event| event.envelope.id));
    }
    left
}

/// Ends a traced server with the test: `strace` leaves it when it is killed itself.
impl Drop for Server {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.folder.join("pid")).ok();
        if let Some(pid) = pid.and_then(|pid| pid.trim().parse().ok()) {
            let _ = signal_process(pid, Signal::SIGKILL);
        }
    }
}

/// A server of NATS that is not ours: no supervisor starts it again.
struct Server {
    folder: PathBuf,
    store: PathBuf,
    address: SocketAddr,
    monitor: SocketAddr,
}

impl Server {
    /// Three servers of a cluster.
    fn prepare_three(folder: &TempDir, name: &str, flushes: bool) -> Vec<Self> {
        let routes = [free_address(), free_address(), free_address()];
        let urls = routes.map(|address| format!("nats-route://{address}")).join(", ");
        (1..)
            .zip(routes)
            .map(|(number, own)| {
                let cluster = format!(
                    "server_name: server-{number}\ncluster {{ name: one, listen: \"{own}\", \
                     no_advertise: true, routes: [ {urls} ] }}"
                );
                Self::prepare(folder, &format!("{name}-{number}"), flushes, &cluster)
            })
            .collect()
    }

    fn prepare(folder: &TempDir, name: &str, flushes: bool, cluster: &str) -> Self {
        let folder = folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let store = folder.join("store");
        let server = Self { folder, store, address: free_address(), monitor: free_address() };
        let flushes = if flushes { "sync_interval: always" } else { "" };
        let text = format!(
            "listen: \"{}\"\nhttp: \"{}\"\npid_file: {:?}\nmax_payload: 2MB\n\
             jetstream {{ store_dir: {:?}, {flushes} }}\n{cluster}\n",
            server.address,
            server.monitor,
            server.folder.join("pid"),
            server.store
        );
        fs::write(server.folder.join("nats.conf"), text).unwrap();
        server
    }

    /// Starts it, under a program that is given its command after these arguments.
    fn start(&self, program: &Path, arguments: &[&str]) -> Process {
        let server = nats_server().unwrap();
        let conf = self.folder.join("nats.conf");
        let mut command: Vec<&str> = arguments.to_vec();
        if program != server {
            command.push(server.to_str().unwrap());
        }
        command.extend(["-c", conf.to_str().unwrap()]);
        Process::start(program, &command, &[], &self.folder.join("nats.log"))
    }

    /// Starts it, and has its system calls recorded.
    fn start_traced(&self) -> Process {
        let trace = self.trace();
        let arguments = ["-f", "-y", "-xx", "-s", "9999999", "-e", TRACED, "-o"];
        let arguments: Vec<_> = arguments.into_iter().chain(trace.to_str()).collect();
        self.start(Path::new("strace"), &arguments)
    }

    fn trace(&self) -> PathBuf {
        self.folder.join("trace")
    }

    fn pid(&self) -> u32 {
        fs::read_to_string(self.folder.join("pid")).unwrap().trim().parse().unwrap()
    }

    fn kill(&self) {
        signal_process(self.pid(), Signal::SIGKILL).unwrap();
    }

    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    fn config(&self, flushes: bool) -> LogConfig {
        LogConfig {
            url: self.url(),
            monitor_url: Some(format!("http://{}", self.monitor)),
            require_sync: flushes,
            duplicate_window: Duration::from_secs(60),
            replicas: 1,
            ack_timeout: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(10),
            keys: wrapping_keys(),
        }
    }
}

/// The log of a cluster.
fn config_of(servers: &[Server], flushes: bool) -> LogConfig {
    let list = |of: fn(&Server) -> String| servers.iter().map(of).collect::<Vec<_>>().join(",");
    LogConfig {
        url: list(Server::url),
        monitor_url: Some(list(|server| format!("http://{}", server.monitor))),
        replicas: 3,
        ..servers[0].config(flushes)
    }
}
