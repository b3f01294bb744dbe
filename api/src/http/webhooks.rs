//! Webhooks of providers. This path depends on nothing but the log: it asks
//! Postgres only about events older than the log's duplicate window, and stores
//! a delivery if Postgres does not answer.

use super::{Api, App, MAX_BODY, auth::peer, headers::single, layers::request};
use super::{
    problem::{ApiError, Code},
    state::limits::Limit,
};
use axum::{
    Extension, Json,
    body::{Body, HttpBody, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use exodrive_domain::{Delivery, Envelope, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION};
use exodrive_log::{Appended, DUPLICATE, NewEvent, RejectedDelivery};
use exodrive_projections::{Identity, views::deliveries};
use http_body_util::LengthLimitError;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Time limit for receiving a body.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for Postgres to find an old delivery.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Headers that are stored with the body, as received.
const STORED_HEADERS: [&str; 7] = [
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "content-type",
];

/// A delivery that is in the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookReceipt {
    /// Always `delivery`.
    object: &'static str,
    /// The provider's message id.
    id: String,
    /// Position in the log.
    position: u64,
    /// True if the log had it already.
    duplicate: bool,
}

/// Takes a delivery of Resend.
///
/// Answers 2xx once the delivery is durably in the log, byte for byte, or was
/// there already. Its shape, type or age never leads to a rejection.
#[utoipa::path(
    post,
    path = "/v1/webhooks/resend",
    tag = "webhooks",
    params(
        ("svix-id" = String, Header, description = "The message's id, the same in every attempt. `webhook-id` does as well."),
        ("svix-timestamp" = i64, Header, description = "Unix seconds of this attempt; at most 300 from now."),
        ("svix-signature" = String, Header, description = "`v1,` and base64 of HMAC-SHA256 over id, timestamp and body; several with spaces between."),
    ),
    request_body(content = inline(serde_json::Value), content_type = "application/json"),
    responses(
        (status = 200, description = "Durably stored, now or before", body = WebhookReceipt,
            headers(("ExoDrive-Position" = u64, description = "Position in the log"))),
        (status = 401, description = "Not signed by a known secret", body = super::problem::Problem, content_type = "application/problem+json"),
        (status = 413, description = "More than 1 MiB", body = super::problem::Problem, content_type = "application/problem+json"),
        (status = 503, description = "The log did not acknowledge; send it again", body = super::problem::Problem, content_type = "application/problem+json"),
        super::problem::Problem,
    ),
)]
pub(crate) async fn receive_resend(
    State(api): App,
    Extension(identity): Extension<request::Identity>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(error) => {
            api.log.refuse(&RejectedDelivery::new(
                Utc::now(),
                error.code.name(),
                claimed_id(&parts.headers),
                None,
            ));
            return Err(error);
        }
    };
    let now = Utc::now();
    // Nobody can say which of two was signed.
    let header =
        |name: &str| single(&parts.headers, name).ok().flatten().map(HeaderValue::as_bytes);
    let id = match api.webhook_secrets.verify(header, &body, now.timestamp()) {
        Ok(id) => id.to_owned(),
        Err(refusal) => {
            metrics::counter!("exodrive_webhook_rejected_total", "reason" => refusal.name())
                .increment(1);
            let network = peer::network_of(peer::peer(&parts, &api.trusted_proxies));
            let verdict = api.limiter.check(Limit::FailedWebhook, &network).await;
            identity.verdicts.add(verdict);
            if !verdict.allowed {
                return Err(ApiError::rate_limited(&verdict));
            }
            let (claimed, size) = (claimed_id(&parts.headers), body.len() as u64);
            api.log.refuse(&RejectedDelivery::new(now, refusal.name(), claimed, Some(size)));
            return Err(ApiError::new(Code::SignatureInvalid, format!("Not verified: {refusal}.")));
        }
    };
    let delivery = Delivery::parse(&body);
    let event = event(&identity, &parts.headers, id, now, body, &delivery);
    let appended = match find_old_duplicate(&api, &event, &delivery, now).await {
        Some(position) => Appended { position, duplicate: true },
        None => api.log.append_fact(&event).await.inspect_err(|error| {
            if error.outage().is_some() {
                metrics::counter!("exodrive_webhook_unavailable_total").increment(1);
            }
        })?,
    };
    report(&api, &event, appended).await;
    let receipt = WebhookReceipt {
        object: "delivery",
        id: event.envelope.id,
        position: appended.position,
        duplicate: appended.duplicate,
    };
    let position = HeaderValue::from(appended.position);
    let headers = [(HeaderName::from_static("exodrive-position"), position)];
    Ok((StatusCode::OK, headers, Json(receipt)).into_response())
}

/// Message id that a delivery claims, verified or not.
fn claimed_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("svix-id").or_else(|| headers.get("webhook-id"))?;
    id.to_str().ok()
}

