//! Every setting, as an option of the command line and an environment variable.

mod remote;
mod secret_parser;
mod secrets;
mod tokens;
mod unverified;

use self::secret_parser::SecretParser;
pub use self::{remote::RemoteSettings, tokens::TokenSettings};
use super::http::{
    ConnectionLimits,
    layers::load::Bounds,
    state::limits::{Limit, Rate, Rates},
};
use axum::http::HeaderValue;
use clap::{ArgMatches, Args, Command, parser::ValueSource};
use exodrive_log::{LogConfig, WrappingKeysError, address::AddressError};
use exodrive_projections::engine::{EngineSettings, RebuildSettings};
use exodrive_proof::note::KeyError;
use exodrive_runtime::{
    folder::{self, LogRequirements},
    secret::{Secret, WeakSecret},
    services::{self, ServiceUrls, SyncMode},
    telemetry,
};
use ipnet::IpNet;
use std::{
    ffi::{OsStr, OsString},
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

/// Addresses of the services. Every command finds a running system by these, or
/// by its data folder.
#[derive(Args, Clone)]
#[command(next_help_heading = "Where the system is")]
pub struct Connections {
    /// The folder that holds a private system's data, secrets and addresses.
    #[arg(long, env = "EXODRIVE_DATA_DIR", default_value = ".exodrive", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// NATS, if it is not the data folder's own: nats://user:password@host:port,
    /// tls: on another machine; the servers of a cluster with commas between.
    #[arg(long, env = "EXODRIVE_NATS_URL", hide_env_values = true, value_name = "URL")]
    pub nats_url: Option<String>,
    /// That NATS as the worker's user. Not given: EXODRIVE_NATS_URL.
    #[arg(long, env = "EXODRIVE_NATS_WORKER_URL", hide_env_values = true, value_name = "URL")]
    pub nats_worker_url: Option<String>,
    /// That NATS as the user who may make streams (docs/nats.conf). Not given:
    /// EXODRIVE_NATS_URL.
    #[arg(long, env = "EXODRIVE_NATS_OPERATOR_URL", hide_env_values = true, value_name = "URL")]
    pub nats_operator_url: Option<String>,
    /// 'separate': `serve` and `work` refuse a NATS user who may do more than they should.
    /// 'any': whoever takes such a process over may change the log's streams.
    #[arg(long, env = "EXODRIVE_NATS_USERS", default_value = "separate", value_name = "WHICH")]
    pub nats_users: NatsUsers,
    /// The monitoring endpoint of that NATS, by which its sync mode is checked;
    /// of a cluster those of all servers, with commas between.
    #[arg(long, env = "EXODRIVE_NATS_MONITOR_URL", value_name = "URL")]
    pub nats_monitor_url: Option<String>,
    /// Postgres, if it is not the data folder's own, as the API's login (docs/postgres.sql).
    #[arg(long, env = "EXODRIVE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// That Postgres as the worker's login. Not given: EXODRIVE_DATABASE_URL.
    #[arg(long, env = "EXODRIVE_DATABASE_WORKER_URL", hide_env_values = true, value_name = "URL")]
    pub database_worker_url: Option<String>,
    /// That Postgres as the login that makes and owns the tables. Not given:
    /// EXODRIVE_DATABASE_URL.
    #[arg(
        long,
        env = "EXODRIVE_DATABASE_OPERATOR_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_operator_url: Option<String>,
    /// Redis, if it is not the data folder's own, as the API's user (docs/redis.conf).
    #[arg(long, env = "EXODRIVE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,
    /// That Redis as the worker's user. Not given: EXODRIVE_REDIS_URL.
    #[arg(long, env = "EXODRIVE_REDIS_WORKER_URL", hide_env_values = true, value_name = "URL")]
    pub redis_worker_url: Option<String>,
    /// Servers that may be on another machine although nobody verifies that they
    /// are who they say, or the connection can be read: nats, postgres, redis, with
    /// commas between. Not given: NATS on another machine needs a URL that begins
    /// with tls:, Postgres sslmode=verify-full in its URL, and Redis a URL that
    /// begins with rediss:.
    #[arg(long, env = "EXODRIVE_ALLOW_UNVERIFIED", value_delimiter = ',', value_name = "SERVERS")]
    pub allow_unverified: Vec<Unverified>,
    /// Keys that encrypt the data keys of personal data in the log: version,
    /// colon, base64 of 32 bytes; several with commas between; the highest
    /// version encrypts new keys. If they are lost, the data is lost. Not
    /// given: the keys of the data folder.
    #[arg(long, env = "EXODRIVE_DATA_KEYS", hide_env_values = true, value_name = "KEYS",
          value_parser = SecretParser::DATA_KEYS)]
    pub data_keys: Option<Secret>,
    /// A file with such keys, one on each line.
    #[arg(
        long,
        env = "EXODRIVE_DATA_KEYS_FILE",
        value_name = "FILE",
        conflicts_with = "data_keys"
    )]
    pub data_keys_file: Option<PathBuf>,
    /// Files for connections to servers on other machines.
    #[command(flatten)]
    pub remote: RemoteSettings,
    /// Properties that the event log must have.
    #[command(flatten)]
    pub log: LogSettings,
}

