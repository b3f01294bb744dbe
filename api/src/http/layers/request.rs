//! The layer around every request: id and trace, rate-limit headers, the
//! problem of a failure, log line and metrics.

use crate::http::{
    auth::tokens::Caller,
    headers::single,
    problem,
    shows::{ReadRecords, Shows},
    state::limits::{Limit, Verdict},
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri},
    middleware::Next,
    response::Response,
};
use chrono::Utc;
use exodrive_commands::access_log::{Access, AccessLog};
use exodrive_runtime::telemetry::TraceContext;
use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};
use tracing::Instrument;

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request's identity, for handlers.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) request_id: Arc<str>,
    pub(crate) trace: TraceContext,
    /// What the request was counted as.
    pub(crate) verdicts: Verdicts,
    /// Set by the extractor that admitted a member of staff or a service key.
    pub(crate) staff: Arc<OnceLock<Caller>>,
    method: Method,
    route: Option<MatchedPath>,
}

/// What a request was counted as, for its headers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts(Arc<Mutex<Vec<Verdict>>>);

impl Verdicts {
    fn all(&self) -> MutexGuard<'_, Vec<Verdict>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    pub(crate) fn add(&self, verdict: Verdict) {
        self.all().push(verdict);
    }

    /// Removes what was said of a limit.
    pub(crate) fn remove(&self, limit: Limit) {
        self.all().retain(|verdict| verdict.limit != limit);
    }

    /// A list with what `show` gives for each; empty if there is none.
    fn list(&self, show: impl Fn(&Verdict) -> String) -> String {
        self.all().iter().map(show).collect::<Vec<_>>().join(", ")
    }
}

/// A UUIDv7 from a generator of the thread: the system's generator costs a
/// system call for each request.
fn request_uuid() -> uuid::Uuid {
    // A clock before 1970 counts its milliseconds backwards: ids stay unique all the same.
    let millis = Utc::now().timestamp_millis().unsigned_abs();
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

/// A new id of a request.
pub(crate) fn new_request_id() -> String {
    format!("req_{}", request_uuid().simple())
}

/// Marks an answer whose error status is the answer itself: readiness.
#[derive(Clone, Copy)]
pub(crate) struct NotAProblem;

impl Identity {
    fn of(request: &Request) -> Self {
        // Of several, none is the caller's (W3C Trace Context, section 3.2.1).
        let traceparent = single(request.headers(), TRACEPARENT.as_str()).ok().flatten();
        let traceparent = traceparent.and_then(|it| it.to_str().ok());
        Self {
            request_id: new_request_id().into(),
            trace: TraceContext::continuing(traceparent),
            verdicts: Verdicts::default(),
            staff: Arc::default(),
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
        }
    }

    /// The pattern of the route.
    pub(crate) fn route(&self) -> &str {
        self.route.as_ref().map_or("unmatched", MatchedPath::as_str)
    }

    /// The member of staff, in their role, or the service key that made the request; empty for
    /// anybody else.
    pub(crate) fn user(&self) -> String {
        self.staff.get().map(Caller::audit_name).unwrap_or_default()
    }

    /// Notes a read of personal data, if staff made the request.
    pub(crate) fn shows(&self, accesses: &AccessLog, resource: &str, key: Option<&str>) {
        if self.staff.get().is_none() {
            return;
        }
        let access = Access {
            actor: &self.user(),
            resource,
            key,
            route: &format!("{} {}", self.method, self.route()),
            request_id: Some(&self.request_id),
        };
        accesses.note(access, Utc::now());
    }
}

/// Value of the first variable of a route in a path.
fn variable<'a>(route: &str, uri: &'a Uri) -> Option<&'a str> {
    let both = route.split('/').zip(uri.path().split('/'));
    both.into_iter().find(|(step, _)| step.starts_with('{')).map(|(_, value)| value)
}

/// The outermost layer.
pub(crate) async fn trace_request(
    State(records): State<ReadRecords>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let identity = Identity::of(&request);
    let uri = request.uri().clone();
    let span = tracing::debug_span!(
        "request",
        request_id = %identity.request_id,
        trace_id = identity.trace.trace_id(),
    );
    request.extensions_mut().insert(identity.clone());
    let response = next.run(request).instrument(span.clone()).await;
    let (mut response, error) = match response.extensions().get::<NotAProblem>() {
        Some(NotAProblem) => (response, None),
        None => problem::render(response, &identity.request_id),
    };
    let (method, route) = (&identity.method, identity.route());
    let shown = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
    if shown
        && matches!(*method, Method::GET | Method::HEAD)
        && let Some(&Shows::Personal(resource)) = records.shown.get(route)
    {
        identity.shows(&records.accesses, resource, variable(route, &uri));
    }
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    span.in_scope(|| {
        let elapsed_ms = elapsed.as_secs_f64() * 1_000.0;
        match error {
            Some(error) if status >= 500 => tracing::error!(
                request_id = %identity.request_id,
                trace_id = identity.trace.trace_id(),
                %method, route, status, elapsed_ms,
                code = error.code.name(),
                cause = error.cause,
                "Request failed"
            ),
            Some(error) => tracing::info!(
                request_id = %identity.request_id,
                trace_id = identity.trace.trace_id(),
                %method, route, status, elapsed_ms,
                code = error.code.name(),
                cause = error.cause,
                "Request rejected"
            ),
            None => tracing::debug!(%method, route, status, elapsed_ms, "Request answered"),
        }
    });
    metrics::histogram!(
        "exodrive_http_request_seconds",
        "method" => label(method),
        "route" => route.to_owned(),
        "status" => status.to_string()
    )
    .record(elapsed);
    let headers = response.headers_mut();
    let mut insert = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert(REQUEST_ID, &identity.request_id);
    insert(TRACEPARENT, &identity.trace.traceparent());
    let policies = identity.verdicts.list(Verdict::policy);
    if !policies.is_empty() {
        insert(HeaderName::from_static("ratelimit-policy"), &policies);
        insert(HeaderName::from_static("ratelimit"), &identity.verdicts.list(Verdict::state));
    }
    response
}

/// Name of the method as a metric label. A caller may send any word as a
/// method, and a label must be one of a few.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
