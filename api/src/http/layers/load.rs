//! The layer that bounds how much is in progress: beyond it, a request is refused at once instead
//! of making all others slower.

use crate::http::problem::{ApiError, Code};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Time limit of a read. A heavy one takes as long as the log is.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds after which a refused request may be sent again.
const RETRY_AFTER: u64 = 1;
/// What is answered however much is in progress.
const ALWAYS: [&str; 2] = ["/livez", "/readyz"];
/// Reads that fold much of the log, or give much of it.
const HEAVY: [&str; 4] =
    ["/v1/audit/export", "/v1/audit/history", "/v1/audit/history/diff", "/v1/replay/{view}/{key}"];

/// Requests of each class that may be in progress at a time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Webhooks.
    pub webhooks: usize,
    /// Reads that are not heavy.
    pub reads: usize,
    /// Commands.
    pub commands: usize,
    /// Exports, replays and histories.
    pub heavy: usize,
}

/// What is in progress.
pub(crate) struct Load {
    webhooks: Semaphore,
    reads: Semaphore,
    commands: Semaphore,
    heavy: Semaphore,
}

impl Load {
    /// Nothing in progress yet.
    pub(crate) fn within(bounds: Bounds) -> Self {
        Self {
            webhooks: Semaphore::new(bounds.webhooks),
            reads: Semaphore::new(bounds.reads),
            commands: Semaphore::new(bounds.commands),
            heavy: Semaphore::new(bounds.heavy),
        }
    }

    /// Answers a request if there is room for it.
    pub(crate) async fn admit(
        State(load): State<Arc<Self>>,
        request: Request,
        next: Next,
    ) -> Response {
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        if ALWAYS.contains(&route) {
            return next.run(request).await;
        }
        let (class, room, limit) = if route.starts_with("/v1/webhooks/") {
            ("webhook", &load.webhooks, None)
        } else if HEAVY.contains(&route) {
            ("heavy", &load.heavy, None)
        } else if request.method().is_safe() {
            ("read", &load.reads, Some(READ_TIMEOUT))
        } else {
            ("command", &load.commands, None)
        };
        let Ok(_place) = room.try_acquire() else {
            metrics::counter!("exodrive_http_shed_total", "class" => class).increment(1);
            return overloaded("Too many requests of this kind are in progress.").into_response();
        };
        let answered = next.run(request);
        match limit {
            None => answered.await,
            Some(limit) => tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| {
                let detail = format!("The read took longer than {} s.", limit.as_secs());
                ApiError::new(Code::ViewUnavailable, detail).into_response()
            }),
        }
    }
}

/// An error about room that there is not at the moment.
pub(crate) fn overloaded(detail: &str) -> ApiError {
    let mut error = ApiError::new(Code::Overloaded, detail);
    error.retry_after = Some(RETRY_AFTER);
    error
}
