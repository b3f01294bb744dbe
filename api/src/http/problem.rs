//! The one shape of every error: `application/problem+json` (RFC 9457).

use super::state::limits::Verdict;
use axum::{
    body::Body,
    http::{
        HeaderValue, StatusCode,
        header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{Content, Ref, RefOr, ResponseBuilder, response::Response as Documented},
};

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error, for programs (`code`) and for people.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// Link to a page about this code.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not_found")]
    pub kind: String,
    /// Title of the code, for people.
    #[schema(example = "Not found")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// The code by which a program decides.
    pub code: Code,
    /// Description of this occurrence, for people.
    pub detail: String,
    /// Advice on what to do next.
    pub next: String,
    /// Id of this request in our logs.
    #[schema(example = "req_0198f3a6c1f07d5ab0c4a2f3e1d2c3b4")]
    pub request_id: String,
    /// Invalid parts of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Members that only some codes have.
    #[serde(flatten)]
    pub more: More,
}

/// Documents the failures of a route that it does not list: `responses(…, Problem)`.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<Documented>> {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new()
            .description("Any failure that is not listed")
            .content(PROBLEM_JSON, content);
        [("default".to_owned(), response.into())].into()
    }
}

/// Members of a problem that only some codes have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct More {
    /// `dates_unavailable`: the days that are taken, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// `dates_unavailable`: the next free days, as many in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_free: Option<DateRange>,
    /// `action_not_allowed`: actions that are possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_actions: Option<Vec<String>>,
    /// `stale`: the present state of the car or booking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<serde_json::Value>,
    /// `price_changed`: the present total in cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_cents: Option<i64>,
    /// `rebuild_in_progress`: id of the rebuild.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<String>,
}

/// A day that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Conflict {
    /// The day.
    pub date: chrono::NaiveDate,
    /// `held`, `booked` or `maintenance`.
    #[schema(example = "booked")]
    pub status: String,
    /// Id of the booking that takes it; only staff see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booking_id: Option<String>,
}

/// A range of days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DateRange {
    /// The first day.
    pub start_date: chrono::NaiveDate,
    /// The last day.
    pub end_date: chrono::NaiveDate,
}

/// An invalid part of a request.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body, or `?name` for a query parameter.
    #[schema(example = "?limit")]
    pub pointer: String,
    /// Description of the fault.
    pub detail: String,
}

