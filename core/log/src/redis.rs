//! A connection to Redis that costs little when Redis does not answer.
//!
//! Redis may be slow, stopped or flushed at any time. Callers never wait for it
//! longer than a bound. After a failure they do not call it again for a while;
//! then one of them finds out whether it answers again, and all others go on
//! without it. After several timeouts they make a new connection: the old one
//! may be dead without either side knowing it.

use ::redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    RedisError as ClientError, ScriptInvocation, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSub},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use percent_encoding::percent_decode_str;
use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// The longest that a caller waits for Redis, if nothing else is said. It is
/// also how long the making of a connection may take.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(250);
/// The longest pause after a failure, during which Redis is not called. It is
/// half of that at least: processes do not ask again at the same moment.
const REST: Duration = Duration::from_millis(500);
/// Timeouts in a row after which a new connection is made.
const TIMEOUTS: u32 = 3;
/// The time without a sign of life after which the operating system asks for one, and the time
/// between its questions.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The time after which the operating system gives a connection up whose other side acknowledges
/// nothing.
#[cfg(target_os = "linux")]
const GIVEN_UP: Duration = Duration::from_secs(15);

/// A connection to Redis. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    connection: Arc<Mutex<ConnectionManager>>,
    timeout: Duration,
    started: Instant,
    /// Until when it is not called, in milliseconds from the start; 0 while it
    /// answers.
    rests_until_ms: Arc<AtomicU64>,
    timeouts: Arc<AtomicU32>,
}

