//! `exodrive serve`: runs the API.

use super::{Failure, login, metrics::serve_metrics, redis_mode};
use crate::{
    http::{
        self, Api, ConnectionLimits, Phases,
        auth::tokens::Tokens,
        health,
        layers::erasure_gate::ErasureGate,
        state::{
            blocked_keys::BlockedKeys, credentials::Credentials, limits::Limiter, log_store,
            places::Places, rebuild_feeds::RebuildFeeds, view_cache::ViewCache,
        },
    },
    settings::{BookingSettings, Connections, HttpSettings, MetricsSettings, SettingsError},
};
use chrono::TimeDelta;
use exodrive_audit::store::SealStore;
use exodrive_commands::{
    access_log::AccessLog, credentials::CredentialCommands, erasure::Erasures,
    operations::Operator, rental::RentalCommands,
};
use exodrive_log::{Commands, Log, permissions::User};
use exodrive_projections::{
    Database,
    engine::{Login, cache::Cache},
};
use exodrive_runtime::{descriptors, shutdown, tasks::Tasks};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The API of a process: connected to its services, and ready to be served.
pub struct Service {
    api: Api,
    limits: ConnectionLimits,
    tasks: Tasks,
    closing: Closing,
}

/// Address of the API if none is given.
pub(super) const HTTP_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// Settings of `exodrive serve`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  EXODRIVE_HTTP_ADDR=0.0.0.0:8080 EXODRIVE_RESEND_WEBHOOK_SECRETS=whsec_... exodrive serve")]
pub struct Serve {
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    http: HttpSettings,
    #[command(flatten)]
    bookings: BookingSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
}

impl Serve {
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        self.http.max_connections = within_descriptors(self.http.max_connections);
        let requested = shutdown::requested()?;
        // Caches and records go on until the last request is answered.
        let tasks = Tasks::new(CancellationToken::new());
        serve_metrics(self.metrics.metrics_addr, &tasks).await?;
        let address = self.http.http_addr.unwrap_or(HTTP_ADDR);
        let service = self.connect(tasks, requested).await?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {address} (EXODRIVE_HTTP_ADDR): {error}"))?;
        service.serve(listener).await
    }

    /// Connects to the services, and starts the tasks of the API, which serves until `requested` is
    /// cancelled.
    ///
    /// # Errors
    /// When a setting is invalid, or the log is not as it must be.
    pub async fn connect(
        self,
        tasks: Tasks,
        requested: CancellationToken,
    ) -> Result<Service, Failure> {
        let stop = tasks.stop();
        let urls = self.connections.resolve()?;
        let booking_secret = self.bookings.secret(&self.connections)?;
        let webhook_secrets = self.http.webhook_secrets(&self.connections)?;
        let tokens = self.tokens(&tasks)?;
        let config =
            self.connections.appending_config(urls.nats.clone(), urls.nats_monitor.clone())?;
        self.connections.refuse_mighty_user("exodrive serve", User::Api, &config, &urls).await?;
        let log = Log::connect(&config).await?;
        redis_mode::refuse_unsupported(&urls.redis, "EXODRIVE_REDIS_URL", &tasks).await?;
        tasks.spawn("log-store", log_store::follow(log.clone(), stop.clone()));
        let redis = Cache::with_timeout(&urls.redis, self.http.redis_timeout)?;
        let [emails, cars, calendars] = [
            ("inbox", "view-cache-inbox"),
            ("cars", "view-cache-cars"),
            ("calendar", "view-cache-calendar"),
        ]
        .map(|(view, task)| {
            let cache = ViewCache::new(view, redis.clone());
            tasks.spawn(task, cache.clone().follow(stop.clone()));
            cache
        });
        let database = Database::for_readers(&urls.database)?;
        login::refuse_excess(&database, Login::Api, &tasks).await?;
        let blocked = BlockedKeys::default();
        tasks.spawn("blocked-keys", blocked.clone().follow(database.clone(), stop.clone()));
        let commands = Commands::new(log.clone(), Some(redis.redis().clone()));
        let credential_commands = CredentialCommands::new(commands.clone());
        let credentials = Credentials::default();
        credentials.refresh(&log).await;
        tasks.spawn("credentials", credentials.clone().follow(log.clone(), stop.clone()));
        let rental = RentalCommands::new(commands, database.for_commands(), redis.clone())
            .with_earlier_ids(booking_secret.clone());
        let operator = Operator::new(log.clone(), database.clone());
        let rebuild_feeds = RebuildFeeds::new(operator.clone());
        let gate = ErasureGate::closed();
        let kept = gate.clone().keep(log.clone(), database.clone(), stop.clone());
        tasks.spawn("erasure-gate", kept);
        let erasures = Erasures::new(log.clone());
        let accesses = AccessLog::default();
        let interval = self.http.access_interval;
        tasks.spawn("access-log", accesses.clone().run(log.clone(), interval, stop.clone()));
        let limits = self.http.connection_limits();
        let closing =
            Closing { requested, drain: self.http.drain_period, begun: CancellationToken::new() };
        let secret = log.mac_bytes("limits", b"");
        let limiter = Limiter::new(redis.clone(), self.http.rates(), &secret);
        let api = Api {
            log,
            seals: SealStore::of(&database),
            database,
            tasks: tasks.clone(),
            closing: closing.begun.clone(),
            limiter,
            redis,
            emails,
            cars,
            calendars,
            blocked,
            rental,
            booking_secret,
            hold_period: TimeDelta::from_std(self.bookings.hold_period).unwrap_or(TimeDelta::MAX),
            operator,
            erasures,
            gate,
            webhook_secrets,
            tokens,
            credentials,
            credential_commands,
            accesses,
            bounds: self.http.bounds(),
            cors_origins: self.http.cors_origins,
            trusted_proxies: self.http.trusted_proxies,
            health: health::Latest::default(),
            exports: Places::of_each(1),
            followers: Places::of_each(http::FOLLOWED),
            rebuild_feeds,
            readings: http::Readings::default(),
            suspects: tokio::sync::Semaphore::new(http::SUSPECTS),
            webhook_bodies: tokio::sync::Semaphore::new(http::BODY_BYTES),
            command_bodies: tokio::sync::Semaphore::new(http::BODY_BYTES),
        };
        Ok(Service { api, limits, tasks, closing })
    }

    fn tokens(&self, tasks: &Tasks) -> Result<Tokens, SettingsError> {
        let (tokens, keys) = self.http.tokens.checks(&self.connections)?;
        if let Some(keys) = keys {
            tasks.spawn("jwks", keys.follow(tasks.stop().clone()));
        }
        Ok(tokens)
    }
}

