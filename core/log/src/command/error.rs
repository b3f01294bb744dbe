//! Reasons why a command was not executed.

use crate::error::{AppendError, ReadError};
use exodrive_domain::{DecodeError, NewerRelease, UnreadableEvent};

/// Reason why a command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<R> {
    /// The decision, made on the subject's current state.
    #[error("the command was rejected")]
    Rejected(R),
    /// The state could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The event could not be appended, or may not have been:
    /// [`AppendError::Unavailable`], [`AppendError::Unreadable`]. Never [`AppendError::Conflict`].
    #[error(transparent)]
    Append(AppendError),
    /// The subject has an event of a newer release, which this release cannot
    /// read: an unknown type, or a newer version. Nothing was decided.
    #[error(transparent)]
    NewerRelease(NewerRelease),
    /// The subject has a malformed event, which no release can read.
    #[error(transparent)]
    Decode(DecodeError),
    /// Others were first, again and again, or for too long.
    #[error("too many commands about the same subject; try again")]
    Contended,
}

impl<R> CommandError<R> {
    /// The same error with another rejection.
    pub fn map<Q>(self, refusal: impl FnOnce(R) -> Q) -> CommandError<Q> {
        match self {
            Self::Rejected(reason) => CommandError::Rejected(refusal(reason)),
            Self::Read(error) => CommandError::Read(error),
            Self::Append(error) => CommandError::Append(error),
            Self::NewerRelease(error) => CommandError::NewerRelease(error),
            Self::Decode(error) => CommandError::Decode(error),
            Self::Contended => CommandError::Contended,
        }
    }
}

/// Reason why a claiming command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError<R> {
    /// The claim's subject has an event of another entity already.
    #[error("another entity has claimed it already")]
    Taken,
    /// Any other error.
    #[error(transparent)]
    Command(#[from] CommandError<R>),
}

impl<R> From<UnreadableEvent> for CommandError<R> {
    fn from(error: UnreadableEvent) -> Self {
        match error {
            UnreadableEvent::NewerRelease(error) => Self::NewerRelease(error),
            UnreadableEvent::Decode(error) => Self::Decode(error),
        }
    }
}
