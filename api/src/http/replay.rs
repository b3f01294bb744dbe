//! Time travel, for admins and auditors: a row of any view at an earlier
//! position or time, folded from the log. Rows hold personal data, so operators
//! get none.

use super::problem::{ApiError, Code, Problem};
use super::{
    Api, App, auth::extract::EmailReader, given::Moment, layers::request, read_answer::parse_query,
};
use axum::{
    Extension, Json,
    extract::{Path, RawQuery, State},
    http::header::CACHE_CONTROL,
    response::{IntoResponse, Response},
};
use exodrive_domain::time::serde_micros;
use exodrive_projections::{Identity, Projection, views::accesses::Accesses};
use exodrive_replays::{self as replays, RowHistory, Until};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::SemaphorePermit;
use utoipa::{IntoParams, ToSchema};

/// Largest number of concurrent readings of everything that a view is made of:
/// each takes as long as the log is.
pub const FULL_READINGS: usize = 2;

/// The point of a replay, or the two points of a comparison.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct ReplayQuery {
    /// Replay up to this time (RFC 3339, by when we received the events) or
    /// position. Now if not given.
    #[param(inline, value_type = Option<Moment>, example = "2026-11-20T09:15:00Z")]
    at: Option<String>,
    /// First point of a comparison: a time or position.
    #[param(inline, value_type = Option<Moment>)]
    from: Option<String>,
    /// Second point of a comparison: a time or position.
    #[param(inline, value_type = Option<Moment>)]
    to: Option<String>,
}

/// A row at one point, or its differences between two.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// The row at one point.
    At(Replay),
    /// The differences between two points.
    Between(ReplayDiff),
}

/// A row of a view at one point, and the events that made it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replay {
    /// Always `replay`.
    object: &'static str,
    /// The view.
    view: String,
    /// The row's key.
    key: String,
    /// The requested point.
    at: Option<String>,
    /// Position that had last changed the row; 0 if the row had never existed.
    position: u64,
    /// Always true: this is not the present row, though it may be equal.
    historical: bool,
    /// The row; null if it did not exist.
    #[schema(value_type = Option<Object>)]
    state: Option<Value>,
    /// Every event up to then that touches the row, in log order.
    events: Vec<ReplayEvent>,
}

/// An event that touches a row.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayEvent {
    /// Position in the log.
    position: u64,
    /// Type: the provider's, or ours.
    #[serde(rename = "type")]
    kind: String,
    /// Its id.
    event_id: String,
    /// Time at which we received it.
    #[serde(with = "serde_micros")]
    at: chrono::DateTime<chrono::Utc>,
    /// The actor of the event.
    actor: Option<String>,
    /// Fields of the row that it changed, as JSON pointers; an empty pointer
    /// means the whole row.
    changed: Vec<String>,
    /// Error, if it could not be folded. The row is then as before the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The differences of a row of a view between two points.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayDiff {
    /// Always `replay_diff`.
    object: &'static str,
    /// The view.
    view: String,
    /// The row's key.
    key: String,
    /// The first point, as requested.
    from: String,
    /// The second point, as requested.
    to: String,
    /// Always true.
    historical: bool,
    /// The position that had last changed the row at the first point.
    from_position: u64,
    /// Position that had last changed the row at the second point.
    to_position: u64,
    /// The fields that differ.
    fields: Vec<ReplayField>,
}

/// A field that differs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayField {
    /// JSON pointer of the field, empty for the whole row.
    pointer: String,
    /// Value at the first point; null if the field did not exist.
    #[schema(value_type = Value)]
    old: Option<Value>,
    /// Value at the second point; null if the field did not exist.
    #[schema(value_type = Value)]
    new: Option<Value>,
    /// Position of the event that last changed it between the two points.
    position: Option<u64>,
    /// That event's type.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Gives a row of any view at a time or position, or its differences between
