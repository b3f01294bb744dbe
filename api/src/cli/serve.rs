//! `exodrive serve` and `exodrive work`.

use super::Failure;
use crate::{
    http::{
        self, Api,
        auth::tokens::{TokenRules, Tokens},
        health,
        layers::erasure_gate::ErasureGate,
        state::{blocked_keys::BlockedKeys, limits::Limiter, view_cache::ViewCache},
    },
    settings::{
        BookingSettings, CheckSettings, Connections, HttpSettings, LogSettings, MetricsSettings,
        RebuildArgs, SealSettings, SettingsError,
    },
};
use axum::{Router, routing::get};
use chrono::TimeDelta;
use exodrive_audit::{seal::Sealer, store::SealStore};
use exodrive_commands::{
    access_log::AccessLog, erasure::Erasures, operations::Operator, rental::RentalCommands,
};
use exodrive_log::{Commands, Log};
use exodrive_projections::{
    Database,
    engine::{self, cache::Cache},
};
use exodrive_runtime::shutdown;
use exodrive_workers::{
    drift_check::DriftChecker, erasure::ErasureExecutor, hold_expiry, operations, sealing,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The address of the API when none is given.
pub(super) const HTTP_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

#[derive(clap::Args)]
#[command(after_help = "Example:
  EXODRIVE_HTTP_ADDR=0.0.0.0:8080 EXODRIVE_RESEND_WEBHOOK_SECRETS=whsec_... exodrive serve")]
pub(super) struct Serve {
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    log: LogSettings,
    #[command(flatten)]
    http: HttpSettings,
    #[command(flatten)]
    bookings: BookingSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive work        (any number of them: they share the projections and take over from each other)")]
pub(super) struct Work {
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    log: LogSettings,
    #[command(flatten)]
    rebuilds: RebuildArgs,
    #[command(flatten)]
    seals: SealSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
    #[command(flatten)]
    checks: CheckSettings,
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let stop = shutdown::requested()?;
        let urls = self.connections.resolve()?;
        let webhook_secrets = self.http.webhook_secrets(&self.connections)?;
        let tokens = self.tokens()?;
        serve_metrics(self.metrics.metrics_addr, &stop).await?;
        let log = Log::connect(&self.log.config(
            urls.nats,
            urls.nats_monitor,
            self.connections.wrapping_keys()?,
        ))
        .await?;
        let redis = Cache::new(&urls.redis)?;
        let [emails, cars, calendars] = ["inbox", "cars", "calendar"].map(|view| {
            let cache = ViewCache::new(view, redis.clone());
            tokio::spawn(cache.clone().follow(stop.clone()));
            cache
        });
        let database = Database::for_readers(&urls.database)?;
        let blocked = BlockedKeys::default();
        tokio::spawn(blocked.clone().follow(database.clone(), stop.clone()));
        let commands = Commands::new(log.clone(), Some(redis.redis().clone()));
        let rental = RentalCommands::new(commands, database.clone(), redis.clone());
        let operator = Operator::new(log.clone(), database.clone());
        let gate = ErasureGate::closed();
        let open = gate.clone().open_when_clean(log.clone(), database.clone(), stop.clone());
        tokio::spawn(open);
        let erasures = Erasures::new(log.clone());
        let accesses = AccessLog::default();
        // Ends after the last request.
        let served_all = CancellationToken::new();
        let interval = self.http.access_interval;
        let recorder =
            tokio::spawn(accesses.clone().run(log.clone(), interval, served_all.clone()));
        let api = Api {
            log,
            seals: SealStore::of(&database),
            database,
            limiter: Limiter::new(redis.clone(), self.http.rates()),
            redis,
            emails,
            cars,
            calendars,
            blocked,
            rental,
            booking_secret: self.bookings.secret(&self.connections)?,
            hold_period: TimeDelta::from_std(self.bookings.hold_period).unwrap_or(TimeDelta::MAX),
            operator,
            erasures,
            gate,
            webhook_secrets,
            tokens,
            accesses,
            trusted_proxies: self.http.trusted_proxies,
            health: health::Latest::default(),
            full_readings: tokio::sync::Semaphore::new(http::FULL_READINGS),
        };
        let address = self.http.http_addr.unwrap_or(HTTP_ADDR);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {address} (EXODRIVE_HTTP_ADDR): {error}"))?;
        tracing::info!(address = %listener.local_addr()?, "Serving");
        let service =
            http::router(Arc::new(api)).into_make_service_with_connect_info::<SocketAddr>();
        let quit = stop.clone();
        let served = axum::serve(listener, service)
            .with_graceful_shutdown(async move { quit.cancelled().await });
        tokio::select! {
            outcome = served => outcome?,
            // Connections that are kept open for nothing do not hold us up.
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {}
        }
        served_all.cancel();
        recorder.await?;
        Ok(())
    }

    fn tokens(&self) -> Result<Tokens, SettingsError> {
        let rules = TokenRules {
            issuer: self.http.jwt_issuer.clone(),
            audience: self.http.jwt_audience.clone(),
            role_claim: self.http.jwt_role_claim.clone(),
        };
        Ok(match &self.http.jwt_jwks {
            Some(source) => Tokens::by_jwks(source.clone(), self.http.jwt_algorithm, rules),
            None => Tokens::by_secret(&self.http.token_secret(&self.connections)?, rules),
        })
    }
}

/// How long requests in flight are waited for at the end.
const GRACE: Duration = Duration::from_secs(5);

impl Work {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let stop = shutdown::requested()?;
        let urls = self.connections.resolve()?;
        let seal_keys = self.seals.keys(&self.connections)?;
        serve_metrics(self.metrics.metrics_addr, &stop).await?;
        let keys = self.connections.wrapping_keys()?;
        let log = Log::connect(&self.log.config(urls.nats_worker, urls.nats_monitor, keys)).await?;
        let database = Database::for_workers(&urls.database)?;
        let cache = Cache::new(&urls.redis)?;
        let commands = Commands::new(log.clone(), Some(cache.redis().clone()));
        let readers = Database::for_readers(&urls.database)?;
        let rental = RentalCommands::new(commands, readers.clone(), cache.clone());
        tokio::spawn(hold_expiry::run(rental, readers, stop.clone()));
        let checker =
            DriftChecker { log: log.clone(), database: database.clone(), cache: cache.clone() };
        tokio::spawn(checker.run(self.checks.check_interval, stop.clone()));
        tokio::spawn(operations::run(log.clone(), database.clone(), stop.clone()));
        let executor = ErasureExecutor::new(log.clone(), database.clone(), cache.clone());
        // Nothing is folded before; services start in any order.
        while let Err(error) = executor.reapply().await {
            let error = exodrive_runtime::error_chain(&error);
            tracing::warn!(error, "Cannot look whether erasures hold, will try again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
        tokio::spawn(executor.run(stop.clone()));
        let worker = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
        tracing::info!(worker, "Working");
        let sealer = Sealer {
            log: log.clone(),
            seals: SealStore::of(&database),
            keys: seal_keys,
            interval: self.seals.seal_interval,
            worker: worker.clone(),
        };
        let rebuilds = self.rebuilds.settings();
        let work = engine::run_all(&log, &database, &cache, &worker, rebuilds, &stop);
        let sealed = CancellationToken::new();
        let work = async {
            let worked = work.await;
            sealed.cancel();
            worked
        };
        let (worked, ()) = tokio::join!(work, sealing::run(&sealer, &sealed));
        if worked.is_err() {
            sealing::seal_before_stop(&sealer).await;
        }
        Ok(worked?)
    }
}

/// Collects metrics and serves them until `stop`.
async fn serve_metrics(address: SocketAddr, stop: &CancellationToken) -> Result<(), Failure> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
        .install_recorder()?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} (EXODRIVE_METRICS_ADDR): {error}"))?;
    tracing::info!(address = %listener.local_addr()?, "Metrics at /metrics");
    let upkeep = recorder.clone();
    let page = Router::new().route("/metrics", get(move || async move { recorder.render() }));
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        let served = async { axum::serve(listener, page).await };
        tokio::pin!(served);
        loop {
            tokio::select! {
                _ = &mut served => return,
                _ = tick.tick() => upkeep.run_upkeep(),
                () = stop.cancelled() => return,
            }
        }
    });
    Ok(())
}

const BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
