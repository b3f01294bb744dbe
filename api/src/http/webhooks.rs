//! Webhooks of providers. This path depends on nothing but the log: it asks
//! Postgres only about events older than the log's duplicate window, and stores
//! a delivery if Postgres does not answer.

use super::{Api, App, MAX_BODY, auth::peer, body::read_body, headers::single, layers::request};
use super::{
    problem::{ApiError, Code},
    state::limits::Limit,
};
use axum::{
    Extension, Json,
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use exodrive_audit::webhook_signature::{InvalidDelivery, SignedHead};
use exodrive_domain::{Delivery, Envelope, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION};
use exodrive_log::{Appended, DUPLICATE, NewEvent, RejectedDelivery};
use exodrive_projections::{Identity, views::deliveries};
use serde::Serialize;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use utoipa::ToSchema;

/// Largest number of deliveries that are looked at at a time of senders that fail too often.
pub const SUSPECTS: usize = 8;
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
    let sender = Sender {
        network: peer::network_of(peer::peer(&parts, &api.trusted_proxies)),
        claimed_id: claimed_id(&parts.headers),
        identity: &identity,
        api: &api,
    };
    // Nobody can say which of two was signed.
    let header =
        |name: &str| single(&parts.headers, name).ok().flatten().map(HeaderValue::as_bytes);
    let (now, announced) = (Utc::now(), body.size_hint().lower());
    let _turn = sender.turn()?;
    let head = match announced > MAX_BODY as u64 {
        false => match SignedHead::read(header, now.timestamp()) {
            Ok(head) => head,
            Err(refusal) => return Err(sender.not_verified(refusal, announced).await),
        },
        true => {
            let error = ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE);
            return Err(sender.failed(error.code.name(), None, error).await);
        }
    };
    let body = match read_body(body, &api.webhook_bodies).await {
        Ok(body) => body,
        // Not a fault of the sender.
        Err(error) if error.code == Code::Overloaded => return Err(error),
        Err(error) => return Err(sender.failed(error.code.name(), None, error).await),
    };
    let bytes = &body.bytes;
    let id = match api.webhook_secrets.verify(&head, bytes) {
        Ok(id) => id.to_owned(),
        Err(refusal) => return Err(sender.not_verified(refusal, bytes.len() as u64).await),
    };
    let delivery = Delivery::parse(bytes);
    let event = event(&identity, &parts.headers, id, now, bytes.clone(), &delivery);
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

/// Where a delivery comes from.
struct Sender<'a> {
    network: String,
    claimed_id: Option<&'a str>,
    identity: &'a request::Identity,
    api: &'a Api,
}

impl Sender<'_> {
    /// Admits a sender whose deliveries did not fail too often. Of the others, only a few
    /// deliveries at a time are looked at: whoever shares a network with a hostile sender is
    /// still heard.
    fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        let Some(verdict) = self.api.limiter.known_refusal(Limit::FailedWebhook, &self.network)
        else {
            return Ok(None);
        };
        self.api.suspects.try_acquire().map(Some).map_err(|_| {
            self.identity.verdicts.add(verdict);
            ApiError::rate_limited(&verdict)
        })
    }

    async fn not_verified(&self, refusal: InvalidDelivery, size: u64) -> ApiError {
        metrics::counter!("exodrive_webhook_rejected_total", "reason" => refusal.name())
            .increment(1);
        let error = ApiError::new(Code::SignatureInvalid, format!("Not verified: {refusal}."));
        self.failed(refusal.name(), Some(size), error).await
    }

    /// Counts a delivery that failed. It is recorded only within the limit, so that a flood does
    /// not push older records out.
    async fn failed(&self, reason: &str, size: Option<u64>, error: ApiError) -> ApiError {
        let verdict = self.api.limiter.check(Limit::FailedWebhook, &self.network).await;
        self.identity.verdicts.add(verdict);
        if !verdict.allowed {
            return ApiError::rate_limited(&verdict);
        }
        self.api.log.refuse(&RejectedDelivery::new(Utc::now(), reason, self.claimed_id, size));
        error
    }
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
        && !first.is_erased()
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
