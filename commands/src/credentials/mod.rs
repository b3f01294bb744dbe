//! Commands about credentials: service keys are created and revoked, and users are signed out.
//! [`KnownCredentials`] is what a process that checks them knows.

mod error;
mod known;
mod text;

pub use error::CredentialError;
pub use known::{KeyFault, KnownCredentials};
pub use text::{KEY_PREFIX, KeyText, shown_prefix};

use crate::{context::CommandContext, digest::derived_uuid, event::command_event, rental::Done};
use chrono::{DateTime, Utc};
use error::{Rejected, failure};
use exodrive_domain::{
    KnownEvent, Meta, Subject,
    credential::{
        CredentialRejection, KeyCommand, Scope, ServiceKey, SignIns, decide, decide_sign_out,
    },
    id::{KeyId, SignInId},
    value::{Label, Reason, UserId},
};
use exodrive_log::{CommandError, Commands, DecisionState, KeyState, Loaded, Log};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use std::collections::BTreeSet;

/// A service key to be created.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What it is for.
    pub name: Label,
    /// What it may do: at least one scope.
    pub scopes: BTreeSet<Scope>,
    /// The time from which on it is refused.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The id under which the sign-ins of a user are, which follows from the user's.
pub(crate) fn sign_in_id(user_id: &str) -> SignInId {
    derived_uuid(&["sign-in", user_id]).into()
}

/// Command handlers for credentials. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CredentialCommands {
    commands: Commands,
}

impl CredentialCommands {
    /// Decides by `commands`.
    pub fn new(commands: Commands) -> Self {
        Self { commands }
    }

    fn log(&self) -> &Log {
        self.commands.log()
    }

    /// Creates a service key. Gives its text too, unless the command was executed before: nobody
    /// but the first caller gets that.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn create_key(
        &self,
        new: &NewKey,
        context: &CommandContext,
    ) -> Result<(Done<ServiceKey>, Option<KeyText>), CredentialError> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| CredentialError::NoRandomness)?;
        let id: KeyId = derived_uuid(&["service-key", &context.command_id]).into();
        let text = KeyText::new(id, secret);
        let NewKey { name, scopes, expires_at } = new.clone();
        let command = KeyCommand::Create { id, name, scopes, hash: text.hash(), expires_at };
        let done = self.change_key(id, &command, context).await?;
        let ours = done.value.hash == text.hash();
        Ok((done, ours.then_some(text)))
    }

    /// Revokes a service key. One that is revoked already stays as it is.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn revoke_key(
        &self,
        id: KeyId,
        reason: Reason,
        context: &CommandContext,
    ) -> Result<Done<ServiceKey>, CredentialError> {
        self.change_key(id, &KeyCommand::Revoke { reason }, context).await
    }

    async fn change_key(
        &self,
        id: KeyId,
        command: &KeyCommand,
        context: &CommandContext,
    ) -> Result<Done<ServiceKey>, CredentialError> {
        let subject = Subject::ServiceKey(id);
        let done = self.run(&subject, context, |state: &KeyState, meta| {
            let event = decide(state.0.as_ref(), command, meta)?;
            Ok((event.change.kind(), event))
        });
        let Done { value, position, at, replayed } = done.await?;
        let value = value.0.ok_or(CredentialError::Rejected(CredentialRejection::NoSuchKey))?;
        Ok(Done { value, position, at, replayed })
    }

    /// Signs a user out: every token that was issued to them before now is refused.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn sign_out(
        &self,
        user: &UserId,
        reason: &Reason,
        context: &CommandContext,
    ) -> Result<Done<SignIns>, CredentialError> {
        let subject = Subject::SignIns(sign_in_id(user));
        let decide = |state: &SignIns, meta: &Meta| {
            let event = decide_sign_out(state, user, reason, meta)?;
            Ok((event.change.kind(), event))
        };
        self.run(&subject, context, decide).await
    }

    /// Decides on the state of a subject, and appends the event of that type and body.
    async fn run<S: DecisionState, E: Serialize>(
        &self,
        subject: &Subject,
        context: &CommandContext,
        decide: impl Fn(&S, &Meta) -> Result<(&'static str, E), CredentialRejection>,
    ) -> Result<Done<S>, CredentialError> {
        let mut at = self.log().now();
        let decided = self.commands.execute(subject, |state: &S| {
            let meta = Meta {
                command_id: context.command_id.clone(),
                request_hash: context.request_hash.clone(),
                now: self.log().now(),
                if_position: None,
                by_staff: context.actor.is_staff(),
            };
            at = meta.now;
            let (kind, body) = decide(state, &meta).map_err(Rejected::Domain)?;
            let event = command_event(subject.clone(), kind, &body, &meta, context, "");
            event.map_err(Rejected::Encode)
        });
        match decided.await {
            Ok(done) => {
                let (value, position) = (S::clone(&done.state), done.position);
                Ok(Done { value, position, at, replayed: done.repeated })
            }
            Err(CommandError::Rejected(Rejected::Domain(CredentialRejection::Unchanged))) => {
                let loaded: Loaded<S> =
                    self.commands.load(subject).await.map_err(|error| {
                        failure(error.map(|never| -> Rejected { match never {} }))
                    })?;
                let (value, position) = (S::clone(&loaded.state), loaded.position);
                Ok(Done { value, position, at, replayed: false })
            }
            Err(CommandError::Rejected(Rejected::Domain(CredentialRejection::AlreadyDone(
                position,
            )))) => self.done_before(subject, position).await,
            Err(error) => Err(failure(error)),
        }
    }

    /// The state of a subject after its event at a position, which has executed the command.
    async fn done_before<S: DecisionState>(
        &self,
        subject: &Subject,
        position: u64,
    ) -> Result<Done<S>, CredentialError> {
        let (mut value, mut at) = (S::default(), self.log().now());
        for recorded in self.log().history(subject).await? {
            if recorded.position > position {
                break;
            }
            at = recorded.envelope.time;
            value.evolve(&KnownEvent::read(&recorded)?);
        }
        Ok(Done { value, position, at, replayed: true })
    }
}
