//! Follows how the disk of the log's server is.

use exodrive_log::Log;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks at the disk of the log's server, for readiness and for metrics, until it is asked to stop.
pub async fn follow(log: Log, stop: CancellationToken) {
    loop {
        log.look_at_store().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