/// A server that may be reached without a verified certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unverified {
    /// NATS.
    Nats,
    /// Postgres.
    Postgres,
    /// Redis.
    Redis,
}

/// The NATS users that `serve` and `work` may be.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatsUsers {
    /// Those who may do what the process should, and no more.
    Separate,
    /// Any user.
    Any,
}

/// Properties that the event log must have. If one is not given, it is that of the
/// system that runs in the data folder, or else the default.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "The event log")]
pub struct LogSettings {
    /// 'always': NATS flushes to disk before it acknowledges, and the program
    /// rejects a server that does not, or of which it cannot see that. 'unchecked':
    /// the same, and you have made sure of it. 'default': faster, but a power cut can
    /// lose what was acknowledged in the last two minutes. [default: always]
    #[arg(long, env = "EXODRIVE_LOG_SYNC", value_name = "MODE", value_parser = parse_sync)]
    pub log_sync: Option<SyncMode>,
    /// Time for which NATS recognises the ids of events. Older repeats are
    /// recognised by the deliveries view. [default: 3d]
    #[arg(long, env = "EXODRIVE_DUPLICATE_WINDOW", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub duplicate_window: Option<Duration>,
    /// Copies of the log in a NATS cluster: 1 or 3. [default: 1]
    #[arg(long, env = "EXODRIVE_LOG_REPLICAS", value_name = "N")]
    pub log_replicas: Option<usize>,
}

impl LogSettings {
    /// Returns the properties that are given, and the others from `otherwise`.
    pub fn over(&self, otherwise: LogRequirements) -> LogRequirements {
        LogRequirements {
            sync: self.log_sync.unwrap_or(otherwise.sync),
            duplicate_window: self.duplicate_window.unwrap_or(otherwise.duplicate_window),
            replicas: self.log_replicas.unwrap_or(otherwise.replicas),
        }
    }
}

