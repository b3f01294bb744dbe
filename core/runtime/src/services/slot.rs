//! One service of a data folder, from its start to its end.

use super::folder::Ports;
use super::probe::Probe;
use super::supervisor::{Output, ProcessSpec, Supervised, supervise};
use super::{Service, ServiceError, Signal};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(30);

/// A service that this process runs, or has stopped.
pub(super) struct Slot {
    pub(super) service: Service,
    /// Of several nats-servers this one, from 1 on.
    pub(super) node: u16,
    spec: ProcessSpec,
    probe: Probe,
    log: PathBuf,
    running: Mutex<Option<Supervised>>,
    /// Held while the service is stopped too: it comes back on the same ports.
    _ports: Ports,
}

impl Slot {
    pub(super) fn new(
        data_dir: &Path,
        (service, node): (Service, u16),
        mut spec: ProcessSpec,
        probe: Probe,
        ports: Ports,
    ) -> Self {
        let log = data_dir.join("logs").join(format!("{}.log", spec.name));
        spec.output = Output::File(log.clone());
        Self { service, node, spec, probe, log, running: Mutex::new(None), _ports: ports }
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Option<Supervised>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name in log lines.
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.running().as_ref().and_then(Supervised::pid)
    }

    pub(super) async fn start(&self) -> Result<(), ServiceError> {
        let began = Instant::now();
        {
            let mut running = self.running();
            if running.is_none() {
                let child = supervise(self.spec.clone()).map_err(|error| {
                    ServiceError::io(format!("start {}", self.spec.name), error)
                })?;
                *running = Some(child);
            }
        }
        if let Err(error) = self.wait_until_ready().await {
            let child = self.running().take();
            drop(child);
            return Err(error);
        }
        tracing::info!(
            service = %self.service,
            port = self.probe.port(),
            pid = self.pid(),
            took_ms = began.elapsed().as_millis() as u64,
            "service started"
        );
        Ok(())
    }

    pub(super) async fn wait_until_ready(&self) -> Result<(), ServiceError> {
        let began = Instant::now();
        loop {
            let (pid, restarts) = match &*self.running() {
                Some(child) => (child.pid(), child.restarts()),
                None => return Err(ServiceError::NotRun(self.service)),
            };
            if let Some(pid) = pid
                && self.probe.answers(pid).await
            {
                return Ok(());
            }
            // Waiting does not help a service that dies at each start.
            let hopeless = restarts >= 5 && began.elapsed() > Duration::from_secs(5);
            if hopeless || began.elapsed() > START_LIMIT {
                return Err(ServiceError::NotReady {
                    service: self.service,
                    seconds: began.elapsed().as_secs(),
                    log: self.log.clone(),
                    tail: tail(&self.log),
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the server says of a write that has failed, if it runs.
    pub(super) async fn failed_write(&self) -> Option<String> {
        self.pid()?;
        self.probe.failed_write().await
    }

    /// Ends the server, for its supervisor to start it again.
    pub(super) async fn restart(&self) {
        let before = self.pid();
        let signal = |signal| {
            // One that has just ended is being started again anyway.
            let _ = self.running().as_ref().map(|child| child.signal(signal));
        };
        signal(Signal::SIGTERM);
        let began = Instant::now();
        while self.pid() == before && began.elapsed() < self.spec.grace {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if self.pid() == before {
            signal(Signal::SIGKILL);
        }
    }

    pub(super) async fn stop(&self) {
        let child = self.running().take();
        if let Some(child) = child {
            child.stop().await;
            tracing::info!(service = %self.service, "service stopped");
        }
    }
}

fn tail(log: &Path) -> String {
    let text = match fs::read(log) {
        Ok(text) => text,
        Err(error) => return format!("its log cannot be read: {error}"),
    };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

/// One nats-server of several.
#[derive(Clone, Copy)]
pub struct NatsNode<'a>(&'a Slot);

impl<'a> NatsNode<'a> {
    pub(super) fn new(slot: &'a Slot) -> Self {
        Self(slot)
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(self, signal: Signal) -> Result<(), ServiceError> {
        let failed = |error| ServiceError::io(format!("signal nats-server {}", self.0.node), error);
        let sent = match &*self.0.running() {
            Some(child) => child.signal(signal).map_err(failed)?,
            None => false,
        };
        if sent { Ok(()) } else { Err(ServiceError::NotRun(Service::Nats)) }
    }

    /// Kills it (SIGKILL); it stays down until [`NatsNode::start`].
    pub fn kill(self) {
        let child = self.0.running().take();
        drop(child);
    }

    /// Stops it cleanly; it stays down until [`NatsNode::start`].
    pub async fn stop(self) {
        self.0.stop().await;
    }

    /// Starts it again, with the same port and data, and waits until it is up to date. It is not
    /// while most of the servers are down.
    ///
    /// # Errors
    /// When it is not within 30 s.
    pub async fn start(self) -> Result<(), ServiceError> {
        self.0.start().await
    }

    /// Waits until it is up to date.
    ///
    /// # Errors
    /// As [`NatsNode::start`].
    pub async fn wait_until_ready(self) -> Result<(), ServiceError> {
        self.0.wait_until_ready().await
    }
}
