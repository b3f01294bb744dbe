//! The context that every command carries.

use crate::Recorded;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A command's identity and context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The command's id, which becomes its event's: the same in every retry.
    pub command_id: String,
    /// Hash of the request. Another hash under the same id is another request.
    pub request_hash: String,
    /// Now, by the log's clock.
    pub now: DateTime<Utc>,
    /// Execute the command only if the last change of its car, booking or block
    /// is at one of these positions.
    pub if_position: Option<Vec<u64>>,
    /// True if the actor is staff, who may do more than customers.
    pub by_staff: bool,
}

/// A command that was executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Its id.
    pub id: String,
    /// Hash of its request.
    pub hash: String,
    /// The position of its event.
    pub position: u64,
}

/// Relation of a command to an earlier one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The same command, executed by the event at this position.
    Same(u64),
    /// Another command under the same id.
    Other,
}

/// The number of commands remembered for each car, booking or block.
const REMEMBERED: usize = 64;

pub(crate) fn remember(
    commands: &mut Vec<CommandRecord>,
    request_hash: Option<&str>,
    recorded: &Recorded,
) {
    let Some(hash) = request_hash else { return };
    if commands.len() >= REMEMBERED {
        // The first command made the entity and stays remembered.
        commands.remove(1);
    }
    commands.push(CommandRecord {
        id: recorded.envelope.id.clone(),
        hash: hash.to_owned(),
        position: recorded.position,
    });
}

impl Meta {
    /// Finds this command's id among the executed ones: the same command or
    /// another one.
    pub fn repeats(&self, commands: &[CommandRecord]) -> Option<Repeat> {
        let known = commands.iter().find(|known| known.id == self.command_id)?;
        Some(if known.hash == self.request_hash {
            Repeat::Same(known.position)
        } else {
            Repeat::Other
        })
    }

    /// True if the command is not to be executed on a state that was last
    /// changed at this position.
    pub fn is_stale(&self, position: u64) -> bool {
        self.if_position.as_ref().is_some_and(|positions| !positions.contains(&position))
    }
}
