//! Parts that all reads share.

use super::problem::{ApiError, Code};
use super::{
    Api,
    conditional::is_unchanged,
    headers::{header_fault, single},
};
use axum::{
    Json,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use exodrive_projections::{Identity, Place, ReadTransaction};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use utoipa::IntoParams;

const DEFAULT_LIMIT: i64 = 20;
const LARGEST_LIMIT: i64 = 100;
/// Time for which a read waits until a view reaches the requested position.
const VIEW_WAIT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const MIN_POSITION: &str = "ExoDrive-Min-Position";
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// Header with the position of the event that the row waits behind: later
/// events about it are not in the row yet.
const BLOCKED_AT: HeaderName = HeaderName::from_static("exodrive-blocked-at");
/// Header of a list with the number of rows that wait so.
const BLOCKED_ROWS: HeaderName = HeaderName::from_static("exodrive-blocked-rows");
pub(super) const POSITION: HeaderName = HeaderName::from_static("exodrive-position");

/// Begins a read of these views, once all of them have reached the position that
/// the caller asks for, if there is one. Other views cannot be read by it.
///
/// # Errors
/// 503 if one of them has not reached it in time; 400 if the log has not.
pub(super) async fn begin_read(
    api: &Api,
    identity: &Identity,
    views: &[&'static str],
    headers: &HeaderMap,
) -> Result<ReadTransaction, ApiError> {
    wait_for_requested(api, views, headers).await?;
    Ok(api.database.read_as(identity, views).await?)
}

/// Waits until these views have reached the position that the caller asks for,
/// if there is one.
pub(super) async fn wait_for_requested(
    api: &Api,
    views: &[&'static str],
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    let Some(requested) = single(headers, MIN_POSITION)? else { return Ok(()) };
    let requested = requested.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    let requested = requested
        .ok_or_else(|| header_fault(MIN_POSITION, "must be a position, a whole number"))?;
    if reach(api, views, requested, Duration::ZERO).await.is_ok() {
        return Ok(());
    }
    // The leader of the log says where it ends. If it is away, nobody knows better than to wait.
    if let Ok(end) = api.log.last_position().await
        && requested > end
    {
        return Err(header_fault(MIN_POSITION, &format!("is beyond the log's end, {end}")));
    }
    reach(api, views, requested, VIEW_WAIT_TIMEOUT).await
}

/// Waits until the view has reached the present end of the log.
pub(super) async fn reach_the_end(api: &Api, view: &'static str) -> Result<(), ApiError> {
    let end = api.log.last_position().await?;
    reach(api, &[view], end, VIEW_WAIT_TIMEOUT).await
}

/// Waits until these views have reached a position.
async fn reach(
    api: &Api,
    views: &[&'static str],
    requested: u64,
    timeout: Duration,
) -> Result<(), ApiError> {
    let deadline = Instant::now() + timeout;
    for view in views {
        let left = deadline.saturating_duration_since(Instant::now());
        let reached = api.database.wait_for(view, requested, left).await?;
        if reached < requested {
            let detail =
                format!("The view `{view}` is at position {reached}, {requested} was asked for.");
            let mut error = ApiError::new(Code::ViewBehind, detail);
            error.retry_after = Some(1);
            return Err(error);
        }
    }
    Ok(())
}

/// Reads a query string into a struct whose fields are its parameters: the
/// extractor of the caller has refused all others.
///
/// # Errors
/// 400, which names the parameter that cannot be read.
pub(super) fn parse_query<T: DeserializeOwned>(query: Option<String>) -> Result<T, ApiError> {
    let uri = query.map_or_else(|| "/".to_owned(), |query| format!("/?{query}"));
    let pairs = uri
        .parse()
        .ok()
        .and_then(|uri| axum::extract::Query::<BTreeMap<String, String>>::try_from_uri(&uri).ok());
    let pairs = pairs.ok_or_else(|| ApiError::parameter("", "the query cannot be read"))?.0;
    let values = pairs.into_iter().map(|(name, value)| (name, value.into()));
    serde_path_to_error::deserialize(Value::Object(values.collect()))
        .map_err(|error| ApiError::parameter(&error.path().to_string(), error.inner().to_string()))
}

/// The `limit` of a list.
pub(super) fn limit(limit: Option<String>) -> Result<i64, ApiError> {
    let Some(limit) = limit else { return Ok(DEFAULT_LIMIT) };
    let limit = limit.parse().ok().filter(|limit| (1..=LARGEST_LIMIT).contains(limit));
    limit.ok_or_else(|| ApiError::parameter("limit", "it must be a number from 1 to 100"))
}

/// The page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct PageQuery {
    /// Entries on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// The page of a history that a query asks for: its limit, and what it begins after.
pub(super) fn page_of(query: Option<String>) -> Result<(i64, Option<Place>), ApiError> {
    let PageQuery { limit: requested, after } = parse_query(query)?;
    Ok((limit(requested)?, cursor(after, Place::parse)?))
}

/// The `after` of a list, as the list's own cursors are read.
pub(super) fn cursor<T>(
    after: Option<String>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let Some(after) = after else { return Ok(None) };
    let detail = "it must be the next_cursor of an earlier page";
    parse(&after).map(Some).ok_or_else(|| ApiError::parameter("after", detail))
}

/// A time in a query.
pub(super) fn time(name: &str, text: Option<String>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let read = |text: String| {
        exodrive_domain::time::parse(&text)
            .ok_or_else(|| ApiError::parameter(name, "it must be RFC 3339"))
    };
    text.map(read).transpose()
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

/// An answer made of many rows of the views that were read. A header says how
/// many rows of these views wait behind an event that could not be folded, if
/// any do: what happened to them since is not in the answer, or they are not.
pub(super) fn answer_of(
    api: &Api,
    reader: &ReadTransaction,
    answer: impl serde::Serialize,
) -> Response {
    let mut response = Json(answer).into_response();
    let blocked: usize = reader.views().iter().map(|view| api.blocked.number(view)).sum();
    if blocked > 0 {
        response.headers_mut().insert(BLOCKED_ROWS, blocked.into());
    }
    response
}

/// An answer as JSON; one that cannot be written is an error, never an empty
/// body.
pub(super) fn json_body(answer: &impl serde::Serialize) -> Result<Bytes, ApiError> {
    Ok(serde_json::to_vec(answer)?.into())
}

/// Answers with a view as JSON, or with 304 if the caller has it. `etag` is the tag of exactly this
/// JSON.
///
/// # Errors
/// 412 if the caller wants another state of it than this.
pub(super) fn view_answer(
    headers: &HeaderMap,
    etag: &str,
    position: u64,
    json: Bytes,
    cache: &'static str,
) -> Result<Response, ApiError> {
    let mut response = if is_unchanged(headers, etag)? {
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
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_json_is_a_fault_and_no_empty_body() {
        let unwritable = BTreeMap::from([(vec![1_u8], "JSON has no such keys")]);
        let error = json_body(&unwritable).unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert_eq!(json_body(&BTreeMap::from([("a", 1)])).unwrap().as_ref(), br#"{"a":1}"#);
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Sample {
        q: Option<String>,
        #[serde(rename = "type")]
        kind: Option<String>,
    }

    #[test]
    fn a_query_is_read_into_a_struct() {
        let read = |query: &str| parse_query::<Sample>(Some(query.to_owned()));
        let both = Sample { q: Some("a b&c".to_owned()), kind: Some("x".to_owned()) };
        assert_eq!(read("type=x&q=a+b%26c").ok(), Some(both));
        assert_eq!(parse_query::<Sample>(None).ok(), Some(Sample::default()));
    }
}
