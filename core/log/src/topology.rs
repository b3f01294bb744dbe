//! The streams, and the required settings of the server. The operator makes
//! them; every process checks them at start.

use crate::{
    answers::Answers,
    clock::LogClock,
    error::KeyError,
    keys::{KeyStore, WrappingKeys},
    log::{Log, RejectionSlots},
    names::{
        CANARY_STREAM, CANARY_SUBJECT, KEYS_STREAM, KEYS_SUBJECTS, REFUSALS_STREAM,
        REFUSALS_SUBJECTS, SEALS_STREAM, SEALS_SUBJECTS, STREAM,
    },
};
use async_nats::{
    ConnectOptions, ReconnectToServer, Server, ServerAddr, ServerInfo,
    jetstream::{
        self, ErrorCode,
        context::{GetStreamError, GetStreamErrorKind},
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
    },
};
use exodrive_domain::LOG_SUBJECTS;
use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

const REFUSALS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const MOST_REFUSALS: i64 = 1_000_000;

/// The oldest server with every fix and feature that the log needs.
const OLDEST_SERVER: (u64, u64, u64) = (2, 12, 3);
/// A webhook's body may have 1 MiB; headers come on top.
const SMALLEST_MAX_PAYLOAD: usize = (1 << 20) + (64 << 10);

/// Address, names and required settings of the log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `nats://user:password@host:port`, or several with commas between them.
    pub url: String,
    /// The server's monitoring endpoint, `http://host:port`, by which its sync
    /// mode is checked; of several servers one each, with commas between them.
    /// Without it the mode is unknown, and a warning is
    /// logged.
    pub monitor_url: Option<String>,
    /// Refuse a server that acknowledges before it has flushed to disk. Such a
    /// server (the default) loses nothing when it crashes, but up to its
    /// `sync_interval` of two minutes when the machine does.
    pub require_sync: bool,
    /// The time for which the server must remember the ids of events.
    pub duplicate_window: Duration,
    /// The number of copies in a cluster: 1 or 3.
    pub replicas: usize,
    /// The timeout of an append's acknowledgement.
    pub ack_timeout: Duration,
    /// The time for which a start keeps trying to reach the server.
    pub connect_timeout: Duration,
    /// The keys that wrap the data keys.
    pub keys: WrappingKeys,
}

/// Reason why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server does not answer.
    #[error("the event log does not answer at {address}: is NATS running? (EXODRIVE_NATS_URL)")]
    Unreachable {
        /// Host and port, without credentials.
        address: String,
        /// The client's error.
        #[source]
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// A setting with which events could be lost or changed.
    #[error("refusing this event log: {setting} is {found}, it must be {requested}. {remedy}")]
    Setting {
        /// The setting's own name, and the server or stream that has it.
        setting: String,
        /// The setting that was found.
        found: String,
        /// The required setting.
        requested: String,
        /// The remedy.
        remedy: String,
    },
    /// A stream is not there, and this user must not make it.
    #[error(
        "NATS has no stream {stream} yet: run `exodrive migrate`, as a user who may make streams (EXODRIVE_NATS_OPERATOR_URL)"
    )]
    Missing {
        /// The stream.
        stream: String,
    },
    /// The server neither answered a request nor refused it.
    #[error(
        "NATS neither answers nor refuses {subject}: is its user allowed to subscribe to _INBOX.>?"
    )]
    Silent {
        /// The request's subject.
        subject: &'static str,
    },
    /// The server refused to make or show a stream.
    #[error("cannot {action} stream {stream}")]
    Stream {
        /// The attempted action.
        action: &'static str,
        /// The stream.
        stream: String,
        /// The server's error.
        #[source]
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// The data keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl Log {
    /// Connects as the operator, makes the missing streams, and checks the
    /// existing ones without changing them.
    ///
    /// # Errors
    /// As [`Log::connect`], and when this user may not make streams.
    pub async fn prepare(config: &LogConfig) -> Result<Self, ConnectError> {
        prepare(config).await
    }

    /// Connects and checks server and streams. Waits up to [`LogConfig::connect_timeout`]
    /// for the streams to be made ([`Log::prepare`]).
    ///
    /// # Errors
    /// When the server cannot be reached within that time, is too old, has no
    /// streams, or runs with a setting that could lose or change an event; the
    /// error names the setting.
    pub async fn connect(config: &LogConfig) -> Result<Self, ConnectError> {
        connect(config).await
    }

    /// Connects to read: makes nothing and checks only the server's
    /// version. Waits up to [`LogConfig::connect_timeout`] for the stream to be made.
    /// Appending to it is refused ([`AppendError::OpenedForReading`](crate::AppendError)).
    ///
    /// # Errors
    /// When the server cannot be reached, is too old, or has no log.
    pub async fn open(config: &LogConfig) -> Result<Self, ConnectError> {
        open(config).await
    }
}

