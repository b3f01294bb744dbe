//! Gate that hides the views while a restored database may hold erased data,
//! until a worker has cleaned it: at the start of the process, and whenever one is restored while it
//! runs.

use crate::http::problem::{ApiError, Code};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use exodrive_commands::erasure::{
    ErasureError, RestoreWatch,
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
    /// A gate that is shut until [`ErasureGate::keep`] opens it.
    pub fn closed() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// True while the gate is shut and reads are rejected.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Opens the gate once the database is known to hold no erased data, and shuts it again whenever
    /// database or key store come back from a backup, until `stop`. If the log has no erasures,
    /// the first is known at once.
    pub async fn keep(self, log: Log, database: Database, stop: CancellationToken) {
        let (mut watch, mut revived) = (RestoreWatch::default(), false);
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.open_when_clean(&log, &database, revived) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = restored(&mut watch, &log, &database) => {}
                () = stop.cancelled() => return,
            }
            self.0.store(true, Ordering::Release);
            revived = true;
        }
    }

    /// `revived`: this process may have cached a key that came back.
    async fn open_when_clean(&self, log: &Log, database: &Database, mut revived: bool) {
        let mut reported = false;
        loop {
            match is_clean(log, database, &mut revived).await {
                Ok(true) => {
                    if revived {
                        tokio::time::sleep(KEY_CACHE).await;
                    }
                    self.0.store(false, Ordering::Release);
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
            tokio::time::sleep(POLL_INTERVAL).await;
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

/// Returns when database or key store miss what is erased. What does not answer is asked again.
async fn restored(watch: &mut RestoreWatch, log: &Log, database: &Database) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        if let Ok(true) = watch.finds_restored(log, database).await {
            return;
        }
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