/// Settings of the API.
#[derive(Args, Clone)]
#[command(next_help_heading = "The API")]
pub struct HttpSettings {
    /// Address at which the API listens. Not given: 127.0.0.1:8080; `exodrive
    /// up` takes a free port if that one is in use.
    #[arg(long, env = "EXODRIVE_HTTP_ADDR", value_name = "ADDRESS")]
    pub http_addr: Option<SocketAddr>,
    /// Signing secrets of the Resend webhook, with commas between; any of them
    /// is accepted. Each is whsec_ and the base64 of at least 24 bytes. Not
    /// given: the data folder's own, made on first use.
    #[arg(
        long,
        env = "EXODRIVE_RESEND_WEBHOOK_SECRETS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "SECRETS",
        value_parser = SecretParser::WEBHOOK
    )]
    pub resend_webhook_secrets: Vec<Secret>,
    /// Networks of proxies whose X-Forwarded-For or Forwarded is trusted, with
    /// commas between. If a request has both, they must agree on its address.
    #[arg(long, env = "EXODRIVE_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORKS")]
    pub trusted_proxies: Vec<IpNet>,
    /// Limit for requests without a token, per address.
    #[arg(long, env = "EXODRIVE_RATE_LIMIT_PUBLIC", default_value_t = Limit::Public.default_rate(),
          value_name = "N/PERIOD")]
    pub rate_limit_public: Rate,
    /// Limit for requests of a customer, per user.
    #[arg(long, env = "EXODRIVE_RATE_LIMIT_SIGNED_IN",
          default_value_t = Limit::SignedIn.default_rate(), value_name = "N/PERIOD")]
    pub rate_limit_signed_in: Rate,
    /// Limit for requests of staff (admin, auditor, operator), per user.
    #[arg(long, env = "EXODRIVE_RATE_LIMIT_ADMIN", default_value_t = Limit::Admin.default_rate(),
          value_name = "N/PERIOD")]
    pub rate_limit_admin: Rate,
    /// Limit for webhooks that fail verification, per address. Verified ones
    /// are not counted. Of addresses beyond it, eight webhooks are looked at
    /// at a time.
    #[arg(long, env = "EXODRIVE_RATE_LIMIT_FAILED_WEBHOOK",
          default_value_t = Limit::FailedWebhook.default_rate(), value_name = "N/PERIOD")]
    pub rate_limit_failed_webhook: Rate,
    /// Limit for bookings made by customers and visitors, per user, or per
    /// address without a token. What is refused or repeated makes no booking.
    #[arg(long, env = "EXODRIVE_RATE_LIMIT_BOOKING",
          default_value_t = Limit::Booking.default_rate(), value_name = "N/PERIOD")]
    pub rate_limit_booking: Rate,
    /// MiB that a user may export in a day, over all processes. An export that
    /// has begun comes to its end.
    #[arg(long, env = "EXODRIVE_EXPORT_BUDGET",
          default_value_t = Limit::Export.default_amount(), value_name = "MIB")]
    pub export_budget: NonZeroU32,
    /// MiB that all users together may export in a day.
    #[arg(long, env = "EXODRIVE_EXPORT_BUDGET_TOTAL",
          default_value_t = Limit::AllExports.default_amount(), value_name = "MIB")]
    pub export_budget_total: NonZeroU32,
    /// Connections to the API that may be open at a time. Others are closed at
    /// once.
    #[arg(long, env = "EXODRIVE_MAX_CONNECTIONS", default_value_t = 4_096, value_name = "N")]
    pub max_connections: usize,
    /// Connections that may be open at a time from one address (of IPv6: from
    /// one /64). A trusted proxy has no such limit.
    #[arg(
        long,
        env = "EXODRIVE_MAX_CONNECTIONS_PER_NETWORK",
        default_value_t = 256,
        value_name = "N"
    )]
    pub max_connections_per_network: usize,
    /// Time limit for receiving the head of a request.
    #[arg(long, env = "EXODRIVE_HEAD_TIMEOUT", default_value = "10s", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub head_timeout: Duration,
    /// Time after which a connection is closed that sends no other request.
    #[arg(long, env = "EXODRIVE_IDLE_TIMEOUT", default_value = "75s", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub idle_timeout: Duration,
    /// Time for which a process that is asked to stop goes on answering while
    /// `/readyz` says that it is not ready, so that load balancers leave first:
    /// longer than the interval at which they ask.
    #[arg(long, env = "EXODRIVE_DRAIN_PERIOD", default_value = "5s", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub drain_period: Duration,
    /// Time after which a connection is closed that takes nothing of its
    /// answer.
    #[arg(long, env = "EXODRIVE_WRITE_TIMEOUT", default_value = "30s", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub write_timeout: Duration,
    /// Webhooks that may be in progress at a time. Beyond this and the next
    /// three, requests are answered 503.
    #[arg(long, env = "EXODRIVE_MAX_WEBHOOKS", default_value_t = 512, value_name = "N")]
    pub max_webhooks: usize,
    /// Reads that may be in progress at a time.
    #[arg(long, env = "EXODRIVE_MAX_READS", default_value_t = 512, value_name = "N")]
    pub max_reads: usize,
    /// Commands that may be in progress at a time.
    #[arg(long, env = "EXODRIVE_MAX_COMMANDS", default_value_t = 256, value_name = "N")]
    pub max_commands: usize,
    /// Exports, replays and histories that may be in progress at a time.
    #[arg(long, env = "EXODRIVE_MAX_HEAVY_READS", default_value_t = 8, value_name = "N")]
    pub max_heavy_reads: usize,
    /// Longest time that a request waits for Redis. Without its answer the
    /// request goes on; then others do not ask Redis for a moment.
    #[arg(long, env = "EXODRIVE_REDIS_TIMEOUT", default_value = "50ms", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub redis_timeout: Duration,
    /// Web pages of these origins (scheme, host and port, as browsers send them)
    /// may ask the API from a browser, with commas between. Not given: of none.
    #[arg(long, env = "EXODRIVE_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGINS",
          value_parser = parse_origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Interval at which records of reads by staff are appended together. An
    /// API process that is killed loses the records of the last interval.
    #[arg(long, env = "EXODRIVE_ACCESS_INTERVAL", default_value = "1s", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub access_interval: Duration,
    /// Tokens of its callers.
    #[command(flatten)]
    pub tokens: TokenSettings,
}

