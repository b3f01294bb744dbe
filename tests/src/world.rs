//! A whole system for one test: servers, processes, and calls to them.

use crate::{
    API, Answer, Process, Servers, System, WORKER, complaints_of_postgres, eventually,
    free_address, process::program,
};
use exodrive_runtime::services::{NatsPlace, Options, PrivateServices, Service, SyncMode};
use nix::sys::signal::Signal;
use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

/// A whole system of its own: servers, API and worker. Dropping it kills all
/// of it and removes its folder.
pub struct World {
    // First, so that they end before the servers do.
    running: Mutex<HashMap<String, Process>>,
    /// The private servers, to be stopped, killed and started again.
    pub services: PrivateServices,
    metrics: Mutex<HashMap<String, SocketAddr>>,
    system: System,
}

impl Deref for World {
    type Target = System;

    fn deref(&self) -> &System {
        &self.system
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let complaints = complaints_of_postgres(&self.data_dir());
        // A test that has failed says why already.
        if !std::thread::panicking() {
            assert!(complaints.is_empty(), "Postgres complains of how it was used:\n{complaints}");
        }
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut System {
        &mut self.system
    }
}

impl World {
    /// A system with settings that let tests work at full speed, ready.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A system with these settings on top, ready.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let world = Self::without_processes(settings).await;
        world.migrate().await;
        world.start_api();
        world.start_worker(WORKER);
        world.wait_until("ready").await;
        world
    }

    /// A system with a cluster of three nats-servers, each of which keeps a copy of the log and
    /// flushes it to disk before it acknowledges; ready.
    pub async fn clustered() -> Self {
        Self::clustered_at(Vec::new()).await
    }

    /// The same, with each server at its place; on 127.0.0.1 without places.
    pub async fn clustered_at(nats_places: Vec<NatsPlace>) -> Self {
        let settings = [
            ("EXODRIVE_LOG_REPLICAS", "3"),
            ("EXODRIVE_LOG_SYNC", "always"),
            // Its places may be no addresses of this machine.
            ("EXODRIVE_ALLOW_UNVERIFIED", "nats"),
        ];
        let servers = |options: Options| Options {
            nats_nodes: 3,
            nats_places,
            sync: SyncMode::Always,
            ..options
        };
        let world = Self::on_servers(servers, &settings).await;
        world.migrate().await;
        world.start_api();
        world.start_worker(WORKER);
        world.wait_until("ready").await;
        world
    }

    /// The servers only: no migration, no API, no worker yet.
    pub async fn without_processes(settings: &[(&str, &str)]) -> Self {
        Self::on_servers(|options| options, settings).await
    }

    async fn on_servers(
        servers: impl FnOnce(Options) -> Options,
        settings: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let services = servers(Options::for_tests(folder.path().join("services")));
        let services = PrivateServices::start(services).await.unwrap();
        let (urls, administrators) = (services.urls(), services.administrators());
        let servers = Servers { urls: urls.clone(), administrators: administrators.clone() };
        let system = System::new(folder, servers, free_address(), settings);
        Self { running: Mutex::default(), services, metrics: Mutex::default(), system }
    }

    /// The folder of the servers' data.
    pub fn data_dir(&self) -> PathBuf {
        self.folder().join("services")
    }

    /// Applies the migrations, as a user would.
    pub async fn migrate(&self) {
        let done = self.exodrive(&["migrate"]).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Starts the API (again), and does not wait for it.
    pub fn start_api(&self) {
        self.start_process(API, API);
    }

    /// Starts another process that serves the API, on an address of its own,
    /// which stays the same when it is started again; does not wait for it.
    pub fn start_api_as(&self, name: &str) {
        self.addresses.lock().unwrap().entry(name.to_owned()).or_insert_with(free_address);
        self.start_process(name, API);
    }

    /// Starts a worker under a name of the test's own, and does not wait for
    /// it.
    pub fn start_worker(&self, name: &str) {
        self.start_process(name, WORKER);
    }

    /// Starts a process that serves the API or a worker, with these settings on
    /// top, and does not wait for it.
    pub fn start_with(&self, name: &str, command: &str, settings: &[(&str, &str)]) {
        if command == API {
            self.addresses.lock().unwrap().entry(name.to_owned()).or_insert_with(free_address);
        }
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.start_process_with(name, command, settings);
    }

    /// Waits until a process has ended by itself; gives how.
    pub async fn ended(&self, name: &str) -> std::process::ExitStatus {
        eventually(&format!("{name} ends by itself"), async || {
            self.running().get_mut(name).expect("a process").ended()
        })
        .await
    }

    /// True if a process has not ended by itself.
    pub fn runs(&self, name: &str) -> bool {
        self.running().get_mut(name).expect("a process").ended().is_none()
    }

    fn start_process(&self, name: &str, command: &str) {
        self.start_process_with(name, command, []);
    }

    fn start_process_with(
        &self,
        name: &str,
        command: &str,
        settings: impl IntoIterator<Item = (String, String)>,
    ) {
        let mut env = self.env.clone();
        env.extend(settings);
        if command == API {
            env.push(("EXODRIVE_HTTP_ADDR".to_owned(), self.address(name).to_string()));
        }
        let metrics = free_address();
        env.push(("EXODRIVE_METRICS_ADDR".to_owned(), metrics.to_string()));
        self.metrics.lock().unwrap().insert(name.to_owned(), metrics);
        let process = Process::start(&program("exodrive"), &[command], &env, &self.log_file(name));
        let before = self.running().insert(name.to_owned(), process);
        assert!(before.is_none(), "{name} runs already");
    }

    /// Kills a process (SIGKILL).
    pub fn kill(&self, name: &str) {
        let process = self.running().remove(name).expect("a running process");
        process.signal(Signal::SIGKILL);
    }

    /// Sends a signal to a process.
    pub fn signal(&self, name: &str, signal: Signal) {
        self.running().get(name).expect("a running process").signal(signal);
    }

    /// Kills a server (SIGKILL); its supervisor starts it again, and this
    /// waits until it answers.
    pub async fn kill_service(&self, service: Service) {
        let before = self.services.pid(service);
        self.services.signal(service, Signal::SIGKILL).unwrap();
        eventually("a killed server is started again", async || {
            self.services.pid(service).filter(|pid| Some(*pid) != before)
        })
        .await;
        self.services.wait_until_ready(service).await.unwrap();
    }

    /// The process id.
    pub fn pid(&self, name: &str) -> u32 {
        self.running().get(name).expect("a running process").id()
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Process>> {
        self.running.lock().unwrap()
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.log"))
    }

    /// The output of a process so far.
    pub fn printed(&self, name: &str) -> String {
        fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    /// The output of the NATS server so far.
    pub fn nats_printed(&self) -> String {
        fs::read_to_string(self.folder().join("services/logs/nats-server.log")).unwrap()
    }

    /// Everything that a process serves under `/metrics`.
    pub async fn metrics(&self, name: &str) -> String {
        let address = self.metrics.lock().unwrap()[name];
        let request = self.http.get(format!("http://{address}/metrics"));
        let answer = Answer::of(request).await.unwrap();
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    /// The sum of all samples of one metric; `None` if there is no sample.
    pub async fn metric(&self, process: &str, name: &str) -> Option<f64> {
        let text = self.metrics(process).await;
        let values: Vec<f64> = text
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let sample = rest.starts_with([' ', '{']);
                sample.then(|| rest.rsplit(' ').next().unwrap().parse().unwrap())
            })
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}
