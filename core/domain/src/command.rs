//! What every command carries besides what it wants.

use crate::Recorded;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A command's identity and circumstances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The command's id, which becomes its event's: the same in every retry.
    pub command_id: String,
    /// What was asked: another hash under the same id is another request.
    pub request_hash: String,
    /// Now, by the log's clock.
    pub now: DateTime<Utc>,
    /// Only if the thing's last change stands at this position.
    pub if_position: Option<u64>,
    /// By staff, who may do what customers may not.
    pub by_staff: bool,
}

/// A command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Its id.
    pub id: String,
    /// What was asked.
    pub hash: String,
    /// Where its event stands.
    pub position: u64,
}

/// How a command relates to those carried out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The same, carried out by the event at this position.
    Same(u64),
    /// Another one under the same id.
    Other,
}

/// Commands remembered for each thing.
const REMEMBERED: usize = 64;

pub(crate) fn remember(
    commands: &mut Vec<CommandRecord>,
    request_hash: Option<&str>,
    recorded: &Recorded,
) {
    let Some(hash) = request_hash else { return };
    if commands.len() >= REMEMBERED {
        // The first is the one that made the thing.
        commands.remove(1);
    }
    commands.push(CommandRecord {
        id: recorded.envelope.id.clone(),
        hash: hash.to_owned(),
        position: recorded.position,
    });
}

impl Meta {
    /// How the command relates to those carried out before.
    pub fn repeats(&self, commands: &[CommandRecord]) -> Option<Repeat> {
        let known = commands.iter().find(|known| known.id == self.command_id)?;
        Some(if known.hash == self.request_hash {
            Repeat::Same(known.position)
        } else {
            Repeat::Other
        })
    }
}
