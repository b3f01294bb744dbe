//! `exodrive up`: starts everything and runs it until Ctrl-C.

use super::{Failure, serve::HTTP_ADDR};
use crate::{
    http::auth::tokens::{self, Role, TokenRules},
    settings::{
        BookingSettings, CheckSettings, Connections, EngineArgs, Given, HttpSettings,
        MetricsSettings, SealSettings,
    },
};
use exodrive_log::Log;
use exodrive_projections::Database;
use exodrive_runtime::{
    folder::{self, LogRequirements, Secrets, System},
    secret::Secret,
    services::{
        Options, PrivateServices, ProcessSpec, ServiceUrls, Supervised, SyncMode, supervise,
    },
    shutdown,
};
use std::{
    fs,
    io::IsTerminal,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive up                                   data stays in .exodrive
  exodrive up --ephemeral                       data is thrown away at the end
  exodrive up --nodes 3 --ephemeral             with a cluster of three NATS servers
  EXODRIVE_NATS_URL=nats://... exodrive up      with a NATS of your own

A part that dies is started again, and so is a NATS that can store nothing since its disk was full,
when there is space. The parts' own logs are in the data folder.")]
pub(super) struct Up {
    /// Delete the data at the end (of a temporary folder, unless --data-dir
    /// names one)
    #[arg(long)]
    ephemeral: bool,
    /// Servers of the private NATS: 1, or 3 for a cluster that keeps three copies of the log. A
    /// data folder keeps the number that it was made with
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = nodes)]
    nodes: u16,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    http: HttpSettings,
    #[command(flatten)]
    bookings: BookingSettings,
    #[command(flatten)]
    seals: SealSettings,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checks: CheckSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
    /// Settings that were given, for the parts.
    #[arg(skip)]
    given: Given,
}

/// A running system.
pub(super) struct RunningSystem {
    pub(super) url: String,
    pub(super) metrics_urls: Vec<String>,
    pub(super) data_dir: PathBuf,
    parts: Vec<Supervised>,
    services: PrivateServices,
    throwaway: Option<PathBuf>,
}

/// The variable that names the data folder.
const DATA_DIR: &str = "EXODRIVE_DATA_DIR";
/// Time that the API has to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Time that a part may take to end: longer than it gives its own requests and
/// tasks.
const PART_GRACE: Duration = Duration::from_secs(30);
/// Longest lifetime of the tokens that a terminal shows.
const BANNER_TOKENS: Duration = Duration::from_secs(15 * 60);
/// Time for which a system that answers may be degraded at its start.
const WORKERS_START: Duration = Duration::from_secs(5);