/// Settings of the engine that keeps the projections.
#[derive(Args, Clone)]
#[command(next_help_heading = "Projections")]
pub struct EngineArgs {
    /// Processor time that the fold of one event may take before the event is
    /// parked.
    #[arg(long, env = "EXODRIVE_FOLD_LIMIT", default_value = "500ms", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub fold_limit: Duration,
    /// Rows that a rebuild holds in memory, in MiB. The others stay in the
    /// table.
    #[arg(long, env = "EXODRIVE_REBUILD_MEMORY_MIB", default_value_t = 256, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub rebuild_memory_mib: u64,
    /// A rebuild pauses while reads take longer than this.
    #[arg(long, env = "EXODRIVE_REBUILD_READ_LIMIT", default_value = "25ms",
          value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub rebuild_read_limit: Duration,
}

impl EngineArgs {
    /// The settings in the form that the engine takes.
    pub fn settings(&self) -> EngineSettings {
        EngineSettings {
            rebuilds: RebuildSettings {
                memory: self.rebuild_memory_mib << 20,
                read_limit: self.rebuild_read_limit,
            },
            fold_limit: self.fold_limit,
        }
    }
}

/// Settings of the seal.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sealing")]
pub struct SealSettings {
    /// The log's name in its checkpoints and keys. Witnesses and auditors know
    /// it by this name: choose it once.
    #[arg(
        long,
        env = "EXODRIVE_SEAL_ORIGIN",
        default_value = "exodrive.local/log",
        value_name = "NAME"
    )]
    pub seal_origin: String,
    /// Keys that sign checkpoints, with commas between: each the base64 of 32
    /// random bytes, or a file with it. Every one of them signs. To replace a
    /// key, put the new one before it, and remove the old one when auditors
    /// know the new one. A verifier key (name+id+key) instead of the old one
    /// keeps what it has signed valid. Not given: the key of the data folder.
    #[arg(
        long,
        env = "EXODRIVE_SEAL_KEYS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "KEYS",
        value_parser = SecretParser::SEAL_KEY
    )]
    pub seal_keys: Vec<Secret>,
    /// Longest time that an event waits for its checkpoint.
    #[arg(long, env = "EXODRIVE_SEAL_INTERVAL", default_value = "10s", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub seal_interval: Duration,
}

/// Settings of bookings.
#[derive(Args, Clone)]
#[command(next_help_heading = "Bookings")]
pub struct BookingSettings {
    /// Time for which an unpaid booking holds its days.
    #[arg(long, env = "EXODRIVE_HOLD_PERIOD", default_value = "15m", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub hold_period: Duration,
    /// Makes the links by which guests see their bookings; at least 32 bytes. If
    /// it changes, links that guests have go on working (their hashes are in the
    /// log), but the answer to a repeat of an older request shows a link that does
    /// not work, and customers whose ids an earlier release has derived from it
    /// get new ids when they return.
    /// Not given: the secret of the data folder, or else one that is derived
    /// from EXODRIVE_JWT_SECRET.
    #[arg(long, env = "EXODRIVE_LINK_SECRET", hide_env_values = true, value_name = "SECRET",
          value_parser = SecretParser::TEXT)]
    pub link_secret: Option<Secret>,
}

/// Settings of the metrics endpoint, which is apart from the API.
#[derive(Args, Clone)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsSettings {
    /// Address at which /metrics listens, in Prometheus format. Port 0 chooses
    /// a free port.
    #[arg(
        long,
        env = "EXODRIVE_METRICS_ADDR",
        default_value = "127.0.0.1:0",
        value_name = "ADDRESS"
    )]
    pub metrics_addr: SocketAddr,
}

