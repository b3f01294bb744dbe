//! The person at the terminal, and the record of personal data that is shown
//! there.

use super::Failure;
use crate::settings::Connections;
use chrono::Utc;
use exodrive_commands::{
    access_log::{Access, AccessLog},
    context::{Actor, CommandContext},
};
use exodrive_log::Log;
use exodrive_runtime::error_chain;
use uuid::Uuid;

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
    format!("{}@cli", user.unwrap_or_else(|| "unknown".to_owned()))
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
