//! Runs a request that may change something to its end even if its client
//! disconnects: no key stays in flight, and a retry gets the answer.

use crate::http::problem::ApiError;
use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use exodrive_runtime::tasks::Tasks;
use std::panic::resume_unwind;
use tracing::Instrument;

/// Runs a request in a task of its own, unless its method is safe
/// (RFC 9110, section 9.2.1). The process waits for that task before it ends.
pub(crate) async fn run_to_its_end(
    State(tasks): State<Tasks>,
    request: Request,
    next: Next,
) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match tasks.run_detached(next.run(request).in_current_span()).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            // The layer around this one answers this panic like any other.
            Ok(panic) => resume_unwind(panic),
            Err(_) => ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response(),
        },
    }
}
