//! Callers by a service key: what they may do is what the key's scopes name, and each operation
//! belongs to one scope at most.

use super::tokens::{Caller, Role};
use crate::http::{
    Api,
    problem::{ApiError, Code},
};
use exodrive_commands::credentials::{KEY_PREFIX, KeyText};
use exodrive_domain::credential::{Scope, ServiceKey};

/// The role in which a key does what a scope names.
fn role(scope: Option<Scope>) -> Role {
    if scope.is_some_and(Scope::writes) { Role::Admin } else { Role::Auditor }
}

/// True if a bearer's text is meant to be a service key.
pub(super) fn is_key(text: &str) -> bool {
    text.starts_with(KEY_PREFIX)
}

/// Identifies the holder of a service key, who asks for an operation of this scope.
///
/// # Errors
/// 401, which says why only to who has the right secret; 503 while nobody knows what was revoked.
pub(super) fn identify(text: &str, scope: Option<Scope>, api: &Api) -> Result<Caller, ApiError> {
    let refused = |why: &dyn std::fmt::Display| {
        ApiError::new(Code::Unauthenticated, format!("Sorry, {why}."))
    };
    // Without a look-up: nobody else pays for a mistyped key.
    let shown = KeyText::parse(text)
        .ok_or_else(|| refused(&"the service key is incomplete or mistyped"))?;
    let known = api.credentials.for_keys()?;
    let key = known.check_key(&shown, api.log.now()).map_err(|fault| refused(&fault))?;
    let ends = key.expires_at.map(|end| u64::try_from(end.timestamp()).unwrap_or(0));
    Ok(Caller {
        subject: key.id.to_string(),
        role: role(scope),
        ends: ends.unwrap_or(u64::MAX),
        issued_at: None,
        key: Some(key.clone().into()),
    })
}

/// Refuses a key that has not the scope of an operation, and every key where there is none.
///
/// # Errors
/// 403.
pub(super) fn admit(key: &ServiceKey, scope: Option<Scope>) -> Result<(), ApiError> {
    match scope {
        Some(scope) if key.has(scope) => Ok(()),
        Some(scope) => {
            let detail = format!("The service key has not the scope {scope}.");
            Err(ApiError::new(Code::Forbidden, detail))
        }
        None => Err(ApiError::new(Code::Forbidden, "No service key may do that.")),
    }
}
