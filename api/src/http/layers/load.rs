//! The layer that bounds how much is in progress: beyond it, a request is refused at once instead
//! of making all others slower.

use crate::http::problem::{ApiError, Code};
use axum::{
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Semaphore;

/// Time limit of a read. A heavy one takes as long as the log is.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds after which a refused request may be sent again.
const RETRY_AFTER: u64 = 1;
/// What is answered however much is in progress.
const ALWAYS: [&str; 2] = ["/livez", "/readyz"];
/// Reads that read or fold much of the log, or give much of it.
const HEAVY: [&str; 6] = [
    "/v1/audit/events",
    "/v1/audit/export",
    "/v1/audit/history",
    "/v1/audit/history/diff",
    "/v1/audit/rejected-webhooks",
    "/v1/replay/{view}/{key}",
];
/// Requests that a heavy one counts as, for the limit of its sender.
const HEAVY_COST: u32 = 10;

/// The number of requests that one of this route counts as.
pub(crate) fn cost(route: &str) -> u32 {
    if HEAVY.contains(&route) { HEAVY_COST } else { 1 }
}

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
    heavy: Arc<Semaphore>,
}

impl Load {
    /// Nothing in progress yet.
    pub(crate) fn within(bounds: Bounds) -> Self {
        Self {
            webhooks: Semaphore::new(bounds.webhooks),
            reads: Semaphore::new(bounds.reads),
            commands: Semaphore::new(bounds.commands),
            heavy: Arc::new(Semaphore::new(bounds.heavy)),
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
        if HEAVY.contains(&route) {
            let Ok(place) = load.heavy.clone().try_acquire_owned() else {
                return refused("heavy");
            };
            return held(next.run(request).await, place);
        }
        let (class, room, limit) = if route.starts_with("/v1/webhooks/") {
            ("webhook", &load.webhooks, None)
        } else if request.method().is_safe() {
            ("read", &load.reads, Some(READ_TIMEOUT))
        } else {
            ("command", &load.commands, None)
        };
        let Ok(_place) = room.try_acquire() else {
            return refused(class);
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

fn refused(class: &'static str) -> Response {
    metrics::counter!("exodrive_http_shed_total", "class" => class).increment(1);
    overloaded("Too many requests of this kind are in progress.").into_response()
}

/// An answer that has something until it is sent, or given up.
pub(crate) fn held<T: Send + Unpin + 'static>(answer: Response, until_sent: T) -> Response {
    answer.map(|body| Body::new(Held { body, _until_sent: until_sent }))
}

/// A body with something that it has until it is sent, or given up.
struct Held<T> {
    body: Body,
    _until_sent: T,
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An error about room that there is not at the moment.
pub(crate) fn overloaded(detail: &str) -> ApiError {
    let mut error = ApiError::new(Code::Overloaded, detail);
    error.retry_after = Some(RETRY_AFTER);
    error
}