/// Codes of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is described by title() and next()")]
pub enum Code {
    InvalidRequest,
    SignatureInvalid,
    Unauthenticated,
    IdentityUnavailable,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    RequestTimeout,
    BodyTooLarge,
    UriTooLong,
    HeadersTooLarge,
    UnsupportedMediaType,
    RateLimited,
    Internal,
    LogUnavailable,
    ViewUnavailable,
    ViewBehind,
    ValidationFailed,
    DatesUnavailable,
    ActionNotAllowed,
    TooEarly,
    CarNotBookable,
    PriceChanged,
    CarConflict,
    SlugTaken,
    Stale,
    IdempotencyKeyReused,
    RequestInFlight,
    Busy,
    Overloaded,
    NewerRelease,
    RebuildInProgress,
    OperationRejected,
    /// Personal data was erased and cannot be read any more.
    Erased,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 35] = [
        Self::InvalidRequest,
        Self::SignatureInvalid,
        Self::Unauthenticated,
        Self::IdentityUnavailable,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::Internal,
        Self::LogUnavailable,
        Self::ViewUnavailable,
        Self::ViewBehind,
        Self::ValidationFailed,
        Self::DatesUnavailable,
        Self::ActionNotAllowed,
        Self::TooEarly,
        Self::CarNotBookable,
        Self::PriceChanged,
        Self::CarConflict,
        Self::SlugTaken,
        Self::Stale,
        Self::IdempotencyKeyReused,
        Self::RequestInFlight,
        Self::Busy,
        Self::Overloaded,
        Self::NewerRelease,
        Self::RebuildInProgress,
        Self::OperationRejected,
        Self::Erased,
    ];

    /// Name of the code on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::SignatureInvalid => "signature_invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::IdentityUnavailable => "identity_unavailable",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotAcceptable => "not_acceptable",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
            Self::LogUnavailable => "log_unavailable",
            Self::ViewUnavailable => "view_unavailable",
            Self::ViewBehind => "view_behind",
            Self::ValidationFailed => "validation_failed",
            Self::DatesUnavailable => "dates_unavailable",
            Self::ActionNotAllowed => "action_not_allowed",
            Self::TooEarly => "too_early",
            Self::CarNotBookable => "car_not_bookable",
            Self::PriceChanged => "price_changed",
            Self::CarConflict => "car_conflict",
            Self::SlugTaken => "slug_taken",
            Self::Stale => "stale",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::RequestInFlight => "request_in_flight",
            Self::Busy => "busy",
            Self::Overloaded => "overloaded",
            Self::NewerRelease => "newer_release",
            Self::RebuildInProgress => "rebuild_in_progress",
            Self::OperationRejected => "operation_rejected",
            Self::Erased => "erased",
        }
    }

    /// HTTP status of the code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::SignatureInvalid | Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ValidationFailed | Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::DatesUnavailable
            | Self::ActionNotAllowed
            | Self::TooEarly
            | Self::CarNotBookable
            | Self::PriceChanged
            | Self::CarConflict
            | Self::SlugTaken
            | Self::RequestInFlight
            | Self::RebuildInProgress
            | Self::OperationRejected => StatusCode::CONFLICT,
            Self::Erased => StatusCode::GONE,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::IdentityUnavailable
            | Self::LogUnavailable
            | Self::ViewUnavailable
            | Self::ViewBehind
            | Self::Busy
            | Self::Overloaded
            | Self::NewerRelease => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Title of the code, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request cannot be understood",
            Self::SignatureInvalid => "The webhook's signature cannot be verified",
            Self::Unauthenticated => "A token is needed",
            Self::IdentityUnavailable => "The identity provider is not available",
            Self::Forbidden => "This role may not do that",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::NotAcceptable => "The media type of the answer is not accepted",
            Self::RequestTimeout => "The request came too slowly",
            Self::BodyTooLarge => "The body is too large",
            Self::UriTooLong => "The URI is too long",
            Self::HeadersTooLarge => "The headers are too large",
            Self::UnsupportedMediaType => "The body's media type is not supported",
            Self::RateLimited => "Too many requests",
            Self::Internal => "An error on our side",
            Self::LogUnavailable => "The event log is not available",
            Self::ViewUnavailable => "The view is not available",
            Self::ViewBehind => "The view has not reached that position",
            Self::ValidationFailed => "The request has invalid values",
            Self::DatesUnavailable => "The days are taken",
            Self::ActionNotAllowed => "The booking's status does not allow this action",
            Self::TooEarly => "The rental has not begun",
            Self::CarNotBookable => "The car cannot be booked",
            Self::PriceChanged => "The price has changed",
            Self::CarConflict => "The car's state does not allow this command",
            Self::SlugTaken => "The slug belongs to another car",
            Self::Stale => "It has changed since it was read",
            Self::IdempotencyKeyReused => "The Idempotency-Key belongs to another request",
            Self::RequestInFlight => "The same request is still in progress",
            Self::Busy => "Too many commands decide about the same car at once",
            Self::Overloaded => "Too much is in progress at once",
            Self::NewerRelease => "A newer release has appended an event",
            Self::RebuildInProgress => "A rebuild of the projection is in progress",
            Self::OperationRejected => "The present state does not allow the command",
            Self::Erased => "It was erased",
        }
    }

    /// Advice on what to do next.
    pub fn next(self) -> &'static str {
        match self {
            Self::InvalidRequest => "Correct what `errors` names; /docs shows what is accepted.",
            Self::SignatureInvalid => {
                "Check that EXODRIVE_RESEND_WEBHOOK_SECRETS holds the endpoint's signing secret, and that both clocks are right."
            }
            Self::Unauthenticated => {
                "Send `Authorization: Bearer <token>`; in development `exodrive token --role auditor` prints one."
            }
            Self::Forbidden => "Use an account with another role.",
            Self::NotFound => "Check the path and the id; /docs lists every path.",
            Self::MethodNotAllowed => "Use a method that the `Allow` header names.",
            Self::NotAcceptable => "Leave `Accept` out, or do not give JSON the weight 0 in it.",
            Self::RequestTimeout => "Send the request again.",
            Self::BodyTooLarge => "Send at most 1 MiB.",
            Self::UriTooLong => "Send a URI of at most 8 KiB.",
            Self::HeadersTooLarge => "Send at most 32 KiB of headers, and at most 100 of them.",
            Self::UnsupportedMediaType => {
                "Send `Content-Type: application/json`, in UTF-8 and without a content coding."
            }
            Self::RateLimited => "Wait for as many seconds as `Retry-After` says.",
            Self::Internal => "Try again; if it stays, report the request_id.",
            Self::LogUnavailable => {
                "Send the same request again after `Retry-After` seconds; nothing is stored twice."
            }
            Self::IdentityUnavailable | Self::ViewUnavailable | Self::ViewBehind => {
                "Try again after `Retry-After` seconds."
            }
            Self::ValidationFailed => "Correct what `errors` and `detail` name.",
            Self::DatesUnavailable => {
                "Choose other days: `conflicts` names those that are taken, `next_free` the next that are not."
            }
            Self::ActionNotAllowed => "Do one of `allowed_actions`, or read the booking again.",
            Self::TooEarly => "Wait for the first day, or reschedule the booking to begin today.",
            Self::CarNotBookable => "Choose another car.",
            Self::PriceChanged => {
                "Show the customer the new total (`total_cents`), then book with it."
            }
            Self::CarConflict => "Read the car again; `detail` says what is in the way.",
            Self::SlugTaken => {
                "Choose another slug: slugs are never reused, archived cars included."
            }
            Self::Stale => {
                "Read `current`, then send the command again with its `position`, in quotes, in `If-Match`."
            }
            Self::IdempotencyKeyReused => {
                "Use a new key for a new request; the same key only to repeat the same one."
            }
            Self::RequestInFlight => {
                "Send it again after `Retry-After` seconds: the answer will be the first one's."
            }
            Self::Busy | Self::Overloaded => {
                "Send the same request again after `Retry-After` seconds; nothing is stored twice."
            }
            Self::NewerRelease => {
                "Send the same request again after `Retry-After` seconds: a server of the newer release answers it. Nothing was changed."
            }
            Self::RebuildInProgress => "Wait for the rebuild that `rebuild` names, or cancel it.",
            Self::OperationRejected => {
                "Read the state again; `detail` says what prevents the command."
            }
            Self::Erased => "Nothing brings it back; what is left is in the views.",
        }
    }
}

