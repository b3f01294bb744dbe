//! Command contexts: the actor of a command, and the id that its retries share.

use chrono::{DateTime, Utc};
use exodrive_domain::booking::Booking;

/// The actor of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An admin.
    Staff(String),
    /// A customer, by the subject of their account.
    Customer(String),
    /// A guest, by the hash of the link that they hold.
    Guest(String),
    /// A caller without account or link.
    Visitor,
    /// The system itself, by the name of the part that acts.
    System(&'static str),
}

impl Actor {
    /// True if the actor may do what customers may not.
    pub fn is_staff(&self) -> bool {
        matches!(self, Self::Staff(_) | Self::System(_))
    }

    pub(crate) fn audit_name(&self) -> String {
        match self {
            Self::Staff(subject) => format!("admin:{subject}"),
            Self::Customer(subject) => format!("customer:{subject}"),
            Self::Guest(_) => "guest".to_owned(),
            Self::Visitor => "visitor".to_owned(),
            Self::System(part) => format!("system:{part}"),
        }
    }

    pub(crate) fn owns(&self, booking: &Booking, now: DateTime<Utc>) -> bool {
        match self {
            Self::Staff(_) | Self::System(_) => true,
            Self::Customer(subject) => booking.user_id.as_ref() == Some(subject),
            Self::Guest(hash) => booking.link(hash, now).is_some(),
            Self::Visitor => false,
        }
    }
}

/// Identity of a command, and what is known about the request behind it.
#[derive(Clone, Debug)]
pub struct CommandContext {
    /// The command's id, the same in every retry.
    pub command_id: String,
    /// Keyed hash of the request, to recognise a repeat.
    pub request_hash: String,
    /// The actor who gives the command.
    pub actor: Actor,
    /// Condition: the command is rejected unless the last change of its car or
    /// booking is at this position.
    pub if_position: Option<u64>,
    /// Time at which it happened, if that was before now.
    pub happened_at: Option<DateTime<Utc>>,
    /// The person who did it, if that is not the actor who gives the command.
    pub acted_by: Option<String>,
    /// W3C `traceparent` of the trace that the command belongs to.
    pub traceparent: Option<String>,
    /// Id of the request that led to the command.
    pub correlation: Option<String>,
}
