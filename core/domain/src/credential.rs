//! Credentials that can be taken back: service keys, by which programs ask, and the sign-ins of a
//! user. The events are on `exo.credential.key.<key id>` and `exo.credential.user.<sign-in id>`.
//! No view is folded from them: whoever checks credentials follows them in the log.

mod decide;
mod scope;
#[cfg(test)]
mod tests;

pub use decide::{CredentialRejection, KeyCommand, decide, decide_sign_out};
pub use scope::{Scope, UnknownScope};

use crate::{CommandRecord, Recorded, command::remember, id::KeyId, time::serde_micros};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// Every subject of credentials.
pub const CREDENTIAL_SUBJECTS: &str = "exo.credential.>";

/// A change of a service key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyEvent {
    /// The key.
    pub key_id: KeyId,
    /// Hash of the command's request. It tells a retry from another request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
    /// The change.
    #[serde(flatten)]
    pub change: KeyChange,
}

/// A change of a service key, with its data. The envelope names who made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.service_key.")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KeyChange {
    /// The key can be used from now on.
    Created {
        /// What it is for, as people see it.
        name: String,
        /// The scopes, by their names: an open set. One that a release does not know lets in
        /// nowhere.
        scopes: Vec<String>,
        /// SHA-256 of the secret, hexadecimal. The secret has 256 random bits, and is stored
        /// nowhere.
        hash: String,
        /// The time from which on it is refused.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_micros::option")]
        expires_at: Option<DateTime<Utc>>,
    },
    /// The key is refused for ever.
    Revoked {
        /// Reason, as the actor wrote it.
        reason: String,
    },
}

impl KeyChange {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// A change of the sign-ins of a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionsEvent {
    /// The user: the `sub` of their tokens.
    pub user_id: String,
    /// Hash of the command's request. It tells a retry from another request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
    /// The change.
    #[serde(flatten)]
    pub change: SessionsChange,
}

/// A change of the sign-ins of a user, with its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.sessions.")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SessionsChange {
    /// Tokens of the user that were issued before a time are refused.
    Revoked {
        /// That time.
        #[serde(with = "serde_micros")]
        issued_before: DateTime<Utc>,
        /// Reason, as the actor wrote it.
        reason: String,
    },
}

impl SessionsChange {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// A service key, folded from its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceKey {
    /// Its id.
    pub id: KeyId,
    /// What it is for.
    pub name: String,
    /// The names of its scopes, in order.
    pub scopes: Vec<String>,
    /// SHA-256 of its secret, hexadecimal.
    pub hash: String,
    /// The time at which it was created.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// Who created it, as the log names them.
    pub created_by: Option<String>,
    /// The time from which on it is refused.
    #[serde(with = "serde_micros::option")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Its revocation.
    pub revoked: Option<KeyRevocation>,
    /// The position that last changed it.
    pub position: u64,
    /// The executed commands that are remembered.
    pub commands: Vec<CommandRecord>,
}

/// The end of a service key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRevocation {
    /// The time.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// Who revoked it, as the log names them.
    pub by: Option<String>,
    /// Their reason.
    pub reason: String,
}

impl ServiceKey {
    /// True if the key may do what a scope stands for.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|it| it == scope.name())
    }

    /// True if the key is refused for its age.
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// The key after an event.
    pub fn evolve(key: Option<Self>, event: &KeyEvent, recorded: &Recorded) -> Option<Self> {
        let at = recorded.envelope.time;
        let by = recorded.envelope.actor.clone();
        let mut key = match (key, &event.change) {
            (None, KeyChange::Created { name, scopes, hash, expires_at }) => Self {
                id: event.key_id,
                name: name.clone(),
                scopes: scopes.clone(),
                hash: hash.clone(),
                created_at: at,
                created_by: by.clone(),
                expires_at: *expires_at,
                revoked: None,
                position: 0,
                commands: Vec::new(),
            },
            (key, _) => key?,
        };
        if let KeyChange::Revoked { reason } = &event.change
            && key.revoked.is_none()
        {
            key.revoked = Some(KeyRevocation { at, by, reason: reason.clone() });
        }
        key.position = recorded.position;
        remember(&mut key.commands, event.request_hash.as_deref(), recorded);
        Some(key)
    }
}

/// The sign-ins of a user, folded from their events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIns {
    /// Tokens that were issued before this time are refused.
    #[serde(with = "serde_micros::option")]
    pub issued_before: Option<DateTime<Utc>>,
    /// The position that last changed them.
    pub position: u64,
    /// The executed commands that are remembered.
    pub commands: Vec<CommandRecord>,
}

impl SignIns {
    /// Takes in the next event.
    pub fn evolve(&mut self, event: &SessionsEvent, recorded: &Recorded) {
        let SessionsChange::Revoked { issued_before, .. } = &event.change;
        // A clock that went back gives nobody their tokens back.
        self.issued_before = self.issued_before.max(Some(*issued_before));
        self.position = recorded.position;
        remember(&mut self.commands, event.request_hash.as_deref(), recorded);
    }

    /// True if a token is refused that was issued at `issued_at`, in seconds since 1970. One that
    /// does not say when it was issued may be older than any revocation.
    pub fn refuse(&self, issued_at: Option<u64>) -> bool {
        let Some(before) = self.issued_before else { return false };
        let time = |seconds: u64| DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0);
        issued_at.and_then(time).is_none_or(|at| at < before)
    }
}
