//! Command contexts: the actor of a command, and the id that its retries share.

use crate::digest::derived_uuid;
use chrono::{DateTime, Utc};
use exodrive_domain::{Envelope, booking::Booking, id::KeyId};
use uuid::Uuid;

/// The actor of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An admin.
    Staff(String),
    /// The holder of a service key, who may do what its scopes name.
    Key(KeyId),
    /// An operator, who runs the system and makes no bookings.
    Operator(String),
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
        matches!(self, Self::Staff(_) | Self::Key(_) | Self::System(_))
    }

    /// As the log and the audit name them: `admin:<user id>`, `key:<id>`, `guest`, ….
    pub fn audit_name(&self) -> String {
        match self {
            Self::Staff(subject) => format!("admin:{subject}"),
            Self::Key(id) => format!("key:{id}"),
            Self::Operator(subject) => format!("operator:{subject}"),
            Self::Customer(subject) => format!("customer:{subject}"),
            Self::Guest(_) => "guest".to_owned(),
            Self::Visitor => "visitor".to_owned(),
            Self::System(part) => format!("system:{part}"),
        }
    }

    pub(crate) fn owns(&self, booking: &Booking, now: DateTime<Utc>) -> bool {
        match self {
            Self::Staff(_) | Self::Key(_) | Self::System(_) => true,
            Self::Customer(subject) => booking.user_id.as_ref() == Some(subject),
            Self::Guest(hash) => booking.link(hash, now).is_some(),
            Self::Visitor | Self::Operator(_) => false,
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
    /// booking is at one of these positions.
    pub if_position: Option<Vec<u64>>,
    /// Time at which it happened, if that was before now.
    pub happened_at: Option<DateTime<Utc>>,
    /// The person who did it, if that is not the actor who gives the command.
    pub acted_by: Option<String>,
    /// W3C `traceparent` of the trace that the command belongs to.
    pub traceparent: Option<String>,
    /// Id of the request that led to the command.
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

    /// Name of the person or part that did it, as the log records it.
    pub fn actor_name(&self) -> String {
        self.acted_by.clone().unwrap_or_else(|| self.actor.audit_name())
    }

    /// The id of the `what` that the command makes: the same in every retry.
    pub fn derived_id(&self, what: &str) -> Uuid {
        derived_uuid(&[what, &self.command_id, &self.request_hash])
    }

    /// Envelope of an event of this command.
    pub(crate) fn envelope(&self, kind: &str, id: String, now: DateTime<Utc>) -> Envelope {
        Envelope::decision(kind, id, now)
            .by(self.actor_name())
            .within(self.correlation.clone())
            .traced(self.traceparent.clone())
    }
}
