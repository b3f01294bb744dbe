//! Projections and their rebuilds for operators. Every command is appended as
//! an event; the workers apply it.

use super::problem::{ApiError, Code, Problem};
use super::{
    Api, App,
    auth::extract::Operates,
    command::{Answer, Command, EmptyBody},
    given,
    layers::{load::held, request},
    read_answer::{limit, parse_query},
};
use axum::{
    Extension, Json,
    extract::{Path, RawQuery, State},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use chrono::Utc;
use exodrive_commands::operations::{
    CommandReceipt, Job, OperationRejection, OperatorError, ProjectionCommand, ProjectionDetails,
    ProjectionStatus, operation_id,
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, time::Duration};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Rebuilds that a user may follow at a time.
pub const FOLLOWED: usize = 4;
/// Seconds after which one who follows too many may ask again.
const RETRY_AFTER: u64 = 5;
/// Time after which a stream ends; whoever still follows asks again.
const LONGEST_STREAM: Duration = Duration::from_secs(15 * 60);

/// Every projection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectionList {
    /// Always `list`.
    object: &'static str,
    /// Projections by name.
    data: Vec<ProjectionStatus>,
}

/// The latest rebuilds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RebuildList {
    /// Always `list`.
    object: &'static str,
    /// Rebuilds, newest first.
    data: Vec<Job>,
    /// True if there are earlier ones.
    has_more: bool,
}

/// Filter of rebuilds.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct RebuildQuery {
    /// Only of this projection.
    projection: Option<String>,
    /// Rows on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
}

/// Request for a rebuild.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RebuildRequest {
    /// Reason. It stays in the log.
    #[schema(value_type = given::Reason)]
    reason: String,
    /// Only this row, in place.
    #[schema(min_length = 1, max_length = 1000)]
    key: Option<String>,
    /// Only rows that an event at this position or later touches.
    #[schema(maximum = 9_223_372_036_854_775_807_i64)]
    from_position: Option<u64>,
    /// Number of partitions that the keys are split into from then on, 1 to 64.
    #[schema(minimum = 1, maximum = 64)]
    partitions: Option<u32>,
    /// Swap although rows differ from the present ones.
    #[serde(default)]
    accept_differences: bool,
    /// Dry run: only describe the effect.
    #[serde(default)]
    dry_run: bool,
}

/// A command that needs a reason.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReasonedRequest {
    /// Reason. It stays in the log.
    #[schema(value_type = given::Reason)]
    reason: String,
    /// Dry run: only describe the effect.
    #[serde(default)]
    dry_run: bool,
}

/// A command that needs no reason.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PlainRequest {
    /// Reason, for the record.
    #[schema(value_type = given::OptionalReason)]
    reason: String,
    /// Dry run: only describe the effect.
    dry_run: bool,
}

/// Parked events to retry.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryRequest {
    /// Only the events of this key; without it all of them.
    #[schema(min_length = 1, max_length = 1000)]
    key: Option<String>,
    /// Reason, for the record.
    #[schema(value_type = given::OptionalReason)]
    reason: String,
    /// Dry run: only describe the effect.
    dry_run: bool,
}

/// An event to skip, and the row that it is left out of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SkipRequest {
    /// The parked key.
    #[schema(min_length = 1, max_length = 1000)]
    key: String,
    /// Position of the first parked event of the key.
    #[schema(maximum = 9_223_372_036_854_775_807_i64)]
    position: u64,
    /// Reason. It stays in the log.
    #[schema(value_type = given::Reason)]
    reason: String,
    /// Dry run: only describe the effect.
    #[serde(default)]
    dry_run: bool,
}

/// Gives the status of every projection. For operators.
#[utoipa::path(
    get, path = "/v1/operator/projections", tag = "operator", security(("token" = [])),
    responses(
        (status = 200, description = "By name", body = ProjectionList),
        Problem,
    ),
)]
pub(crate) async fn list_projections(
    State(api): App,
    _: Operates,
) -> Result<Json<ProjectionList>, ApiError> {
    let data = api.operator.status().await?;
    Ok(Json(ProjectionList { object: "list", data }))
}

/// Gives a projection: generations, last rebuilds, parked events. For operators.
#[utoipa::path(
    get, path = "/v1/operator/projections/{name}", tag = "operator", security(("token" = [])),
    params(("name" = String, Path, description = "The projection")),
    responses(
        (status = 200, description = "The projection", body = ProjectionDetails),
        Problem,
    ),
)]
pub(crate) async fn get_projection(
    State(api): App,
    _: Operates,
    Path(name): Path<String>,
) -> Result<Json<ProjectionDetails>, ApiError> {
    Ok(Json(api.operator.show(&name).await?))
}