/// Makes the streams that are missing, and checks all of them; for the
/// operator's user.
async fn prepare(config: &LogConfig) -> Result<Log, ConnectError> {
    let context = context(config).await?;
    check_sync(config).await?;
    for requested in streams(config) {
        let stream = context.get_or_create_stream(requested.clone()).await.map_err(|source| {
            let (stream, source) = (requested.name.clone(), Box::new(source));
            ConnectError::Stream { action: "open or make", stream, source }
        })?;
        check_stream(&stream.cached_info().config, &requested)?;
    }
    let stream = find_stream(&context, STREAM, Duration::ZERO).await?;
    log(config, context, stream, Access::Append).await
}

/// As [`prepare`], for users who may not make streams.
async fn connect(config: &LogConfig) -> Result<Log, ConnectError> {
    let context = context(config).await?;
    check_sync(config).await?;
    for requested in streams(config) {
        let stream = find_stream(&context, &requested.name, config.connect_timeout).await?;
        check_stream(&stream.cached_info().config, &requested)?;
    }
    let stream = find_stream(&context, STREAM, Duration::ZERO).await?;
    log(config, context, stream, Access::Append).await
}

/// As [`connect`], for those who only read: leaves judging the settings to
/// those who write.
async fn open(config: &LogConfig) -> Result<Log, ConnectError> {
    let context = context(config).await?;
    let stream = find_stream(&context, STREAM, config.connect_timeout).await?;
    log(config, context, stream, Access::Read).await
}

