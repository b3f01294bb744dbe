//! The history of email, for auditors.

use super::problem::{ApiError, Code, Problem};
use super::{
    Api, App,
    auth::extract::Auditor,
    given::Moment,
    layers::request,
    media::prefers,
    read_answer::{limit, parse_query, time, wait_for_requested},
    readings::Room,
    replay::{self, ReplayDiff},
    state::export_budget::Spending,
};
use axum::{
    Extension, Json,
    body::Body,
    extract::{RawQuery, State},
    http::{
        HeaderMap,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use exodrive_audit::evidence::{
    EmailEvidence, Entry, EvidenceQuery, EvidenceRequest, HistoryError, Page, Scope,
};
use exodrive_domain::{email::EmailId, value::address_key};
use exodrive_replays::{Order, Until};
use futures::stream;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// The media type of JSON in lines.
const NDJSON: &str = "application/x-ndjson";
/// Emails or deliveries fetched at a time for a stream.
const STREAMED: i64 = 50;
/// Most entries fetched at a time for a stream.
const STREAMED_ENTRIES: usize = 1_000;
/// Most entries on a page of an address or a booking.
const ENTRIES: usize = 500;

/// Scope of a history, its end and its order.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct HistoryQuery {
    /// History of this email, by its id. Give one of `email`, `address` and
    /// `booking`, or a time.
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    email: Option<String>,
    /// History of every email that names this address, in any case, as sender,
    /// recipient of any kind, or reply-to.
    address: Option<String>,
    /// History of this booking, and of every email that was tagged with it.
    #[param(pattern = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
    booking: Option<String>,
    /// History of the deliveries that were stored at this time or later (RFC
    /// 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    since: Option<String>,
    /// History of the deliveries that were stored before this time (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    until: Option<String>,
    /// `received` (order in which we received the events) or `happened` (as the
    /// provider dates them). `received` if not given.
    #[param(pattern = "^(received|happened)$")]
    order: Option<String>,
    /// Only what was known at this time (RFC 3339) or position.
    #[param(inline, value_type = Option<Moment>, example = "2026-11-20T09:15:00Z")]
    at: Option<String>,
    /// Deliveries of an email or of a time, emails of an address, or entries of
    /// a booking's timeline on the page, 1 to 100. 20 if not given. However
    /// many emails, the page has at most 500 deliveries.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// A page of history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct History {
    /// Always `list`.
    object: &'static str,
    /// Entries in the requested order. A page of an address or of a booking may
    /// be short.
    data: Vec<Entry>,
    /// Evidence about each email on the page.
    emails: Vec<EmailEvidence>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// Gives the history of an email, of an address, of a booking or of a time,
/// with all its evidence.
///
/// Every delivery comes with its bytes and signed headers as received, whether
/// a present secret signed them, how often it was repeated, how often an
/// unverified sender claimed its id, and the state of the email after it. Every
/// email comes with the reads by staff. With `Accept: application/x-ndjson` all
/// pages come as one stream, an object on each line, which counts as an export.
#[utoipa::path(
    get, path = "/v1/audit/history", tag = "audit", security(("token" = []), ("service_key" = ["audit:read"])),
    params(
        HistoryQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page; or a stream with a line for each entry and each email", content(
            (History = "application/json"),
            (String = "application/x-ndjson"),
        )),
        Problem,
    ),
)]
pub(crate) async fn get_history(
    State(api): App,
    _: Auditor,
    Extension(identity): Extension<request::Identity>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mut request = evidence_request(parse_query(query)?)?;
    let evidence_query = EvidenceQuery {
        log: api.log.clone(),
        database: api.database.clone(),
        secrets: api.webhook_secrets.clone(),
    };
    let lines = prefers(&headers, NDJSON);
    if lines {
        request.limit = STREAMED;
        request.entries = STREAMED_ENTRIES;
    }
    wait_for_requested(&api, request.views(), &headers).await?;
    let room = room(&api, &request.scope).await?;
    let spending = match lines {
        true => Some(Spending::begin(&api, &identity).await?),
        false => None,
    };
    let page = evidence_query.page(&request).await?;
    let of_one = matches!(request.scope, Scope::Email(_) | Scope::Booking(_));
    if page.entries.is_empty() && of_one && request.after.is_none() {
        let detail = "The log has no event about it up to that point.";
        return Err(ApiError::new(Code::NotFound, detail));
    }
    note_accesses(&api, &identity, &request.scope, &page);
    if let Some(spending) = spending {
        let exported = (room, spending);
        return Ok(stream_of(api, identity, evidence_query, request, (page, exported)));
    }
    let history = History {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.entries,
        emails: page.emails,
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(history)).into_response())
}

/// Events that any number of emails may have together, by a guess: they are not known before.
const EVENTS_OF_MANY: u64 = 5_000;

/// Room to read a history.
async fn room(api: &Api, scope: &Scope) -> Result<Room, ApiError> {
    match scope {
        Scope::Email(id) => replay::room(api, "inbox", id.as_str()).await,
        _ => api.readings.of_events(EVENTS_OF_MANY),
    }
}