/// Settings of the drift check.
#[derive(Args, Clone)]
#[command(next_help_heading = "Checks")]
pub struct CheckSettings {
    /// Interval at which the rows of a few keys are folded again from the log
    /// and compared with Postgres and Redis. A log line and the metric
    /// exodrive_projection_drift_keys report differences. 0s: never.
    #[arg(long, env = "EXODRIVE_CHECK_INTERVAL", default_value = "10s", value_name = "DURATION",
          value_parser = humantime::parse_duration)]
    pub check_interval: Duration,
}

/// Default filter of log lines. `exodrive up` itself reports the services that
/// start and stop.
pub const DEFAULT_FILTER: &str = "info,async_nats=warn,exodrive_runtime::services=warn";

/// Settings of log lines.
#[derive(Args, Clone)]
#[command(next_help_heading = "Logging")]
pub struct Logging {
    /// A level (error, warn, info, debug, trace), or directives such as
    /// info,exodrive_projections=debug.
    #[arg(
        long = "log",
        env = "EXODRIVE_LOG",
        default_value = DEFAULT_FILTER, global = true,
        value_name = "FILTER"
    )]
    pub filter: String,
    /// Format: auto (human on a terminal, JSON otherwise), human or json.
    #[arg(
        long = "log-format",
        env = "EXODRIVE_LOG_FORMAT",
        default_value = "auto",
        global = true,
        value_name = "FORMAT"
    )]
    pub format: telemetry::Format,
}

/// Settings that were given for one command, on its command line or in the
/// environment, as variables. A process passes them to others of the same program.
/// They come from the command's own list of options, so that none can be missing.
#[derive(Clone, Default)]
pub struct Given(Vec<(String, OsString)>);

/// Shows names only: some values are secrets.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Given {
    /// Returns the values that `matches` has for the options of `command` with a
    /// variable.
    pub fn of(command: &Command, matches: &ArgMatches) -> Self {
        let given = command.get_arguments().filter_map(|arg| {
            let id = arg.get_id().as_str();
            let source = matches.value_source(id)?;
            if !matches!(source, ValueSource::CommandLine | ValueSource::EnvVariable) {
                return None;
            }
            let name = arg.get_env()?.to_str()?.to_owned();
            let mut value = OsString::new();
            for (n, part) in matches.get_raw(id)?.enumerate() {
                if n > 0 {
                    value.push(arg.get_value_delimiter().map_or_else(String::new, String::from));
                }
                value.push(part);
            }
            Some((name, value))
        });
        Self(given.collect())
    }

    /// Returns the same settings with one of them set to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.into()));
        self
    }

    /// Name and value of each setting.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_os_str()))
    }
}

