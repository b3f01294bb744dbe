//! Reads of personal data by staff, and rejected webhooks, for auditors.

use super::problem::{ApiError, Problem};
use super::{
    App,
    auth::extract::Auditor,
    read_answer::{answer_of, begin_read, cursor, limit, parse_query, time},
};
use axum::{
    Json,
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use exodrive_log::RejectedDelivery;
use exodrive_projections::{
    Identity, RowPlace, parse_position,
    views::accesses::read::{self as accesses, Access, Filter},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use utoipa::{IntoParams, ToSchema};

/// Filter of accesses, and the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct AccessQuery {
    /// Only of this kind of resource.
    #[param(example = "email")]
    resource: Option<String>,
    /// Only of the resource with this id.
    key: Option<String>,
    /// Only by this reader.
    #[param(example = "admin:0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4")]
    actor: Option<String>,
    /// Only at this time or later (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    since: Option<String>,
    /// Only before this time (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    until: Option<String>,
    /// Rows on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// A page of accesses, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccessList {
    /// Always `list`.
    object: &'static str,
    /// The page.
    data: Vec<Access>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// Lists reads of personal data by staff, the latest first.
///
/// One row for each reader, resource and day (UTC). A read appears a second or
/// two later, and so does a read of this list. For changes, the events
/// themselves name the actor.
#[utoipa::path(
    get, path = "/v1/audit/accesses", tag = "audit", security(("token" = []), ("service_key" = ["audit:read"])),
    params(
        AccessQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = AccessList),
        Problem,
    ),
)]
pub(crate) async fn list_accesses(
    State(api): App,
    _: Auditor,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: AccessQuery = parse_query(query)?;
    let filter = Filter {
        resource: query.resource,
        key: query.key,
        actor: query.actor,
        since: time("since", query.since)?,
        until: time("until", query.until)?,
        after: cursor(query.after, RowPlace::parse)?,
        limit: limit(query.limit)?,
    };
    let mut transaction = begin_read(&api, &Identity::Auditor, &["accesses"], &headers).await?;
    let page = accesses::find_accesses(&mut transaction, &filter).await?;
    let list = AccessList {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows,
    };
    Ok(answer_of(&api, &transaction, list))
}

/// Range of time, and the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct RejectedWebhookQuery {
    /// Only at this time or later (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    since: Option<String>,
    /// Only before this time (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    until: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// A page of rejected webhooks: what was found among 20,000 of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RejectedWebhooks {
    /// Always `rejected_webhooks`.
    object: &'static str,
    /// Count for each reason. `duplicate` was answered 2xx, because the log has
    /// the delivery. The others were not verified.
    counts: BTreeMap<String, u64>,
    /// The newest of those that are counted, 100 at most, newest first.
    newest: Vec<RejectedWebhook>,
    /// True if older ones may follow on another page.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// A webhook that was rejected. Nothing of its body is stored.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RejectedWebhook {
    /// Time of receipt.
    #[serde(with = "serde_micros")]
    at: DateTime<Utc>,
    /// Reason; new values may be added.
    #[schema(example = "signature")]
    reason: String,
    /// Message id that the delivery claims, if it has the form of one.
    claimed_id: Option<String>,
    /// Size of the body in bytes; null if it was not read to its end.
    size: Option<u64>,
}

impl From<RejectedDelivery> for RejectedWebhook {
    fn from(refusal: RejectedDelivery) -> Self {
        let RejectedDelivery { at, reason, claimed_id, size } = refusal;
        Self { at, reason, claimed_id, size }
    }
}

const NEWEST: usize = 100;
/// Rejected webhooks that are looked at for a page.
const LOOKED_AT: u64 = 20_000;

/// Counts the webhooks that were rejected, and shows the newest, the newest
/// 20,000 of them on the first page.
///
/// They are stored for 90 days, a million at most. A webhook that was rejected
/// for its sender's rate is only counted by a metric.
#[utoipa::path(
    get, path = "/v1/audit/rejected-webhooks", tag = "audit", security(("token" = []), ("service_key" = ["audit:read"])),
    params(RejectedWebhookQuery),
    responses(
        (status = 200, description = "A page", body = RejectedWebhooks),
        Problem,
    ),
)]
pub(crate) async fn get_rejected_webhooks(
    State(api): App,
    _: Auditor,
    RawQuery(query): RawQuery,
) -> Result<Json<RejectedWebhooks>, ApiError> {
    let query: RejectedWebhookQuery = parse_query(query)?;
    let range = (time("since", query.since)?, time("until", query.until)?);
    let before = cursor(query.after, parse_position)?;
    let mut counts = BTreeMap::new();
    let mut newest = VecDeque::new();
    let each = |refusal: RejectedDelivery| {
        *counts.entry(refusal.reason.clone()).or_default() += 1;
        newest.push_front(RejectedWebhook::from(refusal));
        newest.truncate(NEWEST);
    };
    let next = api.log.newest_refusals(range, before, LOOKED_AT, each).await?;
    Ok(Json(RejectedWebhooks {
        object: "rejected_webhooks",
        counts,
        newest: newest.into(),
        has_more: next.is_some(),
        next_cursor: next.map(|next| next.to_string()),
    }))
}
