//! Service keys and the sign-out of users, for admins.

use super::problem::{ApiError, Problem};
use super::{
    App,
    auth::extract::Manages,
    command::{Answer, Command},
    given,
    refusals::{no_such_key, no_such_user, validation},
};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use exodrive_commands::credentials::{NewKey, shown_prefix};
use exodrive_domain::{
    credential::{Scope, ServiceKey},
    id::KeyId,
    time::{self, serde_micros},
    value::{InvalidField, UserId},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// A service key to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRequest {
    /// What it is for: the program that uses it, for example.
    name: given::Label,
    /// What it may do. Each operation names the scope that it needs.
    #[schema(value_type = Vec<given::KeyScope>, min_items = 1, max_items = 7)]
    scopes: Vec<String>,
    /// The time from which on it is refused (RFC 3339). Not given: never.
    #[schema(value_type = Option<DateTime<Utc>>)]
    expires_at: Option<String>,
}

/// Why something is revoked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeRequest {
    /// Reason. It stays in the log, so it must hold nothing personal.
    reason: given::Reason,
}

/// A service key, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct KeyDetail {
    /// Always `service_key`.
    pub(crate) object: &'static str,
    /// Its id: the actor of what it does is `key:` and this.
    pub(crate) id: String,
    /// What it is for.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) scopes: Vec<String>,
    /// The beginning of its text, by which it is known again.
    #[schema(example = "exo_sk_0198f3a6")]
    pub(crate) prefix: String,
    /// `active`, `expired` or `revoked`.
    pub(crate) status: &'static str,
    /// The time at which it was created.
    #[serde(with = "serde_micros")]
    pub(crate) created_at: DateTime<Utc>,
    /// Who created it.
    #[schema(example = "admin:0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4")]
    pub(crate) created_by: Option<String>,
    /// The time from which on it is refused.
    #[serde(with = "serde_micros::option")]
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// The time at which it was revoked.
    #[serde(with = "serde_micros::option")]
    pub(crate) revoked_at: Option<DateTime<Utc>>,
    /// Who revoked it.
    pub(crate) revoked_by: Option<String>,
    /// Their reason.
    pub(crate) revoked_because: Option<String>,
    /// Position of the event that last changed it.
    pub(crate) position: u64,
}

impl KeyDetail {
    /// The key as it stands at a time.
    pub(crate) fn of(key: &ServiceKey, now: DateTime<Utc>) -> Self {
        let revoked = key.revoked.as_ref();
        Self {
            object: "service_key",
            id: key.id.to_string(),
            name: key.name.clone(),
            scopes: key.scopes.clone(),
            prefix: shown_prefix(key.id),
            status: match revoked {
                Some(_) => "revoked",
                None if key.is_expired(now) => "expired",
                None => "active",
            },
            created_at: key.created_at,
            created_by: key.created_by.clone(),
            expires_at: key.expires_at,
            revoked_at: revoked.map(|it| it.at),
            revoked_by: revoked.and_then(|it| it.by.clone()),
            revoked_because: revoked.map(|it| it.reason.clone()),
            position: key.position,
        }
    }
}

/// A service key that was created, with its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct NewKeyDetail {
    #[serde(flatten)]
    pub(crate) key: KeyDetail,
    /// The whole key, for `Authorization: Bearer`. It is shown this once and stored nowhere: null
    /// in the answer to a repeat, whoever lost the first one revokes the key and creates another.
    pub(crate) secret: Option<String>,
}

/// Every service key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyList {
    /// Always `list`.
    object: &'static str,
    /// Keys, the newest first, also those that are revoked.
    data: Vec<KeyDetail>,
}

/// A user was signed out.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignOutDetail {
    /// Always `sign_out`.
    object: &'static str,
    /// The user.
    user_id: String,
    /// Tokens that were issued to them before this time are refused.
    #[serde(with = "serde_micros")]
    issued_before: DateTime<Utc>,
}

/// A key to be created, as the domain has it.
fn new_key(body: &KeyRequest) -> Result<NewKey, ApiError> {
    let mut faults = Vec::new();
    let mut scopes = BTreeSet::new();
    for (index, name) in body.scopes.iter().enumerate() {
        match name.parse::<Scope>() {
            Ok(scope) => {
                scopes.insert(scope);
            }
            Err(error) => {
                faults.push(InvalidField::new(format!("/scopes/{index}"), error.to_string()));
            }
        }
    }
    if !(1..=Scope::ALL.len()).contains(&body.scopes.len()) {
        faults.push(InvalidField::new("/scopes", "must name 1 to 7 scopes"));
    }
    let expires_at = body.expires_at.as_deref().map(|text| {
        time::parse(text)
            .ok_or_else(|| InvalidField::new("/expires_at", "must be a time (RFC 3339)"))
    });
    let expires_at = expires_at.transpose().unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    if faults.is_empty() {
        Ok(NewKey { name: body.name.read("/name")?, scopes, expires_at })
    } else {
        Err(validation(faults))
    }
}