impl Up {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let stop = shutdown::requested()?;
        let (connections, http) = (self.connections.clone(), self.http.clone());
        let system = tokio::select! {
            system = self.start() => system?,
            () = stop.cancelled() => return Ok(()),
        };
        say!("{}", banner(&system, &connections, &http)?);
        tokio::select! {
            () = stop.cancelled() => {}
            () = system.services.restart_stuck_nats() => {}
        }
        eprintln!("\nStopping …");
        system.stop().await;
        eprintln!("Stopped.");
        Ok(())
    }

    /// With every setting that was given on the command line or by environment.
    pub(super) fn with_given(self, given: Given) -> Self {
        Self { given, ..self }
    }

    /// An ephemeral system with default settings.
    pub(super) fn throwaway(connections: &Connections) -> Self {
        use clap::Parser;
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            up: Up,
        }
        let mut up = Alone::parse_from(["exodrive"]).up;
        up.ephemeral = true;
        up.connections = connections.clone();
        up
    }

    /// Starts everything, and prints each step with its duration.
    pub(super) async fn start(mut self) -> Result<RunningSystem, Failure> {
        // What a part would refuse is refused before anything is started.
        self.connections.refuse_unverified()?;
        self.connections.given_wrapping_keys()?;
        self.seals.given_keys()?;
        self.http.tokens.published_keys()?;
        let throwaway = self.choose_folder()?;
        let data_dir = self.connections.data_dir.clone();
        let replicas = self.replicas();
        let requirements =
            self.connections.log.over(LogRequirements { replicas, ..LogRequirements::default() });
        let (nats, [redis, redis_worker]) =
            (self.connections.given_nats()?, self.connections.given_redis());
        let step = Step::begin("Starting NATS, Postgres and Redis");
        let services = PrivateServices::start(Options {
            sync: requirements.sync,
            nats_nodes: self.nodes,
            ephemeral: self.ephemeral,
            nats: nats.api,
            nats_worker: nats.worker,
            nats_operator: nats.operator,
            nats_monitor: self.connections.nats_monitor_url.clone(),
            database: self.connections.database_url.clone(),
            database_worker: self.connections.database_worker_url.clone(),
            database_operator: self.connections.database_operator_url.clone(),
            redis,
            redis_worker,
            ..Options::new(&data_dir)
        })
        .await?;
        step.done();
        let secrets = folder::secrets(&data_dir)?;
        let urls = services.urls().clone();
        let step = Step::begin("Checking the event log");
        let (nats, monitor) = (urls.nats_operator.clone(), urls.nats_monitor.clone());
        let mut config = self.connections.appending_config(nats, monitor)?;
        config.require_sync = requirements.sync == SyncMode::Always;
        config.duplicate_window = requirements.duplicate_window;
        config.replicas = requirements.replicas;
        Log::prepare(&config).await?;
        step.done();
        let step = Step::begin("Preparing the database");
        Database::migrate(&urls.database_operator).await?;
        step.done();
        let step = Step::begin("Starting the API and a worker");
        let http_addr = choose_address(self.http.http_addr)?;
        let metrics =
            [self.metrics.metrics_addr, SocketAddr::new(self.metrics.metrics_addr.ip(), 0)]
                .map(free_port);
        let [serve_metrics, work_metrics] = metrics;
        let (serve_metrics, work_metrics) = (serve_metrics?, work_metrics?);
        let serve = self
            .part("serve", &urls, &secrets, serve_metrics)?
            .env("EXODRIVE_HTTP_ADDR", http_addr.to_string());
        let work = self.part("work", &urls, &secrets, work_metrics)?;
        let parts = vec![supervise(serve)?, supervise(work)?];
        let system = RunningSystem {
            url: format!("http://{http_addr}"),
            metrics_urls: [serve_metrics, work_metrics]
                .map(|address| format!("http://{address}/metrics"))
                .to_vec(),
            data_dir,
            parts,
            services,
            throwaway,
        };
        folder::announce(
            &system.data_dir,
            &System {
                url: system.url.clone(),
                metrics_urls: system.metrics_urls.clone(),
                log: Some(requirements),
            },
        )?;
        system.wait_until_ready().await?;
        step.done();
        Ok(system)
    }

    /// Copies of the log: one on each server, if no other number is given.
    fn replicas(&self) -> usize {
        self.connections.log.log_replicas.unwrap_or_else(|| self.nodes.into())
    }

    /// Chooses the data folder. An ephemeral system does not touch the folder
    /// of one that stays.
    fn choose_folder(&mut self) -> Result<Option<PathBuf>, Failure> {
        if !self.ephemeral || self.connections.data_dir != Path::new(".exodrive") {
            return Ok(None);
        }
        let name = format!("exodrive-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        self.connections.data_dir.clone_from(&folder);
        Ok(Some(folder))
    }

    /// The secrets of the data folder that a part needs because none was given.
    fn made_secrets<'a>(
        &self,
        command: &str,
        secrets: &'a Secrets,
    ) -> Vec<(&'static str, &'a Secret)> {
        let mut made = Vec::new();
        if self.connections.data_keys.is_none() && self.connections.data_keys_file.is_none() {
            made.push(("EXODRIVE_DATA_KEYS", &secrets.data_keys));
        }
        if command == "work" {
            if self.seals.seal_keys.is_empty() {
                made.push(("EXODRIVE_SEAL_KEYS", &secrets.seal_key));
            }
            return made;
        }
        if self.http.resend_webhook_secrets.is_empty() {
            made.push(("EXODRIVE_RESEND_WEBHOOK_SECRETS", &secrets.webhook));
        }
        if self.http.tokens.jwt_secret.is_none() && self.http.tokens.jwt_jwks.is_none() {
            made.push(("EXODRIVE_JWT_SECRET", &secrets.tokens));
        }
        if self.bookings.link_secret.is_none() {
            made.push(("EXODRIVE_LINK_SECRET", &secrets.links));
        }
        made
    }

    /// This program as a part of the system, with every setting that was given. It does not know
    /// the data folder, which holds the passwords of all parts and of their operator: it gets the
    /// secrets that it needs.
    fn part(
        &self,
        command: &str,
        urls: &ServiceUrls,
        secrets: &Secrets,
        metrics: SocketAddr,
    ) -> Result<ProcessSpec, Failure> {
        let program = ProcessSpec::new(command, std::env::current_exe()?)
            .arg(command)
            // Nobody balances between processes here.
            .env("EXODRIVE_DRAIN_PERIOD", "0s");
        let program = self
            .made_secrets(command, secrets)
            .into_iter()
            .fold(program.without(DATA_DIR), |spec, (name, secret)| {
                spec.env(name, secret.expose())
            });
        let given = self.given.variables().filter(|(name, _)| *name != DATA_DIR);
        let spec = given.fold(program, |spec, (name, value)| spec.env(name, value));
        // Each part has only the passwords of its own users.
        let (nats, database, redis) = match command {
            "work" => (&urls.nats_worker, &urls.database_worker, &urls.redis_worker),
            _ => (&urls.nats, &urls.database, &urls.redis),
        };
        let mut spec = spec
            .env("EXODRIVE_NATS_URL", nats)
            .env("EXODRIVE_NATS_WORKER_URL", nats)
            .env("EXODRIVE_NATS_OPERATOR_URL", nats)
            .env("EXODRIVE_DATABASE_URL", database)
            .env("EXODRIVE_DATABASE_WORKER_URL", database)
            .env("EXODRIVE_DATABASE_OPERATOR_URL", database)
            .env("EXODRIVE_REDIS_URL", redis)
            .env("EXODRIVE_REDIS_WORKER_URL", redis)
            .env("EXODRIVE_METRICS_ADDR", metrics.to_string())
            .env("EXODRIVE_LOG_REPLICAS", self.replicas().to_string());
        spec.grace = PART_GRACE + self.http.drain_period;
        if let Some(monitor) = &urls.nats_monitor {
            spec = spec.env("EXODRIVE_NATS_MONITOR_URL", monitor);
        }
        Ok(spec)
    }
}