/// Reason why Redis gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// It failed a moment ago and is left alone.
    #[error("Redis is not called for a moment after a failure")]
    Resting,
    /// It did not answer in time.
    #[error("Redis did not answer in {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection broke, or Redis is not ready to answer.
    #[error("Redis failed")]
    Failed(#[source] ClientError),
    /// It answered, and rejected the command: the same command fails again.
    #[error("Redis rejected a command")]
    Refused(#[source] ClientError),
}

impl RedisError {
    /// True if Redis is out: it may answer the same command later.
    pub fn is_outage(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

impl From<ClientError> for RedisError {
    fn from(error: ClientError) -> Self {
        let permanent = match error.kind() {
            ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::Server(
                ServerErrorKind::ResponseError
                | ServerErrorKind::ExecAbort
                | ServerErrorKind::NoScript
                | ServerErrorKind::NoPerm,
            ) => true,
            ErrorKind::Extension => error.code() == Some("WRONGTYPE"),
            // Loading, failing over, out of memory, read-only: it may pass.
            _ => false,
        };
        if permanent { Self::Refused(error) } else { Self::Failed(error) }
    }
}

impl Redis {
    /// A connection that is made when first used, and whose callers wait for at
    /// most [`REDIS_TIMEOUT`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        Self::with_timeout(url, REDIS_TIMEOUT)
    }

    /// The same with another bound of waiting.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn with_timeout(url: &str, timeout: Duration) -> Result<Self, RedisError> {
        let client = client(url)?;
        let connection = Arc::new(Mutex::new(connection_to(&client, timeout)?));
        Ok(Self {
            client,
            connection,
            timeout,
            started: Instant::now(),
            rests_until_ms: Arc::default(),
            timeouts: Arc::default(),
        })
    }

    /// True if nobody between here and Redis can read along or stand in for it: it is on this
    /// machine, or its certificate is verified.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn is_reached_safely(url: &str) -> Result<bool, RedisError> {
        Ok(match url.into_connection_info()?.addr() {
            ConnectionAddr::Tcp(host, _) => is_this_machine(host),
            ConnectionAddr::TcpTls { host, insecure, .. } => !insecure || is_this_machine(host),
            ConnectionAddr::Unix(_) => true,
            _ => false,
        })
    }

    /// The number of the database that the URL names. Keys are its own; channels are
    /// shared by all databases of a server.
    pub fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// How the server runs, if that is not supported: as a node of a cluster, whose keys are on
    /// several servers, or as a sentinel, which holds none. Needs no permission but that of `HELLO`.
    ///
    /// # Errors
    /// [`RedisError`], within the bound.
    pub async fn unsupported_mode(&self) -> Result<Option<String>, RedisError> {
        let mut about: HashMap<String, Value> = self.query(&::redis::cmd("HELLO")).await?;
        let mode = about.remove("mode").map(String::from_redis_value).transpose();
        let mode = mode.map_err(ClientError::from)?;
        Ok(mode.filter(|mode| mode != "standalone"))
    }

    /// Sends one command.
    ///
    /// # Errors
    /// [`RedisError`], within the bound.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.connection();
        self.bounded(command.query_async(&mut connection)).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// [`RedisError`], within the bound.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let mut connection = self.connection();
        self.bounded(script.invoke_async(&mut connection)).await
    }

    /// A connection of its own that receives the messages of a channel, until it
    /// breaks.
    ///
    /// # Errors
    /// When Redis does not take the subscription within [`REDIS_TIMEOUT`].
    pub async fn subscribe(&self, channel: &str) -> Result<PubSub, RedisError> {
        let subscribe = async {
            let mut subscription = self.client.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok::<_, ClientError>(subscription)
        };
        let subscribed = timeout(REDIS_TIMEOUT, subscribe).await;
        Ok(subscribed.map_err(|_| RedisError::TimedOut(REDIS_TIMEOUT))??)
    }

    fn connection(&self) -> ConnectionManager {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a timeout, and makes a new connection after several.
    fn timed_out(&self) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 < TIMEOUTS {
            return;
        }
        self.timeouts.store(0, Ordering::Relaxed);
        if let Ok(fresh) = connection_to(&self.client, self.timeout) {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, RedisError> {
        let rested_until = self.rests_until_ms.load(Ordering::Relaxed);
        if rested_until > 0 {
            // One finds out for all whether it answers again. If that one is
            // dropped, the next one does.
            let next = self.after(self.timeout + REST);
            if self.after(Duration::ZERO) < rested_until
                || self
                    .rests_until_ms
                    .compare_exchange(rested_until, next, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                return Err(RedisError::Resting);
            }
        }
        let outcome = match timeout(self.timeout, call).await {
            Ok(answer) => answer.map_err(RedisError::from),
            Err(_) => Err(RedisError::TimedOut(self.timeout)),
        };
        match &outcome {
            Err(RedisError::TimedOut(_)) => self.timed_out(),
            Err(RedisError::Failed(error)) if error.is_timeout() => self.timed_out(),
            _ => self.timeouts.store(0, Ordering::Relaxed),
        }
        // A server that answers is called again at once, even if it rejected a
        // command.
        if outcome.as_ref().is_err_and(RedisError::is_outage) {
            metrics::counter!("exodrive_redis_failures_total").increment(1);
            self.rests_until_ms.store(self.after(rest()), Ordering::Relaxed);
        } else if rested_until > 0 {
            self.rests_until_ms.store(0, Ordering::Relaxed);
        }
        outcome
    }

    /// Milliseconds from the start to the end of a duration that begins now; never 0.
    fn after(&self, duration: Duration) -> u64 {
        let elapsed = (self.started.elapsed() + duration).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX).max(1)
    }
}

/// True if a host is this machine, as far as its name says so.
pub fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A client of Redis. `sslrootcert`, a parameter of the URL as Postgres has it, names the file of
/// the authority whose certificates are believed; without it those that the machine believes.
fn client(url: &str) -> Result<Client, ClientError> {
    let parameters = url.split_once('?').map(|(_, parameters)| parameters).unwrap_or_default();
    let parameters = parameters.split('#').next().unwrap_or_default();
    let address = watched(url.into_connection_info()?);
    match parameters.split('&').find_map(|it| it.strip_prefix("sslrootcert=")) {
        None => Client::open(address),
        Some(file) => {
            let file = percent_decode_str(file).decode_utf8_lossy();
            let unread = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!(
                        "cannot read {file} (EXODRIVE_REDIS_CA, or sslrootcert of the URL): {error}"
                    ),
                )
            };
            let root_cert = Some(std::fs::read(&*file).map_err(unread)?);
            Client::build_with_tls(address, TlsCertificates { client_tls: None, root_cert })
        }
    }
}