/// An error of the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No system runs in the data folder.
    #[error(
        "no system runs in {0}: start one with `make run` (or `exodrive up`), name its folder with --data-dir, or give EXODRIVE_NATS_URL, EXODRIVE_DATABASE_URL and EXODRIVE_REDIS_URL"
    )]
    NoSystem(String),
    /// A secret is neither given nor in the data folder.
    #[error(
        "no {what}: set {variable}, or name the data folder of a running system with --data-dir"
    )]
    NoSecret {
        /// Purpose of the secret.
        what: &'static str,
        /// The variable that sets it.
        variable: &'static str,
    },
    /// A secret can be guessed.
    #[error("{variable}: {reason}")]
    Weak {
        /// The variable that sets it.
        variable: &'static str,
        /// What is wrong with it.
        reason: WeakSecret,
    },
    /// Anybody's tokens of the issuer would be accepted.
    #[error(
        "EXODRIVE_JWT_JWKS needs {0}: without it, tokens that the issuer made for other services would be accepted"
    )]
    JwksWithout(&'static str),
    /// Keys would be too old before they are fetched again.
    #[error(
        "EXODRIVE_JWT_JWKS_REFRESH must be longer than 0s and shorter than EXODRIVE_JWT_JWKS_MAX_AGE"
    )]
    JwksTimes,
    /// An invalid secret.
    #[error("EXODRIVE_RESEND_WEBHOOK_SECRETS: {0}")]
    Webhook(#[from] exodrive_audit::webhook_signature::SecretError),
    /// A wrapping key is invalid.
    #[error("EXODRIVE_DATA_KEYS: {0}")]
    DataKeys(#[from] WrappingKeysError),
    /// The file of data keys cannot be read.
    #[error("cannot read {0} (EXODRIVE_DATA_KEYS_FILE)")]
    DataKeysFile(String, #[source] std::io::Error),
    /// A key for checkpoints is invalid.
    #[error(
        "EXODRIVE_SEAL_KEYS: {0}; each must be the base64 of 32 bytes, a file with it, or a verifier key. EXODRIVE_SEAL_ORIGIN must have no space and no plus sign"
    )]
    SealKey(#[from] KeyError),
    /// Whoever is between here and a server could read along, or stand in for it.
    #[error(
        "{variable} is on another machine, and its certificate is not verified: {remedy}, or allow it by EXODRIVE_ALLOW_UNVERIFIED={server}"
    )]
    Unverified {
        /// The variable that names the server.
        variable: &'static str,
        /// How it is verified.
        remedy: &'static str,
        /// The server, as the exception names it.
        server: &'static str,
    },
    /// An address of NATS is invalid.
    #[error("{variable} cannot be used")]
    Nats {
        /// The variable that names the servers.
        variable: &'static str,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// A file is given for servers that are not.
    #[error("{0} needs EXODRIVE_NATS_URL: the data folder's own NATS takes no such file")]
    NatsFile(&'static str),
    /// A user has a file of its own, and an address that names another user.
    #[error(
        "{0} is needed: EXODRIVE_NATS_URL names another user than the one of the credentials or the nkey that are given"
    )]
    NatsUser(&'static str),
    /// The URL of a server names several.
    #[error(
        "{0} names several servers: one is supported. Name what follows a failover, such as the address of a managed service or of a proxy"
    )]
    SeveralServers(&'static str),
    /// The URL of a server is invalid.
    #[error("{0} is no URL of such a server")]
    Url(&'static str),
    /// The data folder cannot be used.
    #[error("cannot use the data folder {0}")]
    Folder(String, #[source] std::io::Error),
}

const MINUTE: Duration = Duration::from_secs(60);

fn at_most(text: &str, most: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let most_text = humantime::format_duration(most);
    if duration <= most { Ok(duration) } else { Err(format!("must be {most_text} at most")) }
}

/// An origin as browsers send it: scheme, host, and a port that is not the
/// scheme's own.
fn parse_origin(text: &str) -> Result<HeaderValue, String> {
    let wrong = || "must be an origin, such as https://www.example.com, without a path".to_owned();
    let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
    let fits = matches!(scheme, "http" | "https")
        && !host.is_empty()
        && host
            .bytes()
            .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || b".-:[]".contains(&it));
    if fits { HeaderValue::from_str(text).map_err(|_| wrong()) } else { Err(wrong()) }
}

fn parse_sync(text: &str) -> Result<SyncMode, String> {
    match text {
        "always" => Ok(SyncMode::Always),
        "unchecked" => Ok(SyncMode::Unchecked),
        "default" => Ok(SyncMode::Default),
        _ => Err("must be 'always', 'unchecked' or 'default'".to_owned()),
    }
}

impl Connections {
    /// Returns the addresses that are given, and the others from the system
    /// that runs in the data folder.
    ///
    /// # Errors
    /// When one is missing and no system runs there.
    pub fn resolve(&self) -> Result<ServiceUrls, SettingsError> {
        self.refuse_unverified()?;
        let (nats, [redis, redis_worker]) = (self.given_nats()?, self.given_redis());
        let database = &self.database_url;
        let running = if nats.api.is_some() && database.is_some() && redis.is_some() {
            None
        } else {
            let running = services::running(&self.data_dir);
            Some(
                running
                    .ok_or_else(|| SettingsError::NoSystem(self.data_dir.display().to_string()))?,
            )
        };
        let of = |user: &Option<String>, api: &Option<String>, kept: fn(&ServiceUrls) -> &str| {
            let given = user.as_deref().or(api.as_deref());
            given.or(running.as_ref().map(kept)).unwrap_or_default().to_owned()
        };
        Ok(ServiceUrls {
            nats_monitor: match (&nats.api, &running) {
                (None, Some(running)) => running.nats_monitor.clone(),
                _ => self.nats_monitor_url.clone(),
            },
            nats: of(&None, &nats.api, |it| &it.nats),
            nats_worker: of(&nats.worker, &nats.api, |it| &it.nats_worker),
            nats_operator: of(&nats.operator, &nats.api, |it| &it.nats_operator),
            database: of(&None, database, |it| &it.database),
            database_worker: of(&self.database_worker_url, database, |it| &it.database_worker),
            database_operator: of(&self.database_operator_url, database, |it| {
                &it.database_operator
            }),
            redis: of(&None, &redis, |it| &it.redis),
            redis_worker: of(&redis_worker, &redis, |it| &it.redis_worker),
        })
    }

    /// Returns the address of the log alone, for programs that need nothing
    /// else.
    ///
    /// # Errors
    /// As [`Connections::resolve`].
    pub fn resolve_log(&self) -> Result<(String, Option<String>), SettingsError> {
        self.refuse_unverified()?;
        match self.given_nats()?.api {
            Some(url) => Ok((url, self.nats_monitor_url.clone())),
            None => self.resolve().map(|urls| (urls.nats, urls.nats_monitor)),
        }
    }

    /// Returns the address of the database alone, as the worker's login, for commands that look at
    /// projections.
    ///
    /// # Errors
    /// As [`Connections::resolve`].
    pub fn resolve_database(&self) -> Result<String, SettingsError> {
        self.refuse_unverified()?;
        match self.database_worker_url.as_ref().or(self.database_url.as_ref()) {
            Some(url) => Ok(url.clone()),
            None => self.resolve().map(|urls| urls.database_worker),
        }
    }

    /// Returns the properties that the event log must have: those that are given, or
    /// else those of the system that runs in the data folder, or else the defaults.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn log_requirements(&self) -> Result<LogRequirements, SettingsError> {
        // A log elsewhere does not have the properties of the folder's log.
        let running = match &self.nats_url {
            Some(_) => None,
            None => folder::announced(&self.data_dir).map_err(|error| {
                SettingsError::Folder(self.data_dir.display().to_string(), error)
            })?,
        };
        // A folder that no system announces sets no requirements.
        let running = running.and_then(|system| system.log).unwrap_or_default();
        Ok(self.log.over(running))
    }

    /// Settings for a log at `url` to which the caller appends. Its properties are
    /// checked by `monitor_url`, and a weaker log is rejected.
    ///
    /// # Errors
    /// As [`Connections::wrapping_keys`] and [`Connections::log_requirements`].
    pub fn appending_config(
        &self,
        url: String,
        monitor_url: Option<String>,
    ) -> Result<LogConfig, SettingsError> {
        let LogRequirements { sync, duplicate_window, replicas } = self.log_requirements()?;
        Ok(LogConfig {
            url,
            monitor_url,
            require_sync: sync == SyncMode::Always,
            duplicate_window,
            replicas,
            ack_timeout: ACK_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            keys: self.wrapping_keys()?,
        })
    }

    /// Settings for a log at `url` that is only read. Its properties are not
    /// checked.
    ///
    /// # Errors
    /// As [`Connections::wrapping_keys`].
    pub fn reading_config(&self, url: String) -> Result<LogConfig, SettingsError> {
        Ok(LogConfig {
            url,
            monitor_url: None,
            require_sync: false,
            duplicate_window: Duration::ZERO,
            replicas: 1,
            ack_timeout: ACK_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            keys: self.wrapping_keys()?,
        })
    }
}

/// Time limit for an acknowledgement. After it the API answers 503, and the
/// sender tries again.
const ACK_TIMEOUT: Duration = Duration::from_secs(4);
/// Time limit for connecting: services start in any order.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

impl HttpSettings {
    /// Bounds of what may be in progress.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            webhooks: self.max_webhooks,
            reads: self.max_reads,
            commands: self.max_commands,
            heavy: self.max_heavy_reads,
        }
    }

    /// Bounds of the connections.
    pub fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            total: self.max_connections,
            per_network: self.max_connections_per_network,
            unbounded: self.trusted_proxies.clone(),
            head: self.head_timeout,
            idle: self.idle_timeout,
            write: self.write_timeout,
        }
    }

    /// The rate of every limit.
    pub fn rates(&self) -> Rates {
        Rates {
            public: self.rate_limit_public,
            signed_in: self.rate_limit_signed_in,
            admin: self.rate_limit_admin,
            failed_webhook: self.rate_limit_failed_webhook,
            booking: self.rate_limit_booking,
            export: Rate::a_day(self.export_budget),
            all_exports: Rate::a_day(self.export_budget_total),
        }
    }
}
