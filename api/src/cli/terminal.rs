//! The person at the terminal, and the record of personal data that is shown
//! there.

use exodrive_commands::access_log::{Access, AccessLog};
use exodrive_log::Log;
use exodrive_runtime::error_chain;

/// Name of the person at this terminal, as an actor.
pub(super) fn actor() -> String {
    use std::os::unix::fs::MetadataExt;
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let user = user.or_else(|| {
        let own = std::fs::metadata("/proc/self").ok()?;
        Some(own.uid().to_string())
    });
    format!("operator:{}@cli", user.unwrap_or_else(|| "unknown".to_owned()))
}

/// Records what a command is about to show: kinds of resources and their ids.
/// The command goes on if the log does not take the record, since a person who
/// can run the command can read the log without it.
pub(super) async fn record<'a>(
    log: &Log,
    command: &str,
    shown: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) {
    let (accesses, actor) = (AccessLog::default(), actor());
    for (resource, key) in shown {
        let access = Access { actor: &actor, resource, key, route: command, request_id: None };
        accesses.note(access, log.now());
    }
    if let Err(error) = accesses.append_now(log).await {
        let cause = error_chain(&error);
        eprintln!("note: the log did not take the record that this was read: {cause}");
    }
}