/// Reads the whole body, if it is not too large and arrives in time. A body that is announced as too
/// large is refused before the sender is asked for it (RFC 9110, section 10.1.1).
pub(super) async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    match tokio::time::timeout(BODY_READ_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let status = match is_over_limit(&error) {
                true => StatusCode::PAYLOAD_TOO_LARGE,
                false => StatusCode::BAD_REQUEST,
            };
            Err(ApiError::of_status(status).caused_by(&error))
        }
        Err(_) => Err(ApiError::of_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

/// True if a body could not be read because it is larger than the limit.
fn is_over_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn event(
    identity: &request::Identity,
    headers: &HeaderMap,
    id: String,
    now: DateTime<Utc>,
    body: Bytes,
    delivery: &Delivery,
) -> NewEvent {
    let provider_headers = STORED_HEADERS
        .iter()
        .filter_map(|name| {
            Some(((*name).to_owned(), headers.get(*name)?.to_str().ok()?.to_owned()))
        })
        .collect();
    NewEvent {
        subject: delivery.email_id().cloned().map_or(Subject::Provider, Subject::Email),
        envelope: Envelope::received("resend", WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION, id, now)
            .by("provider:resend")
            .within(Some(identity.request_id.to_string()))
            .traced(Some(identity.trace.traceparent())),
        provider_headers,
        body,
    }
}

/// Finds the position of a delivery that is older than the duplicate window.
/// `None` if it is new, or if Postgres does not answer: then it is stored, and
/// the views count it once.
async fn find_old_duplicate(
    api: &Api,
    event: &NewEvent,
    delivery: &Delivery,
    now: DateTime<Utc>,
) -> Option<u64> {
    let window = chrono::Duration::from_std(api.log.duplicate_window()).ok()?;
    // A message without a time may be of any age.
    if delivery.happened_at.is_some_and(|happened_at| now - happened_at < window) {
        return None;
    }
    let lookup = async {
        let mut reader = api.database.read_as(&Identity::System, &["deliveries"]).await?;
        deliveries::read::find_delivery(&mut reader, &event.envelope.id).await
    };
    let known = match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(Ok(known)) => known?,
        Ok(Err(error)) => {
            let cause = exodrive_runtime::error_chain(&error);
            tracing::warn!(cause, "Cannot look up an old delivery, storing it");
            return None;
        }
        Err(_) => {
            tracing::warn!("Cannot look up an old delivery in time, storing it");
            return None;
        }
    };
    Some(known.position)
}

async fn report(api: &Api, event: &NewEvent, appended: Appended) {
    let Appended { position, duplicate } = appended;
    if !duplicate {
        metrics::counter!("exodrive_webhook_appended_total").increment(1);
        tracing::debug!(position, "Stored a delivery at {position}");
        return;
    }
    metrics::counter!("exodrive_webhook_duplicates_total").increment(1);
    tracing::info!(position, "Repeated delivery, it is already at position {position}");
    let (id, size) = (&event.envelope.id, event.body.len() as u64);
    api.log.refuse(&RejectedDelivery::new(event.envelope.time, DUPLICATE, Some(id), Some(size)));
    // The sender gets 2xx whatever this comparison finds.
    if let Ok(Ok(Some(first))) =
        tokio::time::timeout(LOOKUP_TIMEOUT, api.log.read_event(position)).await
        && !api.log.is_same(event, &first)
    {
        warn_of_different_body(position);
    }
}

fn warn_of_different_body(position: u64) {
    metrics::counter!("exodrive_webhook_duplicates_with_different_body_total").increment(1);
    tracing::warn!(
        position,
        "A repeated delivery has a different body than the first, which is at position {position}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, routing::post};
    use tower::ServiceExt;

    async fn status_of(body: Body) -> StatusCode {
        async fn read(request: Request) -> Response {
            match read_body(request.into_body()).await {
                Ok(_) => StatusCode::OK.into_response(),
                Err(error) => error.into_response(),
            }
        }
        let request = axum::http::Request::post("/").body(body).unwrap();
        Router::new().route("/", post(read)).oneshot(request).await.unwrap().status()
    }

    /// A body whose sender does not say how long it is.
    fn streamed(parts: Vec<Result<Bytes, std::io::Error>>) -> Body {
        Body::from_stream(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_one_byte_over_the_limit_is_too_large() {
        let (fits, over) = (vec![b'a'; MAX_BODY], vec![b'a'; MAX_BODY + 1]);
        assert_eq!(status_of(Body::from(fits.clone())).await, StatusCode::OK);
        assert_eq!(status_of(Body::from(over)).await, StatusCode::PAYLOAD_TOO_LARGE);
        let parts = vec![Ok(Bytes::from(fits)), Ok(Bytes::from_static(b"a"))];
        assert_eq!(status_of(streamed(parts)).await, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_not_too_large_whatever_it_says() {
        let broken = std::io::Error::other("length limit exceeded");
        assert_eq!(status_of(streamed(vec![Err(broken)])).await, StatusCode::BAD_REQUEST);
    }
}
