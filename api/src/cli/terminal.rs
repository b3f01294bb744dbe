//! The person at the terminal, and the record of personal data that is shown
//! there.

use super::Failure;
use crate::{
    http::auth::tokens::{Role, TokenError},
    settings::{Connections, TokenSettings},
};
use chrono::Utc;
use exodrive_commands::{
    access_log::{Access, AccessLog},
    context::{Actor, CommandContext},
    credentials::KnownCredentials,
};
use exodrive_domain::erasure::UNPROVEN;
use exodrive_log::Log;
use exodrive_runtime::error_chain;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Time limit for reading the keys that the tokens' issuer publishes.
const KEYS_TIMEOUT: Duration = Duration::from_secs(10);

/// The person who gives a command, by a token.
#[derive(clap::Args)]
pub(super) struct Person {
    /// Token of an operator, or of an admin for service keys: the log names its bearer. Without it,
    /// the log names the user of this machine, who has shown nobody who they are
    #[arg(long = "as", env = "EXODRIVE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    #[command(flatten)]
    tokens: TokenSettings,
}

impl Person {
    /// The context of a command of this person. Each call is another command.
    ///
    /// # Errors
    /// When the token is not valid, is not an operator's, or its bearer was signed out.
    pub(super) async fn context(
        &self,
        connections: &Connections,
    ) -> Result<CommandContext, Failure> {
        self.context_as(Role::Operator, connections).await
    }

    /// The same for a command of another role than operators.
    ///
    /// # Errors
    /// When the token is not valid, is not of that role, or its bearer was signed out.
    pub(super) async fn context_as(
        &self,
        needed: Role,
        connections: &Connections,
    ) -> Result<CommandContext, Failure> {
        let Some(token) = &self.token else { return Ok(command_context()) };
        let (tokens, keys) = self.tokens.checks(connections)?;
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        if let Some(keys) = keys {
            tokio::spawn(keys.follow(stop));
        }
        let began = Instant::now();
        let caller = loop {
            match tokens.check(token.trim()).await {
                Err(TokenError::NoKeys) if began.elapsed() < KEYS_TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => break outcome?,
            }
        };
        if caller.role != needed {
            let (role, needed) = (caller.role.name(), needed.name());
            let wrong =
                format!("the token is of the role {role}: one of the role {needed} is needed");
            return Err(wrong.into());
        }
        let (url, monitor) = connections.resolve_log()?;
        let log = Log::connect(&connections.appending_config(url, monitor)?).await?;
        let mut known = KnownCredentials::default();
        known.learn(&log).await?;
        if known.is_signed_out(&caller.subject, caller.issued_at) {
            return Err("the user was signed out after the token was issued".into());
        }
        let actor = match needed {
            Role::Operator => Actor::Operator(caller.subject),
            _ => Actor::Staff(caller.subject),
        };
        Ok(CommandContext::new(Uuid::now_v7().to_string(), "", actor))
    }
}

/// Name of the person at this terminal, as an actor.
pub(super) fn actor() -> String {
    Actor::Operator(user()).audit_name()
}

fn user() -> String {
    use std::os::unix::fs::MetadataExt;
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let user = user.or_else(|| {
        let own = std::fs::metadata("/proc/self").ok()?;
        Some(own.uid().to_string())
    });
    format!("{}{UNPROVEN}", user.unwrap_or_else(|| "unknown".to_owned()))
}

/// Command context of the person at this terminal. Each call is another
/// command.
pub(super) fn command_context() -> CommandContext {
    CommandContext::new(Uuid::now_v7().to_string(), "", Actor::Operator(user()))
}

/// Records what a command is about to show: kinds of resources and their ids.
/// The command goes on if the log does not take the record, since a person who
/// can run the command can read the log without it.
pub(super) async fn record<'a>(
    connections: &Connections,
    command: &str,
    shown: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) {
    let (accesses, actor) = (AccessLog::default(), actor());
    let now = Utc::now();
    for (resource, key) in shown {
        let access = Access { actor: &actor, resource, key, route: command, request_id: None };
        accesses.note(access, now);
    }
    if let Err(error) = append(connections, &accesses).await {
        let cause = error_chain(error.as_ref());
        eprintln!("note: the log did not take the record that this was read: {cause}");
    }
}

async fn append(connections: &Connections, accesses: &AccessLog) -> Result<(), Failure> {
    if accesses.is_empty() {
        return Ok(());
    }
    let (url, monitor) = connections.resolve_log()?;
    let log = Log::connect(&connections.appending_config(url, monitor)?).await?;
    Ok(accesses.append_now(&log).await?)
}