impl Service {
    /// Answers requests until it is asked to stop, or a task ends.
    ///
    /// # Errors
    /// When a task has ended by itself.
    pub async fn serve(self, listener: TcpListener) -> Result<(), Failure> {
        let Self { api, limits, tasks, closing } = self;
        tracing::info!(address = %listener.local_addr()?, "Serving");
        let router = http::router(Arc::new(api));
        let phases = Phases { leaving: closing.begun.clone(), stop: CancellationToken::new() };
        let served = http::serving::serve(listener, router, limits, phases.clone());
        tokio::select! {
            () = served => {}
            () = closing.close(&tasks, &phases.stop) => {}
        }
        tasks.stop().cancel();
        let running = tasks.finish(GRACE).await;
        if !running.is_empty() {
            tracing::warn!(?running, "Some tasks did not end in time");
        }
        Ok(tasks.outcome()?)
    }
}

/// How a process leaves: first it says so, then it takes no more connections, then it ends.
struct Closing {
    /// Cancelled when the process is asked to stop.
    requested: CancellationToken,
    /// Time for which it goes on answering as before, and says that it is not ready.
    drain: Duration,
    /// Cancelled when that time begins.
    begun: CancellationToken,
}

impl Closing {
    /// Cancels `stop` when no more connections are to be accepted. Returns when the process should
    /// end although requests are in progress: they have had [`REQUEST_GRACE`] since then.
    async fn close(&self, tasks: &Tasks, stop: &CancellationToken) {
        tokio::select! {
            () = self.requested.cancelled() => {
                self.begun.cancel();
                tracing::info!(drain = ?self.drain, "Leaving: not ready from now on");
                tokio::time::sleep(self.drain).await;
            }
            // `/readyz` names the task, so that load balancers leave first.
            _ = tasks.run_until_stopped() => tokio::time::sleep(NOTICE).await,
        }
        stop.cancel();
        tokio::time::sleep(REQUEST_GRACE).await;
    }
}

/// The number of connections that may be open: at most `wanted`, and no more than the process has
/// descriptors for.
fn within_descriptors(wanted: usize) -> usize {
    let descriptors = descriptors::raise_limit();
    let possible = descriptors.saturating_sub(OWN_DESCRIPTORS).max(1);
    if possible < wanted {
        tracing::warn!(
            descriptors,
            "This process may open few files (ulimit -n): it takes {possible} connections at a \
             time, not {wanted} (EXODRIVE_MAX_CONNECTIONS)"
        );
    }
    wanted.min(possible)
}

/// Descriptors that the process needs besides those of its clients' connections.
const OWN_DESCRIPTORS: usize = 256;
/// Time for which a process whose task has ended goes on answering.
const NOTICE: Duration = Duration::from_secs(2);
/// Time for requests in progress to finish after the last connection was accepted.
const REQUEST_GRACE: Duration = Duration::from_secs(20);
/// Time for tasks to finish after the last request.
const GRACE: Duration = Duration::from_secs(5);
