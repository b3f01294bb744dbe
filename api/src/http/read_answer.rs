//! Parts that all reads share.

use super::problem::{ApiError, Code};
use super::{
    Api,
    conditional::is_unchanged,
    headers::{header_fault, single},
};
use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use exodrive_projections::{Identity, ReadTransaction};
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use std::time::Duration;

const DEFAULT_LIMIT: i64 = 20;
const LARGEST_LIMIT: i64 = 100;
/// Time for which a read waits until a view reaches the requested position.
const VIEW_WAIT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const MIN_POSITION: &str = "ExoDrive-Min-Position";
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
    let requested = single(headers, MIN_POSITION)?;
    let requested = requested.map(|value| {
        let position = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        position.ok_or_else(|| header_fault(MIN_POSITION, "must be a position, a whole number"))
    });
    let requested = requested.transpose()?;
    if let Some(requested) = requested {
        reach(api, view, requested).await?;
    }
    Ok(api.database.read_as(identity).await?)
}

/// Waits until the view has reached the present end of the log.
pub(super) async fn reach_the_end(api: &Api, view: &str) -> Result<(), ApiError> {
    let end = api.log.last_position().await?;
    reach(api, view, end).await
}

/// Waits until the view has reached a position.
async fn reach(api: &Api, view: &str, requested: u64) -> Result<(), ApiError> {
    let reached = api.database.wait_for(view, requested, VIEW_WAIT_TIMEOUT).await?;
    if reached < requested {
        let detail = format!("The view is at position {reached}, {requested} was asked for.");
        let mut error = ApiError::new(Code::ViewBehind, detail);
        error.retry_after = Some(1);
        return Err(error);
    }
    Ok(())
}

/// Takes in the names of the fields that serde reads into a struct, and ends.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("this is no struct with named fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
        ignored_any
    }
}

/// Reads a query string into a struct. A parameter that is no field of it, or
/// given twice, is refused, not silently left out.
///
/// # Errors
/// 400, which names the parameter.
pub(super) fn parse_query<T: DeserializeOwned>(query: Option<String>) -> Result<T, ApiError> {
    let mut known: &[&str] = &[];
    // It ends with an error always: only the names are asked for.
    let _ = T::deserialize(FieldNames(&mut known));
    let uri = query.map_or_else(|| "/".to_owned(), |query| format!("/?{query}"));
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
    use serde::Deserialize;
    use std::collections::BTreeMap;

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
    fn a_query_has_the_names_of_its_struct_and_no_others() {
        let read = |query: &str| parse_query::<Sample>(Some(query.to_owned()));
        let both = Sample { q: Some("a b&c".to_owned()), kind: Some("x".to_owned()) };
        assert_eq!(read("type=x&q=a+b%26c").ok(), Some(both));
        assert_eq!(parse_query::<Sample>(None).ok(), Some(Sample::default()));
        for (query, name) in [("kind=x", "kind"), ("q=1&q=2", "q"), ("q=%00", "q"), ("z", "z")] {
            let error = read(query).err().unwrap();
            assert_eq!(error.errors[0].pointer, format!("?{name}"), "{query}");
        }
    }
}