/// The operating system finds out that such a connection is dead.
fn watched(address: ConnectionInfo) -> ConnectionInfo {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(GIVEN_UP);
    address.set_tcp_settings(settings)
}

/// A pause after a failure.
fn rest() -> Duration {
    // Some of the random bits of an id.
    let share = f64::from(uuid::Uuid::now_v7().as_fields().3[7]) / f64::from(u8::MAX);
    REST.mul_f64(0.5 + share / 2.0)
}

/// A connection that is made when first used, and again when it breaks.
fn connection_to(client: &Client, timeout: Duration) -> Result<ConnectionManager, ClientError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(REDIS_TIMEOUT))
        // Callers give up before.
        .set_response_timeout(Some(2 * timeout))
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(500))
        .set_number_of_retries(usize::MAX);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{join_all, pending};

    #[test]
    fn a_command_that_redis_rejects_is_no_outage() {
        for (kind, outage) in [
            (ErrorKind::Io, true),
            (ErrorKind::Server(ServerErrorKind::BusyLoading), true),
            (ErrorKind::Server(ServerErrorKind::ResponseError), false),
            (ErrorKind::UnexpectedReturnType, false),
        ] {
            let error = RedisError::from(ClientError::from((kind, "a test")));
            assert_eq!(error.is_outage(), outage, "{error:?}");
        }
        assert!(RedisError::TimedOut(REDIS_TIMEOUT).is_outage() && RedisError::Resting.is_outage());
    }

    /// The outcomes of many calls at once: how many waited for Redis in vain, were sent away at
    /// once, and were answered.
    async fn at_once(redis: &Redis, answers: bool) -> (usize, usize, usize) {
        let call = || async move { if answers { Ok(()) } else { pending().await } };
        let outcomes = join_all((0..200).map(|_| redis.bounded(call()))).await;
        let count = |is: fn(&Result<(), RedisError>) -> bool| {
            outcomes.iter().filter(|outcome| is(outcome)).count()
        };
        (
            count(|it| matches!(it, Err(RedisError::TimedOut(_)))),
            count(|it| matches!(it, Err(RedisError::Resting))),
            count(Result::is_ok),
        )
    }

    #[tokio::test]
    async fn while_redis_hangs_one_caller_waits_for_it_in_each_pause_and_no_other() {
        let redis = Redis::with_timeout("redis://127.0.0.1:1", Duration::from_millis(50)).unwrap();
        assert_eq!(at_once(&redis, true).await, (0, 0, 200), "all are answered");
        // Those that are under way when it stops cannot know.
        assert_eq!(at_once(&redis, false).await, (200, 0, 0));
        // The pause has only begun.
        assert_eq!(at_once(&redis, true).await, (0, 200, 0), "nobody calls it");
        for _ in 0..3 {
            tokio::time::sleep(REST).await;
            assert_eq!(at_once(&redis, false).await, (1, 199, 0), "one finds out for all");
        }
        tokio::time::sleep(REST).await;
        let (waited, _, answered) = at_once(&redis, true).await;
        assert!(waited == 0 && answered > 0, "it answers again");
        assert_eq!(at_once(&redis, true).await, (0, 0, 200));
    }

    #[tokio::test]
    async fn a_caller_that_is_dropped_while_it_finds_out_leaves_that_to_the_next() {
        let redis = Redis::with_timeout("redis://127.0.0.1:1", Duration::from_millis(50)).unwrap();
        let hangs = || pending::<Result<(), ClientError>>();
        redis.bounded(hangs()).await.unwrap_err();
        tokio::time::sleep(REST).await;
        let dropped = timeout(Duration::from_millis(1), redis.bounded(hangs())).await;
        assert!(dropped.is_err());
        tokio::time::sleep(2 * REST).await;
        redis.bounded(async { Ok(()) }).await.unwrap();
    }
}
