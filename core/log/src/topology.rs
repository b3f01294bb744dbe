//! The streams, and the required settings of the server. The operator makes
//! them; every process checks them at start.

use crate::{
    answers::Answers,
    carry_over::{carry_over, earlier_tombstones},
    clock::LogClock,
    error::{ConnectError, KeyError},
    keys::{KeyStore, KeyStreams, WrappingKeys},
    log::{Log, RejectionSlots},
    names::{KEYS_STREAM, STREAM},
    store::Store,
    storing::Storing,
    streams::{check_stream, streams},
};
use async_nats::{
    ConnectOptions, ReconnectToServer, Server, ServerAddr, ServerInfo,
    jetstream::{
        self, ErrorCode,
        context::{GetStreamError, GetStreamErrorKind},
        stream::Stream,
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

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
    /// mode is checked and its disk is looked at; of several servers one each,
    /// with commas between them. Without it the mode is unknown, and a warning
    /// is logged.
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
    for requested in streams(config.replicas, config.duplicate_window) {
        context.get_or_create_stream(requested.clone()).await.map_err(|source| {
            let (stream, source) = (requested.name.clone(), Box::new(source));
            ConnectError::Stream { action: "open or make", stream, source }
        })?;
        if requested.name == KEYS_STREAM {
            carry_over(&context, &requested).await?;
        }
        let stream = find_stream(&context, &requested.name, Duration::ZERO).await?;
        check_stream(&stream.cached_info().config, &requested)?;
    }
    let stream = find_stream(&context, STREAM, Duration::ZERO).await?;
    log(config, context, stream, Access::Prepare).await
}

/// As [`prepare`], for users who may not make streams.
async fn connect(config: &LogConfig) -> Result<Log, ConnectError> {
    let context = context(config).await?;
    check_sync(config).await?;
    for requested in streams(config.replicas, config.duplicate_window) {
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
    /// They were, and this is the operator's user.
    Prepare,
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
    let keys = open_keys(config, &context, (keys, &stream), access == Access::Prepare).await?;
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
        storing: Storing::default(),
        store: Store::of(config.monitor_url.as_deref()),
        refusing: RejectionSlots::default(),
        checked: access != Access::Read,
    })
}

/// Opens the key store; waits, until the timeout, for the operator to make the key of its MACs.
async fn open_keys(
    config: &LogConfig,
    context: &jetstream::Context,
    (keys, log): (Stream, &Stream),
    may_make: bool,
) -> Result<KeyStore, ConnectError> {
    let started = Instant::now();
    // What was not carried over has no other tombstones.
    let earlier_tombstones = earlier_tombstones(&keys.cached_info().config).unwrap_or(u64::MAX);
    loop {
        let streams = KeyStreams { keys: keys.clone(), log: log.clone(), earlier_tombstones };
        match KeyStore::open(context.clone(), streams, config.keys.clone(), may_make).await {
            Err(KeyError::NoMacKey) if started.elapsed() < config.connect_timeout => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            outcome => return Ok(outcome?),
        }
    }
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