impl RunningSystem {
    async fn wait_until_ready(&self) -> Result<(), Failure> {
        let started = Instant::now();
        let client = reqwest::Client::new();
        let url = format!("{}/readyz", self.url);
        let mut degraded: Option<Instant> = None;
        loop {
            if let Ok(answer) = client.get(&url).send().await
                && answer.status().is_success()
            {
                let readiness: serde_json::Value = answer.json().await?;
                let since = degraded.get_or_insert_with(Instant::now);
                // Workers make their first steps. What is degraded for longer works too.
                if readiness["status"] == "ready" || since.elapsed() > WORKERS_START {
                    return Ok(());
                }
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(format!(
                    "the system was not ready after {} s; {url} says what is missing, and the lines above why",
                    START_TIMEOUT.as_secs()
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the API and the worker, then the services below them.
    pub(super) async fn stop(self) {
        for part in &self.parts {
            part.stop().await;
        }
        self.services.stop().await;
        if let Some(folder) = self.throwaway {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Returns the address that is given, or else the usual one, or a free port if
/// that one is in use.
fn choose_address(given: Option<SocketAddr>) -> Result<SocketAddr, Failure> {
    match given {
        Some(address) => free_port(address),
        None if TcpListener::bind(HTTP_ADDR).is_ok() => Ok(HTTP_ADDR),
        None => free_port(SocketAddr::new(HTTP_ADDR.ip(), 0)),
    }
}

fn nodes(text: &str) -> Result<u16, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("must be 1 or 3: of two servers neither may fail".to_owned()),
    }
}

/// Returns the address, with a free port instead of port 0.
fn free_port(address: SocketAddr) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(address)
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(listener.local_addr()?)
}

fn banner(
    system: &RunningSystem,
    connections: &Connections,
    http: &HttpSettings,
) -> Result<String, Failure> {
    let mut connections = connections.clone();
    connections.data_dir.clone_from(&system.data_dir);
    let url = &system.url;
    let mut banner = format!(
        "\nExoDrive is running. Ctrl-C stops it.\n\n  API      {url}/v1\n  Docs     {url}/docs\n  Health   {url}/readyz\n  Metrics  {}\n  Data     {}\n",
        system.metrics_urls.join("  "),
        system.data_dir.display(),
    );
    if http.tokens.jwt_jwks.is_none() {
        let secret = http.tokens.token_secret(&connections)?;
        let on_terminal = std::io::stdout().is_terminal();
        banner.push_str(&token_lines(&secret, &http.tokens.token_rules(), on_terminal)?);
        let folder = if connections.data_dir == Path::new(".exodrive") {
            String::new()
        } else {
            format!(" --data-dir {}", connections.data_dir.display())
        };
        let program = program();
        banner.push_str(&format!(
            "\nTry, in another terminal:\n  {program} demo{folder}\n  curl -s -H \"Authorization: Bearer $({program} token --role auditor{folder})\" '{url}/v1/inbox?limit=3'\n  curl -s {url}/readyz\n  {program} projections list{folder}\n"
        ));
    }
    Ok(banner)
}

/// A token for each role. Only a person gets them: what is written to a file or a
/// pipe is kept, such as in the log of a build.
fn token_lines(secret: &Secret, rules: &TokenRules, on_terminal: bool) -> Result<String, Failure> {
    if !on_terminal {
        return Ok(format!("\n`{} token --role <role>` prints a token.\n", program()));
    }
    let lifetime = BANNER_TOKENS.min(rules.greatest_lifetime);
    let good_for = humantime::format_duration(lifetime);
    let mut lines = format!("\nA token for each role, good for {good_for}:\n");
    for role in Role::ALL {
        let token = tokens::issue(secret, "developer", role, lifetime, rules)?;
        lines.push_str(&format!("  {}={token}\n", role.name().to_uppercase()));
    }
    Ok(lines)
}

/// The command by which this program was called, to be pasted.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "exodrive".to_owned())
}

/// A line with a step, and then its duration.
struct Step {
    started: Instant,
    what: &'static str,
}

impl Step {
    fn begin(what: &'static str) -> Self {
        Self { started: Instant::now(), what }
    }

    fn done(self) {
        eprintln!("{} … {:.1} s", self.what, self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_shows_tokens_and_they_end_soon() {
        let secret = Secret::new("a secret of a test, of 32 bytes!").unwrap();
        let rules = TokenRules {
            issuer: None,
            audience: None,
            greatest_lifetime: Duration::from_secs(24 * 3_600),
            role_claim: "role".to_owned(),
        };
        let kept = token_lines(&secret, &rules, false).unwrap();
        assert!(kept.contains("token --role") && !kept.contains("eyJ"), "{kept}");
        let shown = token_lines(&secret, &rules, true).unwrap();
        // It accepts no token that lives for longer.
        let greatest_lifetime = Duration::from_secs(15 * 60);
        let tokens = tokens::Tokens::by_secret(&secret, TokenRules { greatest_lifetime, ..rules });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for role in Role::ALL {
            let name = format!("{}=", role.name().to_uppercase());
            let token = shown.lines().find_map(|line| line.trim().strip_prefix(&name)).unwrap();
            let caller = runtime.block_on(tokens.check(token)).unwrap();
            assert_eq!(caller.role, role);
        }
    }
}
