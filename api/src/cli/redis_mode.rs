//! The check that Redis is one server: what is kept there is changed by scripts of several keys,
//! which must be on one server.

use super::Failure;
use exodrive_log::redis::{Redis, RedisError};
use exodrive_runtime::tasks::Tasks;
use std::time::Duration;

/// The longest wait for an answer. A start goes on without Redis.
const PATIENCE: Duration = Duration::from_millis(500);
/// The pause between two attempts while Redis does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// What is wrong with a server that runs in this mode.
pub(super) fn fault(variable: &str, mode: &str) -> String {
    format!(
        "{variable} names a Redis that runs as {mode}: supported is one server under one name that \
         a managed service or a proxy keeps up, with any replicas behind it; not Redis Cluster, and \
         not Sentinel"
    )
}

/// Refuses a Redis that is not one server. While it does not answer, a task goes on asking, and
/// ends with the fault.
///
/// # Errors
/// When the URL is invalid, or names a node of a cluster or a sentinel.
pub(super) async fn refuse_unsupported(
    url: &str,
    variable: &'static str,
    tasks: &Tasks,
) -> Result<(), Failure> {
    let redis = Redis::with_timeout(url, PATIENCE)?;
    match found(&redis, variable).await {
        Some(outcome) => outcome.map_err(Failure::from),
        None => {
            let stop = tasks.stop().clone();
            tasks.spawn("redis-mode", async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                    match found(&redis, variable).await {
                        Some(Ok(())) => break,
                        Some(Err(fault)) => {
                            tracing::error!("{fault}");
                            return;
                        }
                        None => {}
                    }
                }
                stop.cancelled().await;
            });
            Ok(())
        }
    }
}

/// What Redis says of itself; `None` if it says nothing yet.
async fn found(redis: &Redis, variable: &str) -> Option<Result<(), String>> {
    match redis.unsupported_mode().await {
        Ok(None) => Some(Ok(())),
        Ok(Some(mode)) => Some(Err(fault(variable, &mode))),
        // It does not tell this user.
        Err(RedisError::Refused(_)) => Some(Ok(())),
        Err(_) => None,
    }
}