/// Notes the reads of personal data on a page.
fn note_accesses(api: &Api, identity: &request::Identity, scope: &Scope, page: &Page) {
    if let Scope::Booking(id) = scope {
        identity.shows(&api.accesses, "booking", Some(&id.to_string()));
    }
    for email in &page.emails {
        identity.shows(&api.accesses, "email", Some(&email.email_id));
    }
    for entry in &page.entries {
        if let Entry::Delivery(delivery) = entry
            && delivery.email_id.is_none()
        {
            identity.shows(&api.accesses, "delivery", Some(&delivery.position.to_string()));
        }
    }
}

/// Streams every page as lines, one page in memory at a time. If a page cannot
/// be read, the connection is cut, so that no client takes the part for the
/// whole.
fn stream_of(
    api: Arc<Api>,
    identity: request::Identity,
    evidence_query: EvidenceQuery,
    request: EvidenceRequest,
    (first, exported): (Page, (Room, Spending)),
) -> Response {
    let start = ((api, exported), identity, evidence_query, request, Some(first));
    let pages =
        stream::try_unfold(start, |(mut api, identity, evidence_query, mut request, page)| async {
            let page = match page {
                Some(page) => page,
                None if request.after.is_none() => return Ok(None),
                None => {
                    let page = evidence_query.page(&request).await?;
                    note_accesses(&api.0, &identity, &request.scope, &page);
                    page
                }
            };
            let lines = in_lines(&page);
            api.1.1.spend(lines.len()).await;
            request.after = page.next;
            Ok::<_, HistoryError>(Some((lines, (api, identity, evidence_query, request, None))))
        });
    let headers = [(CONTENT_TYPE, NDJSON), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(pages)).into_response()
}

fn in_lines(page: &Page) -> Bytes {
    let mut lines = Vec::new();
    let entries = page.entries.iter().map(serde_json::to_vec);
    for line in entries.chain(page.emails.iter().map(serde_json::to_vec)).flatten() {
        lines.extend_from_slice(&line);
        lines.push(b'\n');
    }
    lines.into()
}

fn evidence_request(query: HistoryQuery) -> Result<EvidenceRequest, ApiError> {
    let (since, until) = (time("since", query.since)?, time("until", query.until)?);
    let of_time = since.is_some() || until.is_some();
    let scope = match (query.email, query.address, query.booking) {
        (Some(email), None, None) if !of_time => Scope::Email(email_id(&email)?),
        (None, Some(address), None) if !of_time && !address.trim().is_empty() => {
            Scope::Address(address_key(&address))
        }
        (None, None, Some(booking)) if !of_time => {
            let id = booking.parse().map_err(|error: exodrive_domain::id::IdError| {
                ApiError::parameter("booking", error.to_string())
            })?;
            Scope::Booking(id)
        }
        (None, None, None) if of_time => Scope::Between(since, until),
        _ => {
            let detail = "give one of `email`, `address` and `booking`, or `since` and `until`";
            return Err(ApiError::parameter("email", detail));
        }
    };
    let order = query.order.as_deref().map(str::parse).transpose();
    let at = query.at.as_deref().map(str::parse).transpose();
    let limit = limit(query.limit)?;
    let entries = match scope {
        Scope::Email(_) => usize::try_from(limit).unwrap_or(0),
        _ => ENTRIES,
    };
    Ok(EvidenceRequest {
        scope,
        order: order
            .map_err(|error| ApiError::parameter("order", error))?
            .unwrap_or(Order::Received),
        at: at.map_err(|error| ApiError::parameter("at", error))?.unwrap_or(Until::Now),
        limit,
        entries,
        after: query.after,
    })
}

fn email_id(text: &str) -> Result<EmailId, ApiError> {
    text.parse().map_err(|error: exodrive_domain::email::EmailIdError| {
        ApiError::parameter("email", error.to_string())
    })
}

/// The two points of a comparison.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct DiffQuery {
    /// The email's id.
    #[param(required = true, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    email: Option<String>,
    /// The first point: a time (RFC 3339) or position.
    #[param(required = true, inline, value_type = Moment)]
    from: Option<String>,
    /// The second point: a time (RFC 3339) or position.
    #[param(required = true, inline, value_type = Moment)]
    to: Option<String>,
}

/// Compares an email at two times, and names the delivery that last changed
/// each field.
#[utoipa::path(
    get, path = "/v1/audit/history/diff", tag = "audit", security(("token" = []), ("service_key" = ["audit:read"])),
    params(DiffQuery),
    responses(
        (status = 200, description = "The fields that differ", body = ReplayDiff),
        Problem,
    ),
)]
pub(crate) async fn get_history_diff(
    State(api): App,
    _: Auditor,
    Extension(identity): Extension<request::Identity>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: DiffQuery = parse_query(query)?;
    let given = |name: &str, text: Option<String>| {
        text.ok_or_else(|| ApiError::parameter(name, "it is missing"))
    };
    let id = email_id(&given("email", query.email)?)?.to_string();
    let (from, to) = (given("from", query.from)?, given("to", query.to)?);
    let _room = replay::room(&api, "inbox", &id).await?;
    let diff = replay::difference(&api, "inbox", &id, (from, to)).await?;
    let missing =
        || ApiError::new(Code::NotFound, "The log has no event about it up to that point.");
    let diff = diff.ok_or_else(missing)?;
    identity.shows(&api.accesses, "email", Some(&id));
    Ok(([(CACHE_CONTROL, "no-store")], Json(diff)).into_response())
}
