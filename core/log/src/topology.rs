//! The streams and what the server must be, checked at start.

use crate::{
    Log,
    clock::LogClock,
    keys::{KeyError, KeyStore, WrappingKeys},
};
use async_nats::{
    ConnectOptions, ServerAddr, ServerInfo,
    jetstream::{
        self,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
    },
};
use exodrive_domain::LOG_SUBJECTS;
use std::{error::Error, fmt, time::Duration};

/// The log's stream.
pub const STREAM: &str = "EXODRIVE";
/// The stream that readiness writes to, apart from the log.
pub const CANARY_STREAM: &str = "EXODRIVE_CANARY";
/// Its subject.
pub(crate) const CANARY_SUBJECT: &str = "exo-canary";

/// The stream of the data keys, and what its subjects begin with.
pub const KEYS_STREAM: &str = "EXODRIVE_KEYS";
pub(crate) const KEYS_PREFIX: &str = "exo-keys";

/// The oldest server with every fix and feature that the log rests on.
const OLDEST_SERVER: (u64, u64, u64) = (2, 12, 3);
/// A webhook's body may have 1 MiB; headers come on top.
const SMALLEST_MAX_PAYLOAD: usize = (1 << 20) + (64 << 10);

/// Where the log is and what it must be.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `nats://user:password@host:port`.
    pub url: String,
    /// The server's monitoring endpoint, `http://host:port`, by which its sync
    /// mode is checked. Without it the mode cannot be seen, and a warning says
    /// so.
    pub monitor_url: Option<String>,
    /// Refuse a server that acknowledges before it has flushed to disk. Such a
    /// server (the default) loses nothing when it crashes, but up to its
    /// `sync_interval` of two minutes when the machine does.
    pub require_sync: bool,
    /// How long the server must remember the ids of events.
    pub duplicate_window: Duration,
    /// Copies in a cluster: 1 or 3.
    pub replicas: usize,
    /// How long an append may wait for its acknowledgement.
    pub ack_timeout: Duration,
    /// How long to keep trying to reach the server at start.
    pub patience: Duration,
    /// What the data keys are wrapped with.
    pub keys: WrappingKeys,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error("the event log does not answer at {address}: is NATS running? (EXODRIVE_NATS_URL)")]
    Unreachable {
        /// Host and port, without credentials.
        address: String,
        /// What the client said.
        #[source]
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// A setting with which events could be lost or changed.
    #[error("refusing this event log: {setting} is {found}, it must be {wanted}. {remedy}")]
    Setting {
        /// The setting's own name.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The server refused to make or show a stream.
    #[error("cannot {action} stream {stream}")]
    Stream {
        /// What was tried.
        action: &'static str,
        /// Which stream.
        stream: &'static str,
        /// What the server said.
        #[source]
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// The data keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

pub(crate) async fn connect(config: &LogConfig) -> Result<Log, ConnectError> {
    let context = context(config).await?;
    check_sync(config).await?;
    let wanted = log_config(config);
    let stream = context.get_or_create_stream(wanted.clone()).await.map_err(|source| {
        ConnectError::Stream { action: "open", stream: STREAM, source: Box::new(source) }
    })?;
    check_stream(&stream.cached_info().config, &wanted)?;
    context.get_or_create_stream(canary_config(config)).await.map_err(|source| {
        ConnectError::Stream { action: "open", stream: CANARY_STREAM, source: Box::new(source) }
    })?;
    let keys = context.get_or_create_stream(keys_config(config)).await.map_err(|source| {
        ConnectError::Stream { action: "open", stream: KEYS_STREAM, source: Box::new(source) }
    })?;
    log(config, context, stream, keys).await
}

/// As [`connect`], for those who only read: makes nothing, and leaves judging
/// the settings to those who write.
pub(crate) async fn open(config: &LogConfig) -> Result<Log, ConnectError> {
    let context = context(config).await?;
    let started = tokio::time::Instant::now();
    let find = async |name: &'static str| loop {
        match context.get_stream(name).await {
            Ok(stream) => return Ok(stream),
            Err(source) if started.elapsed() >= config.patience => {
                let source = Box::new(source);
                return Err(ConnectError::Stream { action: "find", stream: name, source });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let (stream, keys) = (find(STREAM).await?, find(KEYS_STREAM).await?);
    log(config, context, stream, keys).await
}

async fn context(config: &LogConfig) -> Result<jetstream::Context, ConnectError> {
    let client = reach(config).await?;
    check_server(&client.server_info())?;
    Ok(jetstream::context::ContextBuilder::new()
        .timeout(config.ack_timeout)
        .ack_timeout(config.ack_timeout)
        .build(client))
}

async fn log(
    config: &LogConfig,
    context: jetstream::Context,
    stream: Stream,
    keys: Stream,
) -> Result<Log, ConnectError> {
    let info = stream.cached_info();
    let (created_at, duplicate_window) = (info.created, info.config.duplicate_window);
    let keys = KeyStore::open(context.clone(), keys, config.keys.clone()).await?;
    let clock = LogClock::start(context.clone()).await;
    let ack_timeout = config.ack_timeout;
    Ok(Log { context, stream, keys, ack_timeout, duplicate_window, created_at, clock })
}

/// Tries until the server answers or patience ends: services start in any
/// order.
async fn reach(config: &LogConfig) -> Result<async_nats::Client, ConnectError> {
    let unreachable =
        |source| ConnectError::Unreachable { address: without_credentials(&config.url), source };
    let parse = |address: &str| address.parse::<ServerAddr>();
    let addresses = config.url.split(',');
    let with_credentials: Result<Vec<_>, _> = addresses.clone().map(parse).collect();
    let servers: Result<Vec<_>, _> = addresses.map(|address| parse(&bare(address))).collect();
    let (with_credentials, servers) = with_credentials
        .and_then(|them| Ok((them, servers?)))
        .map_err(|error| unreachable(Box::new(error)))?;
    // The client does not look for credentials in an address, and writes
    // addresses into its log lines.
    let credentials = with_credentials
        .iter()
        .find_map(|server| Some((server.username()?.to_owned(), server.password()?.to_owned())));
    let started = tokio::time::Instant::now();
    loop {
        let mut options = ConnectOptions::new()
            .name("exodrive")
            .connection_timeout(Duration::from_secs(2))
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(if attempts < 2 { 20 } else { 250 })
            });
        if let Some((user, password)) = credentials.clone() {
            options = options.user_and_password(user, password);
        }
        let attempt = options.connect(&servers[..]).await;
        match attempt {
            Ok(client) => return Ok(client),
            Err(source) if started.elapsed() >= config.patience => {
                return Err(unreachable(Box::new(source)));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The address of one server, without credentials.
fn bare(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => {
            format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
        }
        None => address.rsplit_once('@').map_or(address, |(_, host)| host).to_owned(),
    }
}

fn without_credentials(url: &str) -> String {
    let address = url.rsplit('@').next().unwrap_or(url);
    address.trim_start_matches("nats://").trim_start_matches("tls://").to_owned()
}

fn check_server(server: &ServerInfo) -> Result<(), ConnectError> {
    if parse_version(&server.version).is_none_or(|version| version < OLDEST_SERVER) {
        return Err(ConnectError::Setting {
            setting: "the NATS server's version",
            found: server.version.clone(),
            wanted: format!("{}.{}.{} or newer", OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2),
            remedy: "Older servers store the parts of an atomic batch one by one, without a word; \
                     `make tools` fetches a newer one.",
        });
    }
    if server.max_payload < SMALLEST_MAX_PAYLOAD {
        return Err(ConnectError::Setting {
            setting: "max_payload of the NATS server",
            found: server.max_payload.to_string(),
            wanted: format!("at least {SMALLEST_MAX_PAYLOAD}"),
            remedy: "A webhook's body may have 1 MiB, and its headers come on top.",
        });
    }
    Ok(())
}

fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.split(['.', '-']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

async fn check_sync(config: &LogConfig) -> Result<(), ConnectError> {
    if !config.require_sync {
        return Ok(());
    }
    let always = match &config.monitor_url {
        Some(url) => flushes_before_ack(url).await,
        None => {
            tracing::warn!(
                "Cannot see whether the NATS server runs with sync_interval 'always': set \
                 EXODRIVE_NATS_MONITOR_URL to its monitoring endpoint, or make sure by hand"
            );
            return Ok(());
        }
    };
    match always {
        Ok(true) => Ok(()),
        Ok(false) => Err(ConnectError::Setting {
            setting: "sync_interval of the NATS server",
            found: "not 'always'".into(),
            wanted: "'always'".into(),
            remedy: "Without it an acknowledged event can be lost in a power cut. Set \
                     `jetstream { sync_interval: always }`, or accept the loss with \
                     EXODRIVE_LOG_SYNC=default.",
        }),
        Err(error) => {
            tracing::warn!(%error, "The NATS monitoring endpoint does not answer: sync_interval was not checked");
            Ok(())
        }
    }
}

async fn flushes_before_ack(monitor_url: &str) -> Result<bool, reqwest::Error> {
    let url = format!("{}/varz", monitor_url.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let varz: serde_json::Value = client.get(url).send().await?.error_for_status()?.json().await?;
    let always = varz.pointer("/jetstream/config/sync_always").and_then(|it| it.as_bool());
    Ok(always == Some(true))
}

fn log_config(config: &LogConfig) -> Config {
    Config {
        name: STREAM.into(),
        subjects: vec![LOG_SUBJECTS.into()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        // With `old`, one lowered limit would delete events without a trace.
        discard: DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        allow_atomic_publish: true,
        duplicate_window: config.duplicate_window,
        num_replicas: config.replicas,
        ..Config::default()
    }
}

fn canary_config(config: &LogConfig) -> Config {
    Config {
        name: CANARY_STREAM.into(),
        subjects: vec![CANARY_SUBJECT.into()],
        storage: StorageType::File,
        max_messages_per_subject: 1,
        num_replicas: config.replicas,
        ..Config::default()
    }
}

/// Keys are kept for ever, and can be destroyed one by one.
fn keys_config(config: &LogConfig) -> Config {
    Config {
        name: KEYS_STREAM.into(),
        subjects: vec![format!("{KEYS_PREFIX}.>")],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        deny_purge: true,
        allow_direct: true,
        num_replicas: config.replicas,
        ..Config::default()
    }
}

/// Compares the stream with what it must be, setting by setting.
fn check_stream(found: &Config, wanted: &Config) -> Result<(), ConnectError> {
    const RECREATE: &str = "No update can set it: the stream must be made anew, from a backup.";
    const EDIT: &str = "Change it with `nats stream edit EXODRIVE`, or the configuration to match.";
    let unlimited =
        |limit: i64| if limit <= 0 { "unlimited".to_owned() } else { limit.to_string() };
    let shown = |value: &dyn fmt::Debug| format!("{value:?}");
    let settings = [
        ("subjects", shown(&found.subjects), shown(&wanted.subjects), EDIT),
        ("storage", shown(&found.storage), shown(&wanted.storage), RECREATE),
        ("retention", shown(&found.retention), shown(&wanted.retention), RECREATE),
        ("discard", shown(&found.discard), shown(&wanted.discard), EDIT),
        ("deny_delete", shown(&found.deny_delete), shown(&true), EDIT),
        ("deny_purge", shown(&found.deny_purge), shown(&true), EDIT),
        ("allow_rollup_hdrs", shown(&found.allow_rollup), shown(&false), EDIT),
        ("allow_direct", shown(&found.allow_direct), shown(&true), EDIT),
        ("allow_atomic", shown(&found.allow_atomic_publish), shown(&true), EDIT),
        ("allow_msg_ttl", shown(&found.allow_message_ttl), shown(&false), RECREATE),
        ("max_age", shown(&found.max_age), shown(&Duration::ZERO), EDIT),
        ("max_bytes", unlimited(found.max_bytes), unlimited(-1), EDIT),
        ("max_msgs", unlimited(found.max_messages), unlimited(-1), EDIT),
        ("max_msgs_per_subject", unlimited(found.max_messages_per_subject), unlimited(-1), EDIT),
        ("max_msg_size", unlimited(found.max_message_size.into()), unlimited(-1), EDIT),
        ("sealed", shown(&found.sealed), shown(&false), RECREATE),
        ("duplicate_window", shown(&found.duplicate_window), shown(&wanted.duplicate_window), EDIT),
        ("num_replicas", shown(&found.num_replicas), shown(&wanted.num_replicas), EDIT),
    ];
    match settings.into_iter().find(|(_, found, wanted, _)| found != wanted) {
        Some((setting, found, wanted, remedy)) => {
            Err(ConnectError::Setting { setting, found, wanted, remedy })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("2.9.10").unwrap() < OLDEST_SERVER);
        assert!(parse_version("2.12.3-RC.1").unwrap() >= OLDEST_SERVER);
        assert!(parse_version("2.15.1").unwrap() >= OLDEST_SERVER);
        assert_eq!(parse_version("unknown"), None);
    }

    #[test]
    fn an_address_shows_no_password() {
        assert_eq!(without_credentials("nats://me:secret@127.0.0.1:4222"), "127.0.0.1:4222");
        assert_eq!(bare("tls://me:s@cret@nats.example:4222"), "tls://nats.example:4222");
        assert_eq!(bare("me:secret@nats.example"), "nats.example");
        assert_eq!(bare("nats.example"), "nats.example");
    }
}