/// Records a command, or describes its effect in a dry run.
async fn run_command<T>(
    api: &Api,
    name: &str,
    command: &Command<T>,
    (act, reason, dry_run): (ProjectionCommand, &str, bool),
) -> Result<Response, ApiError> {
    let context = command.operator_context()?;
    let id = operation_id(&context);
    let is_job = matches!(act, ProjectionCommand::Rebuild { .. } | ProjectionCommand::Rollback);
    let run = async {
        let location = |id: &str| format!("/v1/operator/rebuilds/{id}");
        if is_job && !dry_run {
            // This is the same request, and its answer was lost.
            let before = api.operator.database().rebuild(id).await;
            if let Some(before) = before? {
                let job = Job::from(before);
                let applied = api.operator.database().applied_position().await?;
                let answer = Answer::of(&job, applied)?.begun(location(&job.id));
                return Ok(answer.replayed(true));
            }
        }
        let plan = api.operator.plan(name, &act, reason).await?;
        if dry_run {
            let end = api.log.last_position().await?;
            return Answer::of(&CommandReceipt::of(&plan, None), end);
        }
        let recorded = api.operator.append_planned(&plan, &context).await?;
        if is_job {
            let actor = context.actor_name();
            let job = api.operator.job(&plan, &actor, &recorded).await;
            // It is recorded: that the database does not answer changes nothing.
            let job = job.unwrap_or_else(|_| Job::recorded(&plan.event, &actor, recorded.id));
            return Ok(Answer::of(&job, recorded.position)?.begun(location(&job.id)));
        }
        Answer::of(&CommandReceipt::of(&plan, Some(&recorded)), recorded.position)
    };
    Ok(command.once(api, run).await?.into_response())
}

macro_rules! projection_command_routes {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $path:literal $body:ty => [$($status:literal $answer:ty, $what:literal;)+] |$input:ident| $act:expr;
    )*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(
            post, path = $path, tag = "operator", security(("token" = [])),
            params(
                ("name" = String, Path, description = "The projection"),
                ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
            ),
            request_body = $body,
            responses(
                $((status = $status, description = $what, body = $answer),)+
                (status = 409, description = "`rebuild_in_progress` or `operation_rejected`", body = Problem, content_type = "application/problem+json"),
                Problem,
            ),
        )]
        pub(crate) async fn $name(
            State(api): App,
            _: Operates,
            Path(name): Path<String>,
            command: Command<$body>,
        ) -> Result<Response, ApiError> {
            let $input = &command.body;
            let act = ($act, $input.reason.as_str(), $input.dry_run);
            run_command(&api, &name, &command, act).await
        }
    )*};
}

projection_command_routes! {
    /// Rebuilds a projection beside what readers see, compares, and swaps. A
    /// job: follow it under `Location`. For operators.
    rebuild_projection "/v1/operator/projections/{name}/rebuild" RebuildRequest => [202 Job, "Recorded"; 200 CommandReceipt, "Of a dry run";] |body| ProjectionCommand::Rebuild {
        key: body.key.clone(),
        from_position: body.from_position,
        partitions: body.partitions,
        accept_differences: body.accept_differences,
    };
    /// Shows readers the previous generation. A job: follow it under
    /// `Location`. For operators.
    rollback_projection "/v1/operator/projections/{name}/rollback" ReasonedRequest => [202 Job, "Recorded"; 200 CommandReceipt, "Of a dry run";] |body| ProjectionCommand::Rollback;
    /// Stops folding; readers see the rows of that moment. For operators.
    pause_projection "/v1/operator/projections/{name}/pause" ReasonedRequest => [200 CommandReceipt, "Recorded; or what a dry run would do";] |body| ProjectionCommand::Pause;
    /// Resumes folding. For operators.
    resume_projection "/v1/operator/projections/{name}/resume" PlainRequest => [200 CommandReceipt, "Recorded; or what a dry run would do";] |body| ProjectionCommand::Resume;
    /// Retries parked events in order. For operators.
    retry_parked "/v1/operator/projections/{name}/retry" RetryRequest => [200 CommandReceipt, "Recorded; or what a dry run would do";] |body| ProjectionCommand::Retry { key: body.key.clone() };
    /// Skips the event that blocks a key: leaves it out of the row, and folds
    /// the events behind it. For operators.
    skip_event "/v1/operator/projections/{name}/skip" SkipRequest => [200 CommandReceipt, "Recorded; or what a dry run would do";] |body| ProjectionCommand::Skip {
        key: body.key.clone(),
        position: body.position,
    };
    /// Drops the generations that readers no longer see. For operators.
    prune_generations "/v1/operator/projections/{name}/prune" PlainRequest => [200 CommandReceipt, "Recorded; or what a dry run would do";] |body| ProjectionCommand::Prune;
}

/// Lists the latest rebuilds and rollbacks, newest first. For operators.
#[utoipa::path(
    get, path = "/v1/operator/rebuilds", tag = "operator", security(("token" = [])),
    params(RebuildQuery),
    responses(
        (status = 200, description = "Newest first", body = RebuildList),
        Problem,
    ),
)]
pub(crate) async fn list_rebuilds(
    State(api): App,
    _: Operates,
    RawQuery(query): RawQuery,
) -> Result<Json<RebuildList>, ApiError> {
    let query: RebuildQuery = parse_query(query)?;
    let limit = limit(query.limit)?;
    let rows = api.operator.database().rebuilds(query.projection.as_deref(), limit + 1).await?;
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > kept;
    let data = rows.into_iter().take(kept).map(Job::from).collect();
    Ok(Json(RebuildList { object: "list", data, has_more }))
}