/// Creates a service key, by which a program asks. For admins.
///
/// The key is known to this process at once, and to every other one within a second.
#[utoipa::path(
    post, path = "/v1/service-keys", tag = "access", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer")),
    request_body = KeyRequest,
    responses(
        (status = 201, description = "The key, with its secret", body = NewKeyDetail),
        Problem,
    ),
)]
pub(crate) async fn create_service_key(
    State(api): App,
    _: Manages,
    command: Command<KeyRequest>,
) -> Result<Response, ApiError> {
    let new = new_key(&command.body)?;
    let mut text = None;
    let run = async {
        let (done, made) = api.credential_commands.create_key(&new, &command.context).await?;
        text = made;
        let key = KeyDetail::of(&done.value, done.at);
        let location = format!("/v1/service-keys/{}", key.id);
        // What Redis keeps for repeats holds no secret.
        let detail = NewKeyDetail { key, secret: None };
        Ok(Answer::of(&detail, done.position)?.made(location).replayed(done.replayed))
    };
    let mut answer = command.once(&api, run).await?;
    api.credentials.refresh(&api.log).await;
    answer.body["secret"] = text.map(|text| text.expose()).into();
    Ok(answer.into_response())
}

/// Lists every service key. For admins.
#[utoipa::path(
    get, path = "/v1/service-keys", tag = "access", security(("token" = [])),
    responses(
        (status = 200, description = "Newest first", body = KeyList),
        Problem,
    ),
)]
pub(crate) async fn list_service_keys(
    State(api): App,
    _: Manages,
) -> Result<Json<KeyList>, ApiError> {
    api.credentials.learn(&api.log).await?;
    let known = api.credentials.for_keys()?;
    let now = api.log.now();
    let data = known.keys().into_iter().map(|key| KeyDetail::of(key, now)).collect();
    Ok(Json(KeyList { object: "list", data }))
}

/// Gives a service key. For admins.
#[utoipa::path(
    get, path = "/v1/service-keys/{id}", tag = "access", security(("token" = [])),
    params(("id" = String, Path, description = "The key's id")),
    responses(
        (status = 200, description = "The key", body = KeyDetail),
        Problem,
    ),
)]
pub(crate) async fn get_service_key(
    State(api): App,
    _: Manages,
    Path(id): Path<String>,
) -> Result<Json<KeyDetail>, ApiError> {
    let id: KeyId = id.parse().map_err(|_| no_such_key())?;
    api.credentials.learn(&api.log).await?;
    let known = api.credentials.for_keys()?;
    let key = known.keys().into_iter().find(|key| key.id == id).ok_or_else(no_such_key)?;
    Ok(Json(KeyDetail::of(key, api.log.now())))
}

/// Revokes a service key: every process refuses it within a second, for ever. For admins.
#[utoipa::path(
    post, path = "/v1/service-keys/{id}/revoke", tag = "access", security(("token" = [])),
    params(
        ("id" = String, Path, description = "The key's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
    ),
    request_body = RevokeRequest,
    responses(
        (status = 200, description = "The key", body = KeyDetail),
        Problem,
    ),
)]
pub(crate) async fn revoke_service_key(
    State(api): App,
    _: Manages,
    Path(id): Path<String>,
    command: Command<RevokeRequest>,
) -> Result<Response, ApiError> {
    let id: KeyId = id.parse().map_err(|_| no_such_key())?;
    let reason = command.body.reason.read("/reason")?;
    let run = async {
        let revoked = api.credential_commands.revoke_key(id, reason, &command.context).await?;
        let key = KeyDetail::of(&revoked.value, revoked.at);
        Ok(Answer::of(&key, revoked.position)?.replayed(revoked.replayed))
    };
    let answer = command.once(&api, run).await?;
    api.credentials.refresh(&api.log).await;
    Ok(answer.into_response())
}

/// Signs a user out: every process refuses every token that was issued to them before now, within
/// a second. For admins.
///
/// A token without `iat` does not say when it was issued, and is refused for good. Who should not
/// sign in again must be kept out by the issuer of the tokens.
#[utoipa::path(
    post, path = "/v1/users/{user_id}/sign-out", tag = "access", security(("token" = [])),
    params(
        ("user_id" = String, Path, description = "The user: `sub` of their tokens"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
    ),
    request_body = RevokeRequest,
    responses(
        (status = 200, description = "Recorded", body = SignOutDetail),
        Problem,
    ),
)]
pub(crate) async fn sign_out_user(
    State(api): App,
    _: Manages,
    Path(user_id): Path<String>,
    command: Command<RevokeRequest>,
) -> Result<Response, ApiError> {
    let user = UserId::parse(&user_id).map_err(|_| no_such_user())?;
    // The id of a token is compared as it is.
    if *user != *user_id {
        return Err(no_such_user());
    }
    let reason = command.body.reason.read("/reason")?;
    let run = async {
        let done = api.credential_commands.sign_out(&user, &reason, &command.context).await?;
        let issued_before = done.value.issued_before.unwrap_or(done.at);
        let detail = SignOutDetail { object: "sign_out", user_id: user.to_string(), issued_before };
        Ok(Answer::of(&detail, done.position)?.replayed(done.replayed))
    };
    let answer = command.once(&api, run).await?;
    api.credentials.refresh(&api.log).await;
    Ok(answer.into_response())
}
