//! Email, for admins and auditors.

use super::problem::{ApiError, Code, Problem};
use super::{
    Api, App,
    auth::extract::EmailReader,
    given,
    read_answer::{
        MIN_POSITION, PageQuery, add_blocked_header, answer_of, begin_read, cursor, json_body,
        limit, page_of, parse_query, text, view_answer,
    },
};
use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use exodrive_domain::{
    Subject,
    email::{EmailId, Status},
};
use exodrive_projections::{
    Place, Projection, RowPlace,
    views::{
        deliveries::read as deliveries,
        email_timeline::read as email_timeline,
        inbox::{
            Inbox,
            read::{self as inbox, EmailDetail, EmailSummary, Filter},
        },
    },
};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Filter of emails, and the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct ListQuery {
    /// Only these statuses, with commas between.
    #[param(inline, value_type = Option<given::EmailStatuses>, example = "bounced,complained")]
    status: Option<String>,
    /// Only emails that have each of these words, or words that begin with them, in addresses,
    /// subject, tags or id: in any order and case, with or without accents.
    #[param(example = "anna @example.com")]
    q: Option<String>,
    /// Rows on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// A page of emails, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmailList {
    /// Always `list`.
    object: &'static str,
    /// The page.
    data: Vec<EmailSummary>,
    /// True if another page follows. A page of a search for what is common may be short, or empty,
    /// although another follows: each looks through so many emails and no more.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
    /// Number of emails of each status, whatever `status` asks for.
    counts: BTreeMap<String, i64>,
    /// False if `q` is found so often that only those among the newest 1,000 emails were counted.
    counts_complete: bool,
}

/// A page of the events of an email.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Timeline {
    /// Always `list`.
    object: &'static str,
    /// Events in the requested order.
    data: Vec<email_timeline::TimelineEntry>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// A page of the deliveries about an email.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deliveries {
    /// Always `list`.
    object: &'static str,
    /// Deliveries in log order.
    data: Vec<deliveries::Delivery>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// Order of a timeline, and the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct TimelineQuery {
    /// `happened` (as the provider dates the events) or `received` (order in
    /// which we received them). `happened` if not given.
    #[param(inline)]
    order: Option<email_timeline::Order>,
    /// Events on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// Lists email, newest first.
#[utoipa::path(
    get, path = "/v1/inbox", tag = "inbox", security(("token" = []), ("service_key" = ["inbox:read"])),
    params(
        ListQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = EmailList),
        Problem,
    ),
)]
pub(crate) async fn list_emails(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: ListQuery = parse_query(query)?;
    let filter = filter(query)?;
    let mut transaction = begin_read(&api, &reader.identity, &["inbox"], &headers).await?;
    let (page, counts) = inbox::find_emails(&mut transaction, &filter).await?;
    let list = EmailList {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows,
        counts: counts.by_status,
        counts_complete: counts.complete,
    };
    Ok(answer_of(&api, &transaction, list))
}

/// Gives an email with everything that its events report.
#[utoipa::path(
    get, path = "/v1/inbox/{email_id}", tag = "inbox", security(("token" = []), ("service_key" = ["inbox:read"])),
    params(
        ("email_id" = String, Path, description = "The provider's id"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that you hold: answered 304 while it is current"),
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "The email", body = EmailDetail, headers(
            ("ExoDrive-Blocked-At" = u64, description = "The event that the email waits behind, if one could not be folded: later ones are not in this answer yet"),
            ("X-Cache" = String, description = "`L1` from this process, `L2` from Redis, `MISS` from Postgres"),
            ("ETag" = String, description = "Changes with the email"),
            ("ExoDrive-Position" = u64, description = "The position that last changed it"),
        )),
        (status = 304, description = "Unchanged"),
        Problem,
    ),
)]
pub(crate) async fn get_email(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
    Path(email_id): Path<String>,
) -> Result<Response, ApiError> {
    let email_id = known_form(&email_id)?;
    // Redis may be behind Postgres: a caller who asks for a position gets the
    // row from Postgres.
    if !headers.contains_key(MIN_POSITION)
        && let Some((position, json, level)) = api.emails.get(email_id.as_str()).await
    {
        metrics::counter!("exodrive_cache_hits_total", "view" => "inbox", "level" => level.name())
            .increment(1);
        let etag = etag(position, &json);
        let answer = view_answer(&headers, &etag, position, json, level.name())?;
        return Ok(with_access_note(&api, "inbox", &email_id, answer));
    }
    metrics::counter!("exodrive_cache_misses_total", "view" => "inbox").increment(1);
    let mut transaction = begin_read(&api, &reader.identity, &["inbox"], &headers).await?;
    let email =
        inbox::find_email(&mut transaction, email_id.as_str()).await?.ok_or_else(no_such_email)?;
    let json = json_body(&email)?;
    let position = email.position;
    let etag = etag(position, &json);
    let answer = view_answer(&headers, &etag, position, json, "MISS")?;
    Ok(with_access_note(&api, "inbox", &email_id, answer))
}