async fn find_job(api: &Api, id: &str) -> Result<Job, ApiError> {
    let id: Uuid = id.parse().map_err(|_| OperatorError::NoSuchRebuild)?;
    Ok(api.operator.find_job(id).await?)
}

/// Gives a rebuild. For operators.
#[utoipa::path(
    get, path = "/v1/operator/rebuilds/{id}", tag = "operator", security(("token" = [])),
    params(("id" = String, Path, description = "The rebuild's id")),
    responses(
        (status = 200, description = "The rebuild", body = Job),
        Problem,
    ),
)]
pub(crate) async fn get_rebuild(
    State(api): App,
    _: Operates,
    Path(id): Path<String>,
) -> Result<Json<Job>, ApiError> {
    find_job(&api, &id).await.map(Json)
}

/// Swaps a rebuild that waits because rows differ. For operators.
#[utoipa::path(
    post, path = "/v1/operator/rebuilds/{id}/accept", tag = "operator", security(("token" = [])),
    params(("id" = String, Path, description = "The rebuild's id")),
    responses(
        (status = 200, description = "Recorded", body = CommandReceipt),
        (status = 409, description = "`operation_rejected`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn accept_rebuild(
    State(api): App,
    _: Operates,
    Path(id): Path<String>,
    command: Command<EmptyBody>,
) -> Result<Response, ApiError> {
    end(&api, &id, &command, ProjectionCommand::Accept).await
}

/// Cancels a rebuild; readers go on seeing the present rows. For operators.
#[utoipa::path(
    post, path = "/v1/operator/rebuilds/{id}/cancel", tag = "operator", security(("token" = [])),
    params(("id" = String, Path, description = "The rebuild's id")),
    responses(
        (status = 200, description = "Recorded", body = CommandReceipt),
        (status = 409, description = "`operation_rejected`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn cancel_rebuild(
    State(api): App,
    _: Operates,
    Path(id): Path<String>,
    command: Command<EmptyBody>,
) -> Result<Response, ApiError> {
    end(&api, &id, &command, ProjectionCommand::Cancel).await
}

async fn end(
    api: &Api,
    id: &str,
    command: &Command<EmptyBody>,
    act: ProjectionCommand,
) -> Result<Response, ApiError> {
    let job = find_job(api, id).await?;
    if job.is_over() {
        let (rebuild, state) = (id.to_owned(), job.state);
        return Err(OperatorError::from(OperationRejection::Over { rebuild, state }).into());
    }
    run_command(api, &job.projection, command, (act, "", false)).await
}

/// An event of the stream. Only for the contract.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct RebuildEvent {
    /// Always `rebuild`.
    event: String,
    /// The rebuild, as JSON.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// Follows a rebuild: an event `rebuild` for every change of state or progress.
/// The stream ends after the last one, after 15 minutes, when the token ends, or when the user is signed out.
/// A user follows four at a time. For operators.
#[utoipa::path(
    get, path = "/v1/operator/rebuilds/{id}/events", tag = "operator", security(("token" = [])),
    params(("id" = String, Path, description = "The rebuild's id")),
    responses(
        (status = 200, description = "Server-sent events, each with the rebuild (`Job`) as data", body = RebuildEvent, content_type = "text/event-stream"),
        Problem,
    ),
)]
pub(crate) async fn follow_rebuild(
    State(api): App,
    _: Operates,
    Extension(identity): Extension<request::Identity>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id: Uuid = id.parse().map_err(|_| OperatorError::NoSuchRebuild)?;
    let place = api.followers.take(&identity.user()).ok_or_else(|| {
        let detail = format!("You follow {FOLLOWED} rebuilds already: end one of these requests.");
        let mut error = ApiError::new(Code::Busy, detail);
        error.retry_after = Some(RETRY_AFTER);
        error
    })?;
    let feed = api.rebuild_feeds.follow(id).await?;
    let changes = stream::unfold((feed, false), |(mut feed, begun)| async move {
        if begun {
            feed.changed().await.ok()?;
        }
        let event = Event::default().event("rebuild").json_data(&*feed.borrow_and_update()).ok()?;
        Some((Ok::<_, Infallible>(event), (feed, true)))
    });
    let ends = identity.staff.get().map_or(0, |caller| caller.ends);
    let left = ends.saturating_sub(u64::try_from(Utc::now().timestamp()).unwrap_or(u64::MAX));
    let life = Duration::from_secs(left).min(LONGEST_STREAM);
    let credentials = api.credentials.clone();
    let over = async move {
        if let Some(caller) = identity.staff.get() {
            tokio::select! {
                () = tokio::time::sleep(life) => {}
                () = credentials.signed_out(caller) => {}
            }
        }
    };
    let changes = changes.take_until(Box::pin(over));
    let answer = Sse::new(changes).keep_alive(KeepAlive::default()).into_response();
    Ok(held(answer, place))
}
