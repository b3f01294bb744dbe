//! Parts that all reads share.

use super::Api;
use super::problem::{ApiError, Code, FieldError};
use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use exodrive_log::{Outage, ReadError};
use exodrive_projections::{Error, Identity, ReadTransaction};
use std::time::Duration;

const DEFAULT_LIMIT: i64 = 20;
const LARGEST_LIMIT: i64 = 100;
/// Time for which a read waits until a view reaches the requested position.
const VIEW_WAIT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const MIN_POSITION: &str = "exodrive-min-position";
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// Header with the position of the event that the row waits behind: later
/// events about it are not in the row yet.
const BLOCKED_AT: HeaderName = HeaderName::from_static("exodrive-blocked-at");
pub(super) const POSITION: HeaderName = HeaderName::from_static("exodrive-position");

/// Begins a read, once the view has reached the position that the caller asks
/// for, if there is one.
pub(super) async fn begin_read(
    api: &Api,
    identity: &Identity,
    view: &str,
    headers: &HeaderMap,
) -> Result<ReadTransaction, ApiError> {
    let requested = match headers.get(MIN_POSITION) {
        None => None,
        Some(value) => {
            let position = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            Some(position.ok_or_else(|| {
                let mut error = ApiError::new(
                    Code::InvalidRequest,
                    "The header ExoDrive-Min-Position must be a position.",
                );
                error.errors.push(FieldError {
                    pointer: "ExoDrive-Min-Position".to_owned(),
                    detail: "not a whole number".to_owned(),
                });
                error
            })?)
        }
    };
    if let Some(requested) = requested {
        reach(api, view, requested).await?;
    }
    api.database.read_as(identity).await.map_err(view_unavailable)
}

/// Waits until the view has reached the present end of the log.
pub(super) async fn reach_the_end(api: &Api, view: &str) -> Result<(), ApiError> {
    let end = api.log.last_position().await.map_err(log_unavailable)?;
    reach(api, view, end).await
}

/// Waits until the view has reached a position.
async fn reach(api: &Api, view: &str, requested: u64) -> Result<(), ApiError> {
    let reached = api
        .database
        .wait_for(view, requested, VIEW_WAIT_TIMEOUT)
        .await
        .map_err(view_unavailable)?;
    if reached < requested {
        let detail = format!("The view is at position {reached}, {requested} was asked for.");
        let mut error = ApiError::new(Code::ViewBehind, detail);
        error.retry_after = Some(1);
        return Err(error);
    }
    Ok(())
}

pub(super) fn view_unavailable(error: Error) -> ApiError {
    let code = match error {
        Error::Row { .. } => Code::Internal,
        _ => Code::ViewUnavailable,
    };
    ApiError::new(code, "The view cannot be read at the moment.").caused_by(&error)
}

/// Reads a query string. A parameter that is unknown, or given twice, is
/// rejected and not silently left out.
pub(super) fn parse_query<T: serde::de::DeserializeOwned>(
    query: Option<String>,
    known: &[&str],
) -> Result<T, ApiError> {
    let uri = format!("/?{}", query.unwrap_or_default());
    let pairs = uri
        .parse()
        .ok()
        .and_then(|uri| axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).ok());
    let pairs = pairs.ok_or_else(|| ApiError::parameter("", "the query cannot be read"))?.0;
    let mut values = serde_json::Map::new();
    for (name, value) in pairs {
        if !known.contains(&name.as_str()) {
            let detail = format!("it is not known here; known are {}", known.join(", "));
            return Err(ApiError::parameter(&name, detail));
        }
        // Postgres stores no NUL.
        if value.contains('\0') {
            return Err(ApiError::parameter(&name, "it must not contain NUL"));
        }
        if values.insert(name.clone(), value.into()).is_some() {
            return Err(ApiError::parameter(&name, "it is given twice"));
        }
    }
    serde_path_to_error::deserialize(serde_json::Value::from(values))
        .map_err(|error| ApiError::parameter(&error.path().to_string(), error.inner().to_string()))
}

/// The `limit` of a list.
pub(super) fn limit(limit: Option<String>) -> Result<i64, ApiError> {
    let Some(limit) = limit else { return Ok(DEFAULT_LIMIT) };
    let limit = limit.parse().ok().filter(|limit| (1..=LARGEST_LIMIT).contains(limit));
    limit.ok_or_else(|| ApiError::parameter("limit", "it must be a number from 1 to 100"))
}

/// A time in a query.
pub(super) fn time(name: &str, text: Option<String>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let read = |text: String| {
        exodrive_domain::time::parse(&text)
            .ok_or_else(|| ApiError::parameter(name, "it must be RFC 3339"))
    };
    text.map(read).transpose()
}

pub(super) fn log_unavailable(error: ReadError) -> ApiError {
    log_failed(error.outage(), &error)
}

/// Names the service that is unavailable. Without one, the fault is ours, and a
/// repeat does not help.
pub(super) fn log_failed(outage: Option<Outage>, error: &dyn std::error::Error) -> ApiError {
    match outage {
        Some(service) => {
            ApiError::new(Code::LogUnavailable, format!("The {service} does not answer."))
        }
        None => ApiError::new(Code::Internal, "The request could not be executed."),
    }
    .caused_by(error)
}

/// The free text of a list.
pub(super) fn text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Adds a header if a row waits behind an event that could not be folded.
/// `keys` are the row's key and the subjects of its events.
pub(super) fn add_blocked_header(api: &Api, view: &str, keys: &[&str], answer: &mut Response) {
    if let Some(position) = api.blocked.behind(view, keys) {
        answer.headers_mut().insert(BLOCKED_AT, position.into());
    }
}

/// Answers with a view as JSON, or with 304 if the caller has it.
pub(super) fn view_answer(
    headers: &HeaderMap,
    etag: &str,
    position: u64,
    json: Bytes,
    cache: &'static str,
) -> Response {
    let unchanged =
        headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|known| {
            known.split(',').any(|known| known.trim().trim_start_matches("W/") == etag)
        });
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = HeaderValue::from_static("application/json");
        ([(CONTENT_TYPE, kind)], json).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(X_CACHE, HeaderValue::from_static(cache));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(POSITION, position.into());
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(ETAG, etag);
    }
    response
}
