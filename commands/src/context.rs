//! Who gives a command, and under which id.

use crate::digest::derived_uuid;
use chrono::{DateTime, Utc};
use exodrive_domain::{Envelope, booking::Booking};
use uuid::Uuid;

/// Who gives a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An admin.
    Staff(String),
    /// An operator, who runs the system and makes no bookings.
    Operator(String),
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

    /// As the log and the audit name them: `admin:<user id>`, `guest`, ….
    pub fn audit_name(&self) -> String {
        match self {
            Self::Staff(subject) => format!("admin:{subject}"),
            Self::Operator(subject) => format!("operator:{subject}"),
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
            Self::Visitor | Self::Operator(_) => false,
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

impl CommandContext {
    /// The context of command `command_id`, which asks for what has the hash
    /// `request_hash`, given by `actor`: at any state, now, and part of no
    /// request. The other fields say more.
    pub fn new(
        command_id: impl Into<String>,
        request_hash: impl Into<String>,
        actor: Actor,
    ) -> Self {
        Self {
            command_id: command_id.into(),
            request_hash: request_hash.into(),
            actor,
            if_position: None,
            happened_at: None,
            acted_by: None,
            traceparent: None,
            correlation: None,
        }
    }

    /// The same command, given by another actor.
    #[must_use]
    pub fn given_by(self, actor: Actor) -> Self {
        Self { actor, ..self }
    }

    /// Who did it, as the log names them.
    pub fn actor_name(&self) -> String {
        self.acted_by.clone().unwrap_or_else(|| self.actor.audit_name())
    }

    /// The id of the `what` that the command makes: the same in every retry.
    pub fn derived_id(&self, what: &str) -> Uuid {
        derived_uuid(&[what, &self.command_id, &self.request_hash])
    }

    /// The attributes of an event that the command comes to.
    pub(crate) fn envelope(&self, kind: &str, id: String, now: DateTime<Utc>) -> Envelope {
        Envelope::decision(kind, id, now)
            .by(self.actor_name())
            .within(self.correlation.clone())
            .traced(self.traceparent.clone())
    }
}