/// Adds a header to the answer if the email waits behind a parked event.
fn with_access_note(api: &Api, view: &str, email_id: &EmailId, mut answer: Response) -> Response {
    let subject = Subject::Email(email_id.clone()).to_string();
    add_blocked_header(api, view, &[email_id.as_str(), &subject], &mut answer);
    answer
}

/// An erasure changes the answer but not the position, so the ETag covers the
/// answer too.
fn etag(position: u64, json: &[u8]) -> String {
    let digest = digest(&SHA256, json);
    let digest = hex::encode(&digest.as_ref()[..8]);
    format!("\"{}-{digest}-{position}\"", Inbox::VERSION)
}

/// Lists the events of an email.
#[utoipa::path(
    get, path = "/v1/inbox/{email_id}/timeline", tag = "inbox", security(("token" = []), ("service_key" = ["inbox:read"])),
    params(
        ("email_id" = String, Path, description = "The provider's id"),
        TimelineQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = Timeline),
        Problem,
    ),
)]
pub(crate) async fn get_timeline(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
    Path(email_id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: TimelineQuery = parse_query(query)?;
    let order = query.order.unwrap_or(email_timeline::Order::Happened);
    let (limit, after) = (limit(query.limit)?, cursor(query.after, Place::parse)?);
    let email_id = known_form(&email_id)?;
    let mut transaction = begin_read(&api, &reader.identity, &["email_timeline"], &headers).await?;
    let of_page = (limit, after.as_ref());
    let page =
        email_timeline::timeline_of_email(&mut transaction, email_id.as_str(), order, of_page)
            .await?;
    if page.rows.is_empty() && after.is_none() {
        return Err(no_such_email());
    }
    let list = Timeline {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows,
    };
    let answer = Json(list).into_response();
    Ok(with_access_note(&api, "email_timeline", &email_id, answer))
}

/// Lists the deliveries about an email: none about one that was imported.
#[utoipa::path(
    get, path = "/v1/inbox/{email_id}/deliveries", tag = "deliveries", security(("token" = []), ("service_key" = ["inbox:read"])),
    params(
        ("email_id" = String, Path, description = "The provider's id"),
        PageQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = Deliveries),
        Problem,
    ),
)]
pub(crate) async fn get_deliveries(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
    Path(email_id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (limit, after) = page_of(query)?;
    let email_id = known_form(&email_id)?;
    let views = &["deliveries", "inbox"];
    let mut transaction = begin_read(&api, &reader.identity, views, &headers).await?;
    let of_page = (limit, after.as_ref());
    let page =
        deliveries::deliveries_of_email(&mut transaction, email_id.as_str(), of_page).await?;
    if page.rows.is_empty() {
        let email = inbox::find_email(&mut transaction, email_id.as_str()).await?;
        email.ok_or_else(no_such_email)?;
    }
    let list = Deliveries {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows,
    };
    Ok(answer_of(&api, &transaction, list))
}

fn known_form(email_id: &str) -> Result<EmailId, ApiError> {
    email_id.parse().map_err(|_| no_such_email())
}

fn no_such_email() -> ApiError {
    ApiError::new(Code::NotFound, "No event about an email of this id has been projected.")
}

fn filter(query: ListQuery) -> Result<Filter, ApiError> {
    let limit = limit(query.limit)?;
    let after = cursor(query.after, RowPlace::parse)?;
    let statuses: Vec<String> = query
        .status
        .iter()
        .flat_map(|statuses| statuses.split(','))
        .map(|status| status.trim().to_owned())
        .filter(|status| !status.is_empty())
        .collect();
    let known = |status: &String| Status::ALL.iter().any(|known| known.name() == status);
    if let Some(unknown) = statuses.iter().find(|status| !known(status)) {
        let mut names: Vec<_> = Status::ALL.iter().map(|status| status.name()).collect();
        names.dedup();
        let detail = format!("{unknown:?} is not one of {}", names.join(", "));
        return Err(ApiError::parameter("status", detail));
    }
    let text = text(query.q);
    Ok(Filter { statuses, text, limit, after })
}
