//! `exodrive work`: a process that folds the projections and runs every background
//! worker.

use super::{Failure, login, metrics::serve_metrics, redis_mode};
use crate::settings::{CheckSettings, Connections, EngineArgs, MetricsSettings, SealSettings};
use exodrive_log::{Log, permissions::User};
use exodrive_projections::{
    Database,
    engine::{self, Login, cache::Cache},
};
use exodrive_runtime::{shutdown, tasks::Tasks};
use exodrive_workers::{Driver, System, sealing, status, status::Statuses};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Name of the task that folds the projections.
const PROJECTIONS: &str = "projections";
/// Time for workers to end their steps and release their leases.
const GRACE: Duration = Duration::from_secs(6);
/// Time limit for recording the last status.
const LAST_STATUS: Duration = Duration::from_secs(1);

/// Settings of `exodrive work`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive work        (any number of them: they share the projections and take over from each other)")]
pub struct Work {
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    seals: SealSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
    #[command(flatten)]
    checks: CheckSettings,
}

impl Work {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let tasks = Tasks::new(shutdown::requested()?);
        serve_metrics(self.metrics.metrics_addr, &tasks).await?;
        self.work(tasks).await
    }

    /// Folds the projections and runs the workers until the tasks are stopped, or one of
    /// them ends.
    ///
    /// # Errors
    /// When a setting is invalid, when the log is not as it must be, when a task has ended by
    /// itself, or after a failure that no retry cures.
    pub async fn work(self, tasks: Tasks) -> Result<(), Failure> {
        let urls = self.connections.resolve()?;
        let seal_keys = Arc::new(self.seals.keys(&self.connections)?);
        let (nats, monitor) = (urls.nats_worker.clone(), urls.nats_monitor.clone());
        let config = self.connections.appending_config(nats, monitor)?;
        self.connections.refuse_mighty_user("exodrive work", User::Worker, &config, &urls).await?;
        let log = Log::connect(&config).await?;
        redis_mode::refuse_unsupported(&urls.redis_worker, "EXODRIVE_REDIS_WORKER_URL", &tasks)
            .await?;
        let database = Database::for_workers(&urls.database_worker)?;
        login::refuse_excess(&database, Login::Worker, &tasks).await?;
        let process = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
        let system = System {
            log,
            database,
            readers: Database::for_readers(&urls.database_worker)?,
            cache: Cache::new(&urls.redis_worker)?,
            process: process.clone(),
            seal_keys,
            seal_interval: self.seals.seal_interval,
            check_interval: self.checks.check_interval,
            erased_is_gone: CancellationToken::new(),
        };
        tracing::info!(worker = process, "Working");
        let statuses = Statuses::new(&process);
        let driver = Driver::new(tasks.clone(), statuses.clone());
        exodrive_workers::start_all(&driver, &system);
        tasks.spawn(
            status::PUBLISHER,
            statuses.clone().publish(system.database.clone(), tasks.stop().clone()),
        );
        let failed = Arc::new(Mutex::new(None));
        tasks.spawn(PROJECTIONS, self.project(system.clone(), tasks.clone(), failed.clone()));
        let _ = tasks.run_until_stopped().await;
        let running = tasks.finish(GRACE).await;
        let outcome = tasks.outcome();
        if !running.is_empty() {
            tracing::warn!(?running, "Some tasks did not end in time");
        }
        let broken = outcome.as_ref().err().map(|ended| ended.name);
        let last = statuses.publish_end(&system.database, broken);
        let _ = tokio::time::timeout(LAST_STATUS, last).await;
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = failed {
            sealing::compare_once_more(&system).await;
            return Err(Box::new(error));
        }
        Ok(outcome?)
    }

    /// Folds every projection until the process stops. A failure that no retry
    /// cures is stored in `failed`, and ends the process.
    fn project(
        &self,
        system: System,
        tasks: Tasks,
        failed: Arc<Mutex<Option<exodrive_projections::Error>>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let settings = self.engine.settings();
        async move {
            let System { log, database, cache, process, .. } = &system;
            tokio::select! {
                () = system.erased_is_gone.cancelled() => {}
                () = tasks.stop().cancelled() => return,
            }
            let kept = engine::run_all(log, database, cache, process, settings, tasks.stop()).await;
            if let Err(error) = kept {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
    }
}
