//! Who gives a command, and under which id.

use chrono::{DateTime, Utc};
use exodrive_domain::booking::Booking;

/// Who gives a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An admin.
    Staff(String),
    /// A customer, by his account.
    Customer(String),
    /// Whoever holds the link with this hash.
    Guest(String),
    /// Somebody without account or link.
    Visitor,
    /// The system itself, by the part's name.
    System(&'static str),
}

impl Actor {
    /// Whether it may do what customers may not.
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

/// A command's identity and circumstances.
#[derive(Clone, Debug)]
pub struct CommandContext {
    /// The command's id, the same in every retry.
    pub command_id: String,
    /// What was asked.
    pub request_hash: String,
    /// Who asks.
    pub actor: Actor,
    /// Only if the thing's last change stands at this position.
    pub if_position: Option<u64>,
    /// When it happened, if that was before now.
    pub happened_at: Option<DateTime<Utc>>,
    /// Who did it, if that was not who asks.
    pub acted_by: Option<String>,
    /// The trace that it belongs to.
    pub traceparent: Option<String>,
    /// The request that it came of.
    pub correlation: Option<String>,
}
