//! Webhook deliveries as received, for auditors.

use super::problem::{ApiError, Code, Problem};
use super::{App, auth::extract::EmailReader, layers::request};
use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use exodrive_domain::{Subject, WEBHOOK_RECEIVED, time};

/// Gives the exact bytes of a delivery from the log.
///
/// The headers that the provider signed come back under their own names, after
/// `ExoDrive-Received-`, for example `ExoDrive-Received-Svix-Signature`.
#[utoipa::path(
    get, path = "/v1/deliveries/{position}/raw", tag = "deliveries", security(("token" = []), ("service_key" = ["inbox:read"])),
    params(("position" = u64, Path, description = "Position in the log")),
    responses(
        (status = 200, description = "The bytes as received", content_type = "application/octet-stream",
            body = inline(String),
            headers(
                ("ExoDrive-Received-At" = String, description = "Time of receipt, RFC 3339"),
                ("ExoDrive-Received-Svix-Id" = String, description = "`svix-id` as received"),
                ("ExoDrive-Received-Svix-Timestamp" = String, description = "`svix-timestamp` as received"),
                ("ExoDrive-Received-Svix-Signature" = String, description = "`svix-signature` as received"),
            )),
        Problem,
    ),
)]
pub(crate) async fn get_raw(
    State(api): App,
    _: EmailReader,
    Extension(identity): Extension<request::Identity>,
    Path(position): Path<String>,
) -> Result<Response, ApiError> {
    let missing = || ApiError::new(Code::NotFound, "There is no delivery at this position.");
    let position = position.parse().map_err(|_| missing())?;
    let recorded = api.log.read_event(position).await?;
    let recorded =
        recorded.filter(|event| event.envelope.kind == WEBHOOK_RECEIVED).ok_or_else(missing)?;
    if recorded.is_erased() {
        return Err(ApiError::new(Code::Erased, "The bytes of this delivery were erased."));
    }
    if let Ok(Subject::Email(id)) = recorded.subject.parse() {
        identity.shows(&api.accesses, "email", Some(id.as_str()));
    }
    let mut headers = HeaderMap::new();
    // The browser never shows it as a page, whatever a sender has put into it.
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("exodrive-position", recorded.position.into());
    let received_at = ("exodrive-received-at".to_owned(), time::format(&recorded.envelope.time));
    let provider = recorded
        .provider_headers
        .into_iter()
        .map(|(name, value)| (format!("exodrive-received-{name}"), value));
    for (name, value) in provider.chain([received_at]) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            headers.append(name, value);
        }
    }
    Ok((headers, recorded.body).into_response())
}
