//! The layer that sends no representation which `Accept` excludes.

use crate::http::media::check_accepted;
use axum::{
    extract::Request,
    http::header::{ACCEPT, CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Answers a read 406 if the caller excludes the media type that its handler has chosen. A command
/// is refused before it is executed, by its extractor.
pub(crate) async fn check_representation(request: Request, next: Next) -> Response {
    if !request.method().is_safe() || !request.headers().contains_key(ACCEPT) {
        return next.run(request).await;
    }
    let accepts: axum::http::HeaderMap =
        request.headers().get_all(ACCEPT).iter().map(|line| (ACCEPT, line.clone())).collect();
    let response = next.run(request).await;
    if !response.status().is_success() {
        return response;
    }
    let sent = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    match sent.map(|sent| check_accepted(&accepts, sent)) {
        Some(Err(error)) => error.into_response(),
        Some(Ok(())) | None => response,
    }
}
