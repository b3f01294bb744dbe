//! A connection to Redis that costs little when Redis does not answer.
//!
//! Redis may be slow, stopped or flushed at any time. Callers never wait for it
//! longer than [`REDIS_TIMEOUT`]. After a failure they do not call it again for
//! a while. After several they make a new connection: the old one may be dead
//! without either side knowing it.

use ::redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError as ClientError,
    ScriptInvocation, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSub},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// The longest that a caller waits for Redis.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(250);
/// The pause after a failure, during which Redis is not called.
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
    started: Instant,
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
    #[error("Redis did not answer in {} ms", REDIS_TIMEOUT.as_millis())]
    TimedOut,
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
    /// A connection that is made when first used. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(GIVEN_UP);
        let client = Client::open(url.into_connection_info()?.set_tcp_settings(settings))?;
        let connection = Arc::new(Mutex::new(connection_to(&client)?));
        Ok(Self {
            client,
            connection,
            started: Instant::now(),
            rests_until_ms: Arc::default(),
            timeouts: Arc::default(),
        })
    }

    /// The number of the database that the URL names. Keys are its own; channels are
    /// shared by all databases of a server.
    pub fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// Sends one command.
    ///
    /// # Errors
    /// [`RedisError`], within [`REDIS_TIMEOUT`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.connection();
        self.bounded(command.query_async(&mut connection)).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// [`RedisError`], within [`REDIS_TIMEOUT`].
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
        Ok(timeout(REDIS_TIMEOUT, subscribe).await.map_err(|_| RedisError::TimedOut)??)
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
        if let Ok(fresh) = connection_to(&self.client) {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, RedisError> {
        let now = || u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now() < self.rests_until_ms.load(Ordering::Relaxed) {
            return Err(RedisError::Resting);
        }
        let outcome = match timeout(REDIS_TIMEOUT, call).await {
            Ok(answer) => answer.map_err(RedisError::from),
            Err(_) => Err(RedisError::TimedOut),
        };
        match &outcome {
            Err(RedisError::TimedOut) => self.timed_out(),
            Err(RedisError::Failed(error)) if error.is_timeout() => self.timed_out(),
            _ => self.timeouts.store(0, Ordering::Relaxed),
        }
        // A server that answers is called again at once, even if it rejected a
        // command.
        if outcome.as_ref().is_err_and(RedisError::is_outage) {
            let rest = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
            self.rests_until_ms.store(now() + rest, Ordering::Relaxed);
        }
        outcome
    }
}

/// A connection that is made when first used, and again when it breaks.
fn connection_to(client: &Client) -> Result<ConnectionManager, ClientError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(REDIS_TIMEOUT))
        .set_response_timeout(Some(REDIS_TIMEOUT))
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(500))
        .set_number_of_retries(usize::MAX);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(RedisError::TimedOut.is_outage() && RedisError::Resting.is_outage());
    }
}
