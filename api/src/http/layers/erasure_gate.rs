//! Gate that hides the views while a restored database may hold erased data,
//! until a worker has cleaned it.

use crate::http::problem::{ApiError, Code};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use exodrive_commands::erasure::{
    ErasureError,
    restored::{has_revived_keys, keys_not_cleaned},
};
use exodrive_log::{KEY_CACHE, Log};
use exodrive_projections::Database;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Paths that are served while the gate is shut: they hold no rows.
const OPEN: [&str; 6] =
    ["/v1/webhooks/", "/livez", "/readyz", "/docs", "/v1/openapi.json", "/v1/operator/"];

/// A gate in front of the views. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ErasureGate(Arc<AtomicBool>);

impl ErasureGate {
    /// A gate that is shut until [`ErasureGate::open_when_clean`] opens it.
    pub fn closed() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// True while the gate is shut and reads are rejected.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Opens the gate once the database is known to hold no erased data, and then
    /// waits for `stop`. If the log has no erasures, that is known at once.
    pub async fn open_when_clean(self, log: Log, database: Database, stop: CancellationToken) {
        let (mut reported, mut revived) = (false, false);
        loop {
            match is_clean(&log, &database, &mut revived).await {
                Ok(true) => {
                    if revived {
                        // This process may have cached a key that came back.
                        tokio::time::sleep(KEY_CACHE).await;
                    }
                    self.0.store(false, Ordering::Release);
                    stop.cancelled().await;
                    return;
                }
                Ok(false) if !reported => {
                    reported = true;
                    tracing::warn!(
                        "Database or key store may hold what was erased (was one restored from a \
                         backup?): reads are rejected until a worker has cleaned them"
                    );
                }
                Ok(false) => {}
                Err(error) => {
                    let error = exodrive_runtime::error_chain(&error);
                    tracing::warn!(error, "Cannot find out whether the database holds erased data");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Rejects reads while the gate is shut.
    pub async fn pass(State(gate): State<Self>, request: Request, next: Next) -> Response {
        let path = request.uri().path();
        if gate.is_closed() && !OPEN.iter().any(|open| path.starts_with(open)) {
            let mut error = ApiError::new(
                Code::ViewUnavailable,
                "Erased data is being removed from a restored database.",
            );
            error.retry_after = Some(2);
            return error.into_response();
        }
        next.run(request).await
    }
}

async fn is_clean(
    log: &Log,
    database: &Database,
    revived: &mut bool,
) -> Result<bool, ErasureError> {
    if has_revived_keys(log).await? {
        *revived = true;
        return Ok(false);
    }
    Ok(keys_not_cleaned(log, database).await?.is_empty())
}