/// An error before it becomes a [`Problem`]: the outermost layer adds the
/// request's id. The cause goes to the log and never to the caller.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The code.
    pub code: Code,
    /// Description of this occurrence, for people. Nothing internal.
    pub detail: String,
    /// Invalid parts of the request.
    pub errors: Vec<FieldError>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
    /// Members that only its code has.
    pub more: Box<More>,
    /// Content codings that would do, if the body's does not: `Accept-Encoding`
    /// (RFC 9110, section 15.5.16).
    pub accept_encoding: Option<&'static str>,
    /// Cause, for the log.
    pub cause: Option<String>,
}

impl ApiError {
    /// An error with this code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after =
            (code.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_UNAVAILABLE);
        let (detail, more) = (detail.into(), Box::default());
        Self {
            code,
            detail,
            errors: Vec::new(),
            retry_after,
            more,
            accept_encoding: None,
            cause: None,
        }
    }

    /// An error about a query parameter that cannot be understood.
    pub fn parameter(name: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut error =
            Self::new(Code::InvalidRequest, format!("The parameter `{name}` is wrong: {detail}"));
        error.errors.push(FieldError { pointer: format!("?{name}"), detail });
        error
    }

    /// An error about a rate limit that is exceeded.
    pub fn rate_limited(verdict: &Verdict) -> Self {
        let seconds = verdict.retry_after_secs();
        let mut error =
            Self::new(Code::RateLimited, format!("The next request is allowed in {seconds} s."));
        error.retry_after = Some(seconds);
        error
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, cause: &dyn std::error::Error) -> Self {
        self.cause = Some(exodrive_runtime::error_chain(cause));
        self
    }

    /// The problem for the caller of `request_id`.
    pub fn into_problem(self, request_id: &str) -> Problem {
        Problem {
            kind: format!("/problems/{}", self.code.name()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            code: self.code,
            detail: self.detail,
            next: self.code.next().to_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors,
            more: *self.more,
        }
    }

    /// The error for a bare status that the framework answers by itself.
    pub fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => (Code::NotFound, "There is nothing at this path."),
            StatusCode::METHOD_NOT_ALLOWED => {
                (Code::MethodNotAllowed, "This path does not know this method.")
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                (Code::BodyTooLarge, "The body has more than 1,048,576 bytes.")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                (Code::UnsupportedMediaType, "This path takes another media type.")
            }
            StatusCode::NOT_ACCEPTABLE => {
                (Code::NotAcceptable, "The answer is of a media type that `Accept` excludes.")
            }
            StatusCode::URI_TOO_LONG => (Code::UriTooLong, "The URI is too long."),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                (Code::HeadersTooLarge, "The headers are too large, or too many.")
            }
            StatusCode::PRECONDITION_FAILED => {
                (Code::Stale, "It is not in the state that the request names.")
            }
            StatusCode::REQUEST_TIMEOUT => {
                (Code::RequestTimeout, "The request did not arrive in time.")
            }
            status if status.is_client_error() => {
                (Code::InvalidRequest, "The request cannot be understood.")
            }
            _ => (Code::Internal, "The request could not be executed."),
        };
        Self::new(code, detail)
    }
}

const RETRY_UNAVAILABLE: u64 = 5;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.code == Code::Unauthenticated {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        if let Some(codings) = self.accept_encoding {
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static(codings));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an error response its body. Other responses do not change. The second
/// value is the error, for the log.
pub(crate) fn render(response: Response, request_id: &str) -> (Response, Option<ApiError>) {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return (response, None);
    }
    let (mut parts, _) = response.into_parts();
    let error = parts.extensions.remove().unwrap_or_else(|| ApiError::of_status(status));
    let problem = error.clone().into_problem(request_id);
    parts.status = error.code.status();
    // A problem always has a body: clients decide by its code.
    let body = serde_json::to_vec(&problem).unwrap_or_else(|_| {
        br#"{"type":"/problems/internal","status":500,"code":"internal"}"#.to_vec()
    });
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    (Response::from_parts(parts, Body::from(body)), Some(error))
}