/// two.
///
/// It is folded from the log by the same fold that maintains the view, so it
/// needs no database. Send a slash in a key as `%2F`.
#[utoipa::path(
    get, path = "/v1/replay/{view}/{key}", tag = "replay", security(("token" = [])),
    params(
        ("view" = String, Path, description = "The view, for example `bookings`"),
        ("key" = String, Path, description = "The row's key in it, for example a booking's id"),
        ReplayQuery,
    ),
    responses(
        (status = 200, description = "The row; with `from` and `to`, the differences", body = Answer,
            headers(("Cache-Control" = String, description = "`no-store`"))),
        Problem,
    ),
)]
pub(crate) async fn get_replay(
    State(api): App,
    reader: EmailReader,
    Extension(identity): Extension<request::Identity>,
    Path((view, key)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query: ReplayQuery = parse_query(query)?;
    let Some(reads_all) = replays::reads_all(&view, &key) else {
        let known = exodrive_projections::names().join(", ");
        let detail = format!("There is no such view; there are {known}.");
        return Err(ApiError::new(Code::NotFound, detail));
    };
    if view == Accesses::NAME && reader.identity != Identity::Auditor {
        return Err(ApiError::new(Code::Forbidden, "Who read what is shown to auditors only."));
    }
    let at = query.at.as_deref().map(|text| point("at", text)).transpose()?;
    let points = match (query.from, query.to) {
        (None, None) => None,
        (Some(_), Some(_)) if at.is_some() => {
            let detail = "it is given beside `from` and `to`: ask for one point, or for two";
            return Err(ApiError::parameter("at", detail));
        }
        (Some(from), Some(to)) => Some((from, to)),
        (Some(_), None) => return Err(ApiError::parameter("to", "it is missing beside `from`")),
        (None, Some(_)) => return Err(ApiError::parameter("from", "it is missing beside `to`")),
    };
    let shown = exodrive_projections::view(&view).and_then(|it| (it.personal)(&key).resource());
    let shown = shown.map(|(resource, id)| (resource, id.map(str::to_owned)));
    let _permit = if reads_all { Some(permit(&api)?) } else { None };
    let quiet = |_, _| {};
    let answer = match points {
        None => {
            let until = at.unwrap_or(Until::Now);
            let history = replays::row_history(&api.log, &view, &key, until, &quiet).await;
            history?.map(|history| Answer::At(replay(view, key, query.at, history)))
        }
        Some(points) => difference(&api, &view, &key, points).await?.map(Answer::Between),
    };
    let missing = || {
        ApiError::new(Code::NotFound, "The log has no event about this key of the view up to then.")
    };
    let answer = answer.ok_or_else(missing)?;
    if let Some((resource, id)) = shown {
        identity.shows(&api.accesses, resource, id.as_deref());
    }
    Ok(([(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Differences of a row between two points; `None` if the log has no event
/// about it up to either.
pub(super) async fn difference(
    api: &Api,
    view: &str,
    key: &str,
    (from, to): (String, String),
) -> Result<Option<ReplayDiff>, ApiError> {
    let points = (point("from", &from)?, point("to", &to)?);
    let compared = replays::compare(&api.log, view, key, points, &|_, _| {}).await;
    let fields = |it: replays::FieldChange| ReplayField {
        pointer: it.change.pointer,
        old: it.change.old,
        new: it.change.new,
        position: it.position,
        kind: it.kind,
    };
    Ok(compared?.map(|compared| ReplayDiff {
        object: "replay_diff",
        view: view.to_owned(),
        key: key.to_owned(),
        from,
        to,
        historical: true,
        from_position: compared.before.position,
        to_position: compared.after.position,
        fields: compared.fields.into_iter().map(fields).collect(),
    }))
}

fn replay(view: String, key: String, at: Option<String>, history: RowHistory) -> Replay {
    let event = |it: replays::HistoryEvent| ReplayEvent {
        position: it.position,
        kind: it.kind,
        event_id: it.event_id,
        at: it.at,
        actor: it.actor,
        changed: it.changed,
        error: it.error,
    };
    Replay {
        object: "replay",
        view,
        key,
        at,
        position: history.position,
        historical: true,
        state: history.state,
        events: history.events.into_iter().map(event).collect(),
    }
}

fn point(name: &str, text: &str) -> Result<Until, ApiError> {
    text.parse().map_err(|error| ApiError::parameter(name, error))
}

fn permit(api: &Api) -> Result<SemaphorePermit<'_>, ApiError> {
    api.full_readings.try_acquire().map_err(|_| {
        let detail = "Others are reading all of the log for a history; this one would have to.";
        let mut error = ApiError::new(Code::Busy, detail);
        error.retry_after = Some(5);
        error
    })
}
