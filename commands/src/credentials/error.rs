//! Errors of commands about credentials.

use exodrive_domain::{
    DecodeError, NewerRelease, UnreadableEvent, credential::CredentialRejection,
};
use exodrive_log::{AppendError, CommandError, ReadError};

/// An error of a command about credentials; it was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The domain rejects the command.
    #[error(transparent)]
    Rejected(CredentialRejection),
    /// The log could not be read.
    #[error("the event log could not be read")]
    Read(#[from] ReadError),
    /// The log did not take the event.
    #[error("the event log did not take the event")]
    Append(#[from] AppendError),
    /// Too many commands decide about the same key or user at once.
    #[error("too many commands decide about it at once")]
    Busy,
    /// An event of a newer release, which this release cannot read.
    #[error(transparent)]
    NewerRelease(#[from] NewerRelease),
    /// A malformed event.
    #[error("an event cannot be read")]
    Decode(#[from] DecodeError),
    /// An event cannot be written as JSON.
    #[error("an event cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl From<UnreadableEvent> for CredentialError {
    fn from(error: UnreadableEvent) -> Self {
        match error {
            UnreadableEvent::NewerRelease(error) => Self::NewerRelease(error),
            UnreadableEvent::Decode(error) => Self::Decode(error),
        }
    }
}

/// Reason why a decision gave no event.
pub(super) enum Rejected {
    Domain(CredentialRejection),
    Encode(serde_json::Error),
}

pub(super) fn failure(error: CommandError<Rejected>) -> CredentialError {
    match error {
        CommandError::Rejected(Rejected::Domain(rejection)) => CredentialError::Rejected(rejection),
        CommandError::Rejected(Rejected::Encode(error)) => CredentialError::Encode(error),
        CommandError::Read(error) => CredentialError::Read(error),
        CommandError::Append(error) => CredentialError::Append(error),
        CommandError::NewerRelease(error) => CredentialError::NewerRelease(error),
        CommandError::Decode(error) => CredentialError::Decode(error),
        CommandError::Contended => CredentialError::Busy,
    }
}
