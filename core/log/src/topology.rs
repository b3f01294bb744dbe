//! The streams, and the required settings of the server. The operator makes
//! them; every process checks them at start.

use crate::{
    address::NatsAddress,
    answers::Answers,
    carry_over::{carry_over, earlier_tombstones},
    clock::LogClock,
    error::{ConnectError, KeyError},
    keys::{KeyStore, KeyStreams, WrappingKeys},
    log::{Log, RejectionSlots},
    names::{KEYS_STREAM, STREAM},
    store::{Store, flushes, monitoring_client},
    storing::Storing,
    streams::{check_stream, streams},
};
use async_nats::{
    ConnectErrorKind, ConnectOptions, ReconnectToServer, Server, ServerInfo,
    jetstream::{
        self, ErrorCode,
        context::{CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind},
        stream::{Config, Stream},
    },
    rustls,
};
use std::{
    error::Error,
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
    /// `nats://user:password@host:port`, or several with commas between them, with the parameters
    /// of [`NatsAddress`].
    pub url: String,
    /// The server's monitoring endpoint, `http://host:port`, by which its sync
    /// mode is checked and its disk is looked at; of several servers one each,
    /// with commas between them. Without it the mode is unknown.
    pub monitor_url: Option<String>,
    /// Refuse a server that acknowledges before it has flushed to disk, or of
    /// which that cannot be seen. Such a
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
        make_stream(&context, &requested, config.connect_timeout).await?;
        if requested.name == KEYS_STREAM {
            carry_over(&context, &requested).await?;
        }
        let stream = find_stream(&context, &requested.name, Duration::ZERO).await?;
        check_stream(&stream.cached_info().config, &requested)?;
    }
    let stream = find_stream(&context, STREAM, Duration::ZERO).await?;
    log(config, context, stream, Access::Prepare).await
}

/// Makes a stream if it is missing. Waits, until the timeout, for servers of a cluster that have not
/// found each other yet.
async fn make_stream(
    context: &jetstream::Context,
    requested: &Config,
    connect_timeout: Duration,
) -> Result<(), ConnectError> {
    let started = Instant::now();
    loop {
        match context.get_or_create_stream(requested.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if has_too_few_peers(&error) && started.elapsed() < connect_timeout => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(source) => {
                let (stream, source) = (requested.name.clone(), Box::new(source));
                return Err(ConnectError::Stream { action: "open or make", stream, source });
            }
        }
    }
}

fn has_too_few_peers(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(error)
        if [ErrorCode::CLUSTER_NO_PEERS, ErrorCode::CLUSTER_NOT_AVAILABLE]
            .contains(&error.error_code()))
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
        store: Store::of(config.monitor_url.as_deref(), config.require_sync)
            .believing(NatsAddress::parse(&config.url)?),
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
/// order. Each server of a cluster is tried at least once.
pub(crate) async fn reach(
    config: &LogConfig,
    with: impl Fn(ConnectOptions) -> ConnectOptions,
) -> Result<async_nats::Client, ConnectError> {
    let address = NatsAddress::parse(&config.url)?;
    let servers = address.servers();
    let (mut attempts, mut distrusted) = (0, 0);
    let started = Instant::now();
    let turn = Arc::new(AtomicUsize::new(rand::random::<u16>().into()));
    loop {
        let turn = turn.clone();
        let options = address
            .options()?
            .reconnect_to_server_callback(move |servers, _| {
                std::future::ready(next_server(&servers, turn.fetch_add(1, Ordering::Relaxed)))
            })
            .name("exodrive")
            .connection_timeout(Duration::from_secs(2))
            .ping_interval(PING_INTERVAL);
        match with(options).connect(servers).await {
            Ok(client) => return Ok(client),
            Err(source) => {
                // The turn goes round: after so many attempts each server has been tried.
                attempts += 1;
                let reason = distrust(&source);
                distrusted = if reason.is_some() { distrusted + 1 } else { 0 };
                if let (Some(reason), true) = (reason, distrusted >= servers.len()) {
                    return Err(ConnectError::Unverified { address: address.to_string(), reason });
                }
                if attempts >= servers.len() && started.elapsed() >= config.connect_timeout {
                    return Err(unreachable(&address, source));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn unreachable(address: &NatsAddress, source: async_nats::ConnectError) -> ConnectError {
    let (address, kind, source) = (address.to_string(), source.kind(), Box::new(source));
    match kind {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ConnectError::Unauthorized { address, source }
        }
        _ => ConnectError::Unreachable { address, source },
    }
}

/// What is wrong with a certificate, if that is the reason why there is no connection.
fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // The source of such an error is that of the error that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| wrapped.and_then(|it| it.downcast_ref::<rustls::Error>()));
        match tls {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                return Some(format!("the server's certificate is not believed ({reason})"));
            }
            Some(rustls::Error::AlertReceived(alert)) => {
                return Some(format!(
                    "the server ended it ({alert:?}); does it want a certificate?"
                ));
            }
            _ => {}
        }
        next = error.source();
    }
    None
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

/// Refuses servers that acknowledge before they have flushed, or of which nobody knows. Of a cluster
/// one server may be away.
async fn check_sync(config: &LogConfig) -> Result<(), ConnectError> {
    if !config.require_sync {
        return Ok(());
    }
    let unknown = |why: String| ConnectError::Setting {
        setting: "sync_interval of the NATS server".into(),
        found: format!("unknown: {why}"),
        requested: "'always'".into(),
        remedy: "Without it an acknowledged event can be lost in a power cut. Set \
                 EXODRIVE_NATS_MONITOR_URL to the server's monitoring endpoint; or, if you have \
                 made sure of it by hand, EXODRIVE_LOG_SYNC=unchecked."
            .into(),
    };
    let Some(urls) = &config.monitor_url else {
        return Err(unknown("no monitoring endpoint is named".into()));
    };
    let address = NatsAddress::parse(&config.url)?;
    let client = monitoring_client(&address).map_err(|error| unknown(error.to_string()))?;
    let started = Instant::now();
    loop {
        let (mut seen, mut silent) = (0, None);
        for url in urls.split(',') {
            match flushes_before_ack(&client, url.trim()).await {
                Ok(true) => seen += 1,
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
                Err(error) => silent = Some(error.without_url()),
            }
        }
        match silent {
            None => return Ok(()),
            Some(error) if seen > 0 => {
                tracing::warn!(%error, "A NATS monitoring endpoint does not answer: its server's sync_interval was not checked");
                return Ok(());
            }
            Some(error) if started.elapsed() >= config.connect_timeout => {
                return Err(unknown(format!("the monitoring endpoint does not answer ({error})")));
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn flushes_before_ack(client: &reqwest::Client, url: &str) -> Result<bool, reqwest::Error> {
    let url = format!("{}/varz", url.trim_end_matches('/'));
    let varz: serde_json::Value = client.get(url).send().await?.error_for_status()?.json().await?;
    Ok(flushes(&varz) == Some(true))
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
}
