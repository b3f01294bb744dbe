//! The headers that keep an answer from being kept, guessed at, framed or told on.

use crate::http::shows::{ShownByRoute, Shows};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};
use std::{sync::Arc, time::Duration};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

/// An answer of the API loads nothing and is shown in no frame.
const OF_ANSWERS: &str = "default-src 'none'; frame-ancestors 'none'";
/// The page of the documentation loads what this server has. Its styles are partly in the page, and
/// its icons in its styles.
const OF_DOCS: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; font-src 'self' data:; connect-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'";

/// Adds what a route has not said itself. Nobody may keep an answer of a route that does not say
/// so, and none that shows personal data.
pub(crate) async fn add(
    State(shown): State<Arc<ShownByRoute>>,
    request: Request,
    next: Next,
) -> Response {
    let docs = request.uri().path().starts_with("/docs");
    let route = request.extensions().get::<MatchedPath>();
    let shows = route.and_then(|route| shown.get(route.as_str()));
    let personal = !matches!(shows, None | Some(Shows::Nothing));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if personal {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let mut otherwise = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    otherwise(header::CACHE_CONTROL, "no-store");
    otherwise(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    otherwise(header::REFERRER_POLICY, "no-referrer");
    otherwise(header::CONTENT_SECURITY_POLICY, if docs { OF_DOCS } else { OF_ANSWERS });
    response
}

/// Answers browsers whether pages of other origins may ask: those of these origins, with a token
/// that they hold, and no others. Cookies mean nothing here.
pub(crate) fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::list(ASKED.map(HeaderName::from_static)))
        .expose_headers(ExposeHeaders::list(SHOWN.map(HeaderName::from_static)))
        .max_age(Duration::from_secs(600));
    Some(layer)
}

/// Headers of requests that this API reads.
const ASKED: [&str; 8] = [
    "accept",
    "authorization",
    "content-type",
    "exodrive-booking-token",
    "exodrive-min-position",
    "idempotency-key",
    "if-match",
    "if-none-match",
];

/// Headers of answers that pages may read.
const SHOWN: [&str; 11] = [
    "etag",
    "exodrive-blocked-at",
    "exodrive-blocked-rows",
    "exodrive-leaf-hash",
    "exodrive-position",
    "idempotent-replayed",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "request-id",
    "retry-after",
];
