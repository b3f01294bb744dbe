//! Checks that erased data is still gone: a database or a key store that was
//! restored from a backup may hold it again.

use super::{ErasureError, Erasures, all_records};
use crate::{
    context::{Actor, CommandContext},
    digest::derived_uuid,
};
use exodrive_domain::{
    erasure::{ErasureChange, ErasureStatus},
    id::ErasureId,
};
use exodrive_log::{AppendError, Log};
use exodrive_projections::Database;
use std::collections::HashSet;
use uuid::Uuid;

const ACTOR: Actor = Actor::System("erasure");

/// Completed erasures whose data this database may still hold, with their keys.
///
/// # Errors
/// When log or database do not answer.
pub async fn keys_not_cleaned(
    log: &Log,
    database: &Database,
) -> Result<Vec<(Uuid, Vec<String>)>, ErasureError> {
    let completed = all_records(log).await?.into_values();
    let mut completed: Vec<_> = completed
        .filter(|record| record.erasure.status == ErasureStatus::Completed)
        .map(|record| (uuid(record.id), record.erasure.keys))
        .collect();
    if !completed.is_empty() {
        let known = database.known_erasures().await?;
        let applied: HashSet<_> =
            known.iter().filter(|known| known.applied).map(|known| known.id).collect();
        completed.retain(|(id, _)| !applied.contains(id));
    }
    Ok(completed)
}

/// Appends an erasure that the log does not have any more (the log was restored
/// from a backup), so that it is executed again.
///
/// # Errors
/// When the log does not take it.
pub async fn record_keys_again(
    log: &Log,
    id: ErasureId,
    keys: &[String],
) -> Result<(), ErasureError> {
    let erasures = Erasures::new(log.clone());
    let change = ErasureChange::Started { keys: keys.to_vec(), events: 0 };
    match erasures.append(id, change, 0, &origin(id, "again")).await {
        // Another process was first.
        Err(ErasureError::Append(AppendError::Conflict)) => Ok(()),
        record => record.map(drop),
    }
}

/// True if a key store that was restored from a backup holds keys that the log
/// says are destroyed.
///
/// # Errors
/// When the log does not answer.
pub async fn has_revived_keys(log: &Log) -> Result<bool, ErasureError> {
    let keys: Vec<_> = started(log).await?.into_iter().flat_map(|(_, keys)| keys).collect();
    let names: Vec<_> = keys.iter().map(String::as_str).collect();
    Ok(!log.keys_not_destroyed(&names).await?.is_empty())
}

/// Keys of the erasures that the log says are begun. The own key of an erasure
/// that is not completed is not among them.
///
/// # Errors
/// When the log cannot be read.
pub async fn started(log: &Log) -> Result<Vec<(ErasureId, Vec<String>)>, ErasureError> {
    let mut started = Vec::new();
    for record in all_records(log).await?.into_values() {
        let own = own_key(record.id);
        let mut keys = record.erasure.keys;
        match record.erasure.status {
            ErasureStatus::Completed => {}
            ErasureStatus::Started => keys.retain(|key| *key != own),
            _ => continue,
        }
        started.push((record.id, keys));
    }
    Ok(started)
}

/// Name of the key of the erasure's own event, which says whom it is about.
pub fn own_key(id: ErasureId) -> String {
    format!("erasure.{id}")
}

/// The id as the database stores it.
pub fn uuid(id: ErasureId) -> Uuid {
    id.into()
}

/// Context of a step: the same in every attempt, so that no event is appended
/// twice.
pub fn origin(id: ErasureId, step: &str) -> CommandContext {
    let command_id = derived_uuid(&["erasure", &id.to_string(), step]).to_string();
    CommandContext::new(command_id, step, ACTOR)
}
