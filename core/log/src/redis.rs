//! A connection to Redis that costs little when Redis does not answer.
//!
//! Redis may be slow, stopped or flushed at any time. Callers never wait for it
//! longer than [`REDIS_TIMEOUT`]. After a failure they do not call it again for
//! a while.

use ::redis::{
    Client, Cmd, ErrorKind, FromRedisValue, RedisError as ClientError, ScriptInvocation,
    ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSub},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// The longest that a caller waits for Redis.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(250);
/// The pause after a failure, during which Redis is not called.
const REST: Duration = Duration::from_millis(500);

/// A connection to Redis. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    connection: ConnectionManager,
    started: Instant,
    rests_until_ms: Arc<AtomicU64>,
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
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(REDIS_TIMEOUT))
            .set_response_timeout(Some(REDIS_TIMEOUT))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(500))
            .set_number_of_retries(usize::MAX);
        let client = Client::open(url)?;
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
        Ok(Self { client, connection, started: Instant::now(), rests_until_ms: Arc::default() })
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
        let mut connection = self.connection.clone();
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
        let mut connection = self.connection.clone();
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
        // A server that answers is called again at once, even if it rejected a
        // command.
        if outcome.as_ref().is_err_and(RedisError::is_outage) {
            let rest = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
            self.rests_until_ms.store(now() + rest, Ordering::Relaxed);
        }
        outcome
    }
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
