//! Erasure of a person's data, for operators: planned, requested, approved by
//! another operator, followed.

use super::problem::{ApiError, Problem};
use super::{
    Api, App,
    auth::extract::Operates,
    command::{Answer, Command, EmptyBody},
    given,
    refusals::no_such_erasure,
};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use exodrive_commands::erasure::{ErasureDetail, ErasureError, ErasurePlan};
use exodrive_domain::id::ErasureId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Request to erase a person's data.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErasureRequest {
    /// The person's email address.
    #[schema(format = IdnEmail, min_length = 3, max_length = 1000)]
    email_address: String,
    /// Reason. It stays in the log, so it must hold nothing personal.
    #[schema(value_type = given::Reason)]
    reason: String,
    /// True to erase events that only mention the address, too: mail to others,
    /// other customers' bookings.
    #[serde(default)]
    include_mentions: bool,
    /// Dry run: only describe what would be erased.
    #[serde(default)]
    dry_run: bool,
}

/// A hold to be placed on a person's data, or released.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldRequest {
    /// The person's email address.
    #[schema(format = IdnEmail, min_length = 3, max_length = 1000)]
    email_address: String,
    /// Reason. It stays in the log, so it must hold nothing personal.
    #[schema(value_type = given::Reason)]
    reason: String,
    /// `false` releases the hold.
    #[serde(default = "held")]
    held: bool,
}

fn held() -> bool {
    true
}

/// Reason of a cancellation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelErasure {
    /// Reason. It stays in the log.
    #[schema(value_type = given::Reason)]
    reason: String,
}

/// A hold on a person's data.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HoldAnswer {
    /// Always `hold`.
    object: &'static str,
    /// Id of the hold. It says nothing of the address.
    id: String,
    /// True if it is placed.
    held: bool,
}

/// Every erasure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErasureList {
    /// Always `list`.
    object: &'static str,
    /// Erasures, newest first.
    data: Vec<ErasureDetail>,
}

fn id_of(text: &str) -> Result<ErasureId, ApiError> {
    text.parse().map_err(|_| no_such_erasure())
}

/// Requests the erasure of a person's data. For operators; another operator
/// approves it.
///
/// A dry run is answered 200 with an `erasure_plan`: it reads the whole log.
#[utoipa::path(
    post, path = "/v1/operator/erasures", tag = "operator", security(("token" = [])),
    request_body = ErasureRequest,
    responses(
        (status = 202, description = "Recorded; waits for an approval", body = ErasureDetail),
        (status = 200, description = "Of a dry run", body = ErasurePlan),
        (status = 409, description = "`operation_rejected`: a hold forbids it", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn request_erasure(
    State(api): App,
    _: Operates,
    command: Command<ErasureRequest>,
) -> Result<Response, ApiError> {
    let context = command.operator_context()?;
    let ErasureRequest { email_address, reason, include_mentions, dry_run } = &command.body;
    if *dry_run {
        let _room = api.readings.of_everything()?;
        let plan = api.erasures.plan(email_address, *include_mentions, |_, _| {}).await;
        return Ok(Json(plan?).into_response());
    }
    let run = async {
        let erasure =
            api.erasures.request(email_address, *include_mentions, reason, &context).await?;
        let location = format!("/v1/operator/erasures/{}", erasure.id);
        Ok(Answer::of(&erasure, erasure.position)?.begun(location))
    };
    Ok(command.once(&api, run).await?.into_response())
}

/// Approves an erasure, which a worker then executes. For operators: the one
/// who requested it may not approve it.
#[utoipa::path(
    post, path = "/v1/operator/erasures/{id}/approve", tag = "operator", security(("token" = [])),
    params(("id" = String, Path, description = "The erasure's id")),
    responses(
        (status = 200, description = "Recorded", body = ErasureDetail),
        (status = 409, description = "`operation_rejected`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn approve_erasure(
    State(api): App,
    _: Operates,
    Path(id): Path<String>,
    command: Command<EmptyBody>,
) -> Result<Response, ApiError> {
    let context = command.operator_context()?;
    answer(&api, &command, api.erasures.approve(id_of(&id)?, false, &context)).await
}

/// Cancels an erasure that is not approved yet. For operators.
#[utoipa::path(
    post, path = "/v1/operator/erasures/{id}/cancel", tag = "operator", security(("token" = [])),
    params(("id" = String, Path, description = "The erasure's id")),
    request_body = CancelErasure,
    responses(
        (status = 200, description = "Recorded", body = ErasureDetail),
        (status = 409, description = "`operation_rejected`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn cancel_erasure(
    State(api): App,
    _: Operates,
    Path(id): Path<String>,
    command: Command<CancelErasure>,
) -> Result<Response, ApiError> {
    let context = command.operator_context()?;
    answer(&api, &command, api.erasures.cancel(id_of(&id)?, &command.body.reason, &context)).await
}

async fn answer<T>(
    api: &Api,
    command: &Command<T>,
    act: impl Future<Output = Result<ErasureDetail, ErasureError>>,
) -> Result<Response, ApiError> {
    let run = async {
        let erasure = act.await?;
        Answer::of(&erasure, erasure.position)
    };
    Ok(command.once(api, run).await?.into_response())
}

/// Places a hold, which forbids the erasure of a person's data, or releases it.
/// For operators.
#[utoipa::path(
    post, path = "/v1/operator/holds", tag = "operator", security(("token" = [])),
    request_body = HoldRequest,
    responses(
        (status = 200, description = "Recorded", body = HoldAnswer),
        Problem,
    ),
)]
pub(crate) async fn set_hold(
    State(api): App,
    _: Operates,
    command: Command<HoldRequest>,
) -> Result<Json<HoldAnswer>, ApiError> {
    let context = command.operator_context()?;
    let HoldRequest { email_address, reason, held } = &command.body;
    let id = api.erasures.hold(email_address, *held, reason, &context).await?;
    Ok(Json(HoldAnswer { object: "hold", id: id.to_string(), held: *held }))
}

/// Lists every erasure, without the persons that they are about. For operators.
#[utoipa::path(
    get, path = "/v1/operator/erasures", tag = "operator", security(("token" = [])),
    responses(
        (status = 200, description = "Newest first", body = ErasureList),
        Problem,
    ),
)]
pub(crate) async fn list_erasures(
    State(api): App,
    _: Operates,
) -> Result<Json<ErasureList>, ApiError> {
    let data = api.erasures.list().await?;
    Ok(Json(ErasureList { object: "list", data }))
}

/// Gives an erasure: its progress, and the data keys that it has destroyed. For
/// operators.
#[utoipa::path(
    get, path = "/v1/operator/erasures/{id}", tag = "operator", security(("token" = [])),
    params(("id" = String, Path, description = "The erasure's id")),
    responses(
        (status = 200, description = "The erasure", body = ErasureDetail),
        Problem,
    ),
)]
pub(crate) async fn get_erasure(
    State(api): App,
    _: Operates,
    Path(id): Path<String>,
) -> Result<Json<ErasureDetail>, ApiError> {
    Ok(Json(api.erasures.get(id_of(&id)?).await?))
}