/// Waits for a stream that another process makes, until the timeout.
async fn find_stream(
    context: &jetstream::Context,
    name: &str,
    connect_timeout: Duration,
) -> Result<Stream, ConnectError> {
    let started = Instant::now();
    let answers = Answers::of(context.client());
    loop {
        let asked = answers.ask();
        let found = context.get_stream(name).await;
        asked.ended(&found, is_missing);
        match found {
            Ok(stream) => return Ok(stream),
            Err(error) if started.elapsed() >= connect_timeout => {
                let stream = name.to_owned();
                return Err(if is_missing(&error) {
                    ConnectError::Missing { stream }
                } else {
                    ConnectError::Stream { action: "find", stream, source: Box::new(error) }
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

async fn context(config: &LogConfig) -> Result<jetstream::Context, ConnectError> {
    let client = reach(config, |options| options).await?;
    check_server(&client.server_info())?;
    Ok(jetstream::context::ContextBuilder::new()
        .timeout(config.ack_timeout)
        .ack_timeout(config.ack_timeout)
        .build(client))
}

/// The purpose for which a log is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Its settings were not checked.
    Read,
    /// They were.
    Append,
}

async fn log(
    config: &LogConfig,
    context: jetstream::Context,
    stream: Stream,
    access: Access,
) -> Result<Log, ConnectError> {
    let keys = find_stream(&context, KEYS_STREAM, config.connect_timeout).await?;
    let info = stream.cached_info();
    let (created_at, duplicate_window) = (info.created, info.config.duplicate_window);
    let keys = KeyStore::open(context.clone(), keys, config.keys.clone()).await?;
    let clock = LogClock::start(context.clone()).await;
    let answers = Answers::of(context.client());
    Ok(Log {
        context,
        stream,
        keys,
        ack_timeout: config.ack_timeout,
        duplicate_window,
        created_at,
        clock,
        answers,
        refusing: RejectionSlots::default(),
        checked: access == Access::Append,
    })
}

/// The interval of pings. Three without an answer end a connection: a server that hangs, or a
/// network that has forgotten it, is noticed within 8 s.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// The pause before a server is tried, and before one is tried that has failed.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LATER_DELAY: Duration = Duration::from_millis(250);

/// Tries until the server answers or the timeout is over: services start in any
/// order.
pub(crate) async fn reach(
    config: &LogConfig,
    with: impl Fn(ConnectOptions) -> ConnectOptions,
) -> Result<async_nats::Client, ConnectError> {
    let unreachable =
        |source| ConnectError::Unreachable { address: without_credentials(&config.url), source };
    let parse = |address: &str| address.parse::<ServerAddr>();
    let addresses = config.url.split(',').map(str::trim);
    let with_credentials: Result<Vec<_>, _> = addresses.clone().map(parse).collect();
    let servers: Result<Vec<_>, _> = addresses.map(|address| parse(&bare(address))).collect();
    let (with_credentials, servers) = with_credentials
        .and_then(|them| Ok((them, servers?)))
        .map_err(|error| unreachable(Box::new(error)))?;
    // The client ignores credentials in an address, and writes addresses into
    // its log lines.
    let credentials = with_credentials
        .iter()
        .find_map(|server| Some((server.username()?.to_owned(), server.password()?.to_owned())));
    let started = Instant::now();
    let turn = Arc::new(AtomicUsize::new(rand::random::<u16>().into()));
    loop {
        let turn = turn.clone();
        let mut options = ConnectOptions::new()
            .reconnect_to_server_callback(move |servers, _| {
                std::future::ready(next_server(&servers, turn.fetch_add(1, Ordering::Relaxed)))
            })
            .name("exodrive")
            .connection_timeout(Duration::from_secs(2))
            .ping_interval(PING_INTERVAL);
        if let Some((user, password)) = credentials.clone() {
            options = options.user_and_password(user, password);
        }
        let attempt = with(options).connect(&servers[..]).await;
        match attempt {
            Ok(client) => return Ok(client),
            Err(source) if started.elapsed() >= config.connect_timeout => {
                return Err(unreachable(Box::new(source)));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The server to connect to: of those that have failed least, each in turn, so that a client that
/// leaves a server comes to another one.
fn next_server(servers: &[Server], turn: usize) -> Option<ReconnectToServer> {
    let (count, turn) = (servers.len(), turn.checked_rem(servers.len())?);
    let (_, server) = servers
        .iter()
        .enumerate()
        .min_by_key(|(index, server)| (server.failed_attempts, (index + count - turn) % count))?;
    let delay = if server.failed_attempts == 0 { FIRST_DELAY } else { LATER_DELAY };
    Some(ReconnectToServer { addr: server.addr.clone(), delay: Some(delay) })
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

fn without_credentials(urls: &str) -> String {
    let address = |url: &str| {
        let address = bare(url.trim());
        address.trim_start_matches("nats://").trim_start_matches("tls://").to_owned()
    };
    urls.split(',').map(address).collect::<Vec<_>>().join(", ")
}

fn check_server(server: &ServerInfo) -> Result<(), ConnectError> {
    if parse_version(&server.version).is_none_or(|version| version < OLDEST_SERVER) {
        return Err(ConnectError::Setting {
            setting: "the NATS server's version".into(),
            found: server.version.clone(),
            requested: format!(
                "{}.{}.{} or newer",
                OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2
            ),
            remedy: "Older servers store the parts of an atomic batch one by one, without a word; \
                     `make tools` fetches a newer one."
                .into(),
        });
    }
    if server.max_payload < SMALLEST_MAX_PAYLOAD {
        return Err(ConnectError::Setting {
            setting: "max_payload of the NATS server".into(),
            found: server.max_payload.to_string(),
            requested: format!("at least {SMALLEST_MAX_PAYLOAD}"),
            remedy: "A webhook's body may have 1 MiB, and its headers come on top.".into(),
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
    let Some(urls) = &config.monitor_url else {
        tracing::warn!(
            "Cannot see whether the NATS server runs with sync_interval 'always': set \
             EXODRIVE_NATS_MONITOR_URL to its monitoring endpoint, or make sure by hand"
        );
        return Ok(());
    };
    for url in urls.split(',') {
        match flushes_before_ack(url.trim()).await {
            Ok(true) => {}
            Ok(false) => {
                return Err(ConnectError::Setting {
                    setting: "sync_interval of the NATS server".into(),
                    found: "not 'always'".into(),
                    requested: "'always'".into(),
                    remedy: "Without it an acknowledged event can be lost in a power cut. Set \
                             `jetstream { sync_interval: always }`, or accept the loss with \
                             EXODRIVE_LOG_SYNC=default."
                        .into(),
                });
            }
            Err(error) => {
                tracing::warn!(%error, "The NATS monitoring endpoint does not answer: sync_interval was not checked");
            }
        }
    }
    Ok(())
}

async fn flushes_before_ack(monitor_url: &str) -> Result<bool, reqwest::Error> {
    let url = format!("{}/varz", monitor_url.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let varz: serde_json::Value = client.get(url).send().await?.error_for_status()?.json().await?;
    let always = varz.pointer("/jetstream/config/sync_always").and_then(|it| it.as_bool());
    Ok(always == Some(true))
}

/// Every stream, as it must be; the log first.
fn streams(config: &LogConfig) -> [Config; 5] {
    let stream = |name: &str, subjects: &str| Config {
        name: name.into(),
        subjects: vec![subjects.into()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        num_replicas: config.replicas,
        ..Config::default()
    };
    [
        Config {
            // With `old`, one lowered limit would delete events without a trace.
            discard: DiscardPolicy::New,
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            allow_atomic_publish: true,
            duplicate_window: config.duplicate_window,
            ..stream(STREAM, LOG_SUBJECTS)
        },
        Config { max_messages_per_subject: 1, ..stream(CANARY_STREAM, CANARY_SUBJECT) },
        Config {
            discard: DiscardPolicy::New,
            deny_purge: true,
            allow_direct: true,
            ..stream(KEYS_STREAM, KEYS_SUBJECTS)
        },
        Config {
            max_messages_per_subject: 1,
            deny_delete: true,
            deny_purge: true,
            allow_direct: true,
            ..stream(SEALS_STREAM, SEALS_SUBJECTS)
        },
        Config {
            max_age: REFUSALS_KEPT,
            max_messages: MOST_REFUSALS,
            allow_direct: true,
            ..stream(REFUSALS_STREAM, REFUSALS_SUBJECTS)
        },
    ]
}

/// Compares a stream with the required one, setting by setting.
fn check_stream(found: &Config, requested: &Config) -> Result<(), ConnectError> {
    const RECREATE: &str = "No update can set it: the stream must be made again, from a backup.";
    let edit = format!(
        "Change it with `nats stream edit {}`, as the operator, or the configuration to match.",
        requested.name
    );
    let edit = edit.as_str();
    let limit = |limit: i64| if limit <= 0 { "unlimited".to_owned() } else { limit.to_string() };
    let shown = |value: &dyn fmt::Debug| format!("{value:?}");
    // Only the log counts repeats; elsewhere the server's own window will do.
    let window = |it: &Config| {
        if requested.duplicate_window.is_zero() {
            String::new()
        } else {
            shown(&it.duplicate_window)
        }
    };
    type Setting<'a> = (&'static str, &'a dyn Fn(&Config) -> String, &'a str);
    let settings: [Setting<'_>; 18] = [
        ("subjects", &|it| shown(&it.subjects), edit),
        ("storage", &|it| shown(&it.storage), RECREATE),
        ("retention", &|it| shown(&it.retention), RECREATE),
        ("discard", &|it| shown(&it.discard), edit),
        ("deny_delete", &|it| shown(&it.deny_delete), edit),
        ("deny_purge", &|it| shown(&it.deny_purge), edit),
        ("allow_rollup_hdrs", &|it| shown(&it.allow_rollup), edit),
        ("allow_direct", &|it| shown(&it.allow_direct), edit),
        ("allow_atomic", &|it| shown(&it.allow_atomic_publish), edit),
        ("allow_msg_ttl", &|it| shown(&it.allow_message_ttl), RECREATE),
        ("max_age", &|it| shown(&it.max_age), edit),
        ("max_bytes", &|it| limit(it.max_bytes), edit),
        ("max_msgs", &|it| limit(it.max_messages), edit),
        ("max_msgs_per_subject", &|it| limit(it.max_messages_per_subject), edit),
        ("max_msg_size", &|it| limit(it.max_message_size.into()), edit),
        ("sealed", &|it| shown(&it.sealed), RECREATE),
        ("duplicate_window", &window, edit),
        ("num_replicas", &|it| shown(&it.num_replicas), edit),
    ];
    for (setting, value, remedy) in settings {
        let (found, must_be) = (value(found), value(requested));
        if found != must_be {
            let setting = format!("{setting} of stream {}", requested.name);
            let remedy = remedy.to_owned();
            return Err(ConnectError::Setting { setting, found, requested: must_be, remedy });
        }
    }
    Ok(())
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
        assert_eq!(without_credentials("nats://me:secret@a:1,nats://me:secret@b:2"), "a:1, b:2");
        assert_eq!(bare("tls://me:s@cret@nats.example:4222"), "tls://nats.example:4222");
        assert_eq!(bare("me:secret@nats.example"), "nats.example");
        assert_eq!(bare("nats.example"), "nats.example");
    }
}
