//! Time travel, for admins and auditors: a row of any view at an earlier
//! position or time, folded from the log. Rows hold personal data, so operators
//! get none.

use super::problem::{ApiError, Code, Problem};
use super::{
    Api, App,
    auth::extract::EmailReader,
    given::Moment,
    layers::request,
    read_answer::{cursor, limit, parse_query},
    readings::Room,
};
use axum::{
    Extension, Json,
    extract::{Path, RawQuery, State},
    http::header::CACHE_CONTROL,
    response::{IntoResponse, Response},
};
use exodrive_domain::time::serde_micros;
use exodrive_projections::{Identity, Projection, parse_position, views::accesses::Accesses};
use exodrive_replays::{self as replays, RowHistory, Until, Window};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

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
    /// Events on the page, 1 to 100. 20 if not given. Not for a comparison.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
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
    /// Number of events up to then that touch the row.
    events_count: u64,
    /// A page of them, in log order.
    events: Vec<ReplayEvent>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
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
    /// The first 20 fields of the row that it changed, as JSON pointers; an
    /// empty pointer means the whole row. Members of sets are named one by one.
    changed: Vec<String>,
    /// Number of all fields that it changed.
    changed_count: u64,
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
    /// The first 1,000 fields that differ.
    fields: Vec<ReplayField>,
    /// Number of all fields that differ.
    fields_count: u64,
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
/// needs no database. The events that made it come in pages; on each the row is
/// the same. Send a slash in a key as `%2F`.
#[utoipa::path(
    get, path = "/v1/replay/{view}/{key}", tag = "replay", security(("token" = []), ("service_key" = ["audit:read"])),
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
    if replays::reads_all(&view, &key).is_none() {
        let known = exodrive_projections::names().join(", ");
        let detail = format!("There is no such view; there are {known}.");
        return Err(ApiError::new(Code::NotFound, detail));
    }
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
    if points.is_some() {
        for (name, given) in [("limit", &query.limit), ("after", &query.after)] {
            if given.is_some() {
                let detail = "it is for the events of one point: a comparison shows none";
                return Err(ApiError::parameter(name, detail));
            }
        }
    }
    let window = window(query.limit, query.after)?;
    let shown = exodrive_projections::view(&view).and_then(|it| (it.personal)(&key).resource());
    let shown = shown.map(|(resource, id)| (resource, id.map(str::to_owned)));
    let _room = room(&api, &view, &key).await?;
    let answer = match points {
        None => {
            let until = at.unwrap_or(Until::Now);
            let point = (until, window);
            let history = replays::row_history(&api.log, &view, &key, point, &|_, _| {}).await;
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
        fields_count: compared.fields_count,
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
        changed_count: it.changed_count,
        error: it.error,
    };
    let last = history.events.last().map(|event| event.position.to_string());
    Replay {
        object: "replay",
        view,
        key,
        at,
        position: history.position,
        historical: true,
        state: history.state,
        events_count: history.events_count,
        next_cursor: last.filter(|_| history.has_more),
        has_more: history.has_more,
        events: history.events.into_iter().map(event).collect(),
    }
}

fn point(name: &str, text: &str) -> Result<Until, ApiError> {
    text.parse().map_err(|error| ApiError::parameter(name, error))
}

/// The page that is asked for.
fn window(requested: Option<String>, after: Option<String>) -> Result<Window, ApiError> {
    let limit = usize::try_from(limit(requested)?).unwrap_or(0);
    let after = cursor(after, parse_position)?;
    Ok(Window { after: after.unwrap_or(0), limit })
}

/// Room to read the history of a key.
pub(super) async fn room(api: &Api, view: &str, key: &str) -> Result<Room, ApiError> {
    if replays::reads_all(view, key) == Some(true) {
        return api.readings.of_everything();
    }
    api.readings.of_events(replays::events_of(&api.log, view, key).await?)
}
