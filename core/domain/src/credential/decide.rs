//! Commands about credentials, and the decisions on them.

use super::{KeyChange, KeyEvent, Scope, ServiceKey, SessionsChange, SessionsEvent, SignIns};
use crate::{
    command::{Meta, Repeat},
    id::KeyId,
    value::{Label, Reason, UserId},
};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// A request about a service key.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyCommand {
    /// Create it.
    Create {
        /// Its id.
        id: KeyId,
        /// What it is for.
        name: Label,
        /// What it may do: at least one scope.
        scopes: BTreeSet<Scope>,
        /// SHA-256 of its secret, hexadecimal.
        hash: String,
        /// The time from which on it is refused.
        expires_at: Option<DateTime<Utc>>,
    },
    /// Revoke it.
    Revoke {
        /// Why.
        reason: Reason,
    },
}

/// Reason why a command about credentials is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialRejection {
    /// The event at this position already executed this command.
    #[error("the command was executed by the event at position {0}")]
    AlreadyDone(u64),
    /// Another command was executed under its id.
    #[error("another command was executed under this id")]
    KeyReused,
    /// There is no such key.
    #[error("there is no such service key")]
    NoSuchKey,
    /// A key of this id exists.
    #[error("a service key with this id exists already")]
    Exists,
    /// It would be able to do nothing.
    #[error("must name a scope")]
    NoScope,
    /// It would be expired from the beginning.
    #[error("must be in the future")]
    InThePast,
    /// It is revoked already.
    #[error("the service key is revoked already")]
    Unchanged,
}

/// Decides a command about a service key: gives the event that it results in.
///
/// # Errors
/// [`CredentialRejection`].
pub fn decide(
    key: Option<&ServiceKey>,
    command: &KeyCommand,
    meta: &Meta,
) -> Result<KeyEvent, CredentialRejection> {
    if let Some(repeat) = key.and_then(|key| meta.repeats(&key.commands)) {
        return Err(match repeat {
            Repeat::Same(position) => CredentialRejection::AlreadyDone(position),
            Repeat::Other => CredentialRejection::KeyReused,
        });
    }
    let (key_id, change) = match (command, key) {
        (KeyCommand::Create { .. }, Some(_)) => return Err(CredentialRejection::Exists),
        (KeyCommand::Create { id, name, scopes, hash, expires_at }, None) => {
            if scopes.is_empty() {
                return Err(CredentialRejection::NoScope);
            }
            if expires_at.is_some_and(|end| end <= meta.now) {
                return Err(CredentialRejection::InThePast);
            }
            let scopes = scopes.iter().map(|scope| scope.name().to_owned()).collect();
            let (name, hash) = (name.to_string(), hash.clone());
            (*id, KeyChange::Created { name, scopes, hash, expires_at: *expires_at })
        }
        (KeyCommand::Revoke { .. }, None) => return Err(CredentialRejection::NoSuchKey),
        (KeyCommand::Revoke { .. }, Some(key)) if key.revoked.is_some() => {
            return Err(CredentialRejection::Unchanged);
        }
        (KeyCommand::Revoke { reason }, Some(key)) => {
            (key.id, KeyChange::Revoked { reason: reason.to_string() })
        }
    };
    Ok(KeyEvent { key_id, request_hash: Some(meta.request_hash.clone()), change })
}

/// Decides that a user is signed out: every token that was issued to them before now is refused.
///
/// # Errors
/// [`CredentialRejection`], for a repeat only.
pub fn decide_sign_out(
    sign_ins: &SignIns,
    user: &UserId,
    reason: &Reason,
    meta: &Meta,
) -> Result<SessionsEvent, CredentialRejection> {
    match meta.repeats(&sign_ins.commands) {
        Some(Repeat::Same(position)) => return Err(CredentialRejection::AlreadyDone(position)),
        Some(Repeat::Other) => return Err(CredentialRejection::KeyReused),
        None => {}
    }
    let change = SessionsChange::Revoked { issued_before: meta.now, reason: reason.to_string() };
    let request_hash = Some(meta.request_hash.clone());
    Ok(SessionsEvent { user_id: user.to_string(), request_hash, change })
}
