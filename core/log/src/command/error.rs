//! Why a command was not executed.

use crate::error::{AppendError, ReadError};
use exodrive_domain::DecodeError;

/// Why a command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<R> {
    /// The decision, made on the subject's current state.
    #[error("the command was refused")]
    Refused(R),
    /// The state could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The event could not be appended, or may not have been:
    /// [`AppendError::Unavailable`]. Never [`AppendError::Conflict`].
    #[error(transparent)]
    Append(AppendError),
    /// The subject has an event that this release cannot read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Others were first, again and again, or for too long.
    #[error("too many commands about the same thing; try again")]
    Contended,
}

impl<R> CommandError<R> {
    /// The same error with another refusal.
    pub fn map<Q>(self, refusal: impl FnOnce(R) -> Q) -> CommandError<Q> {
        match self {
            Self::Refused(reason) => CommandError::Refused(refusal(reason)),
            Self::Read(error) => CommandError::Read(error),
            Self::Append(error) => CommandError::Append(error),
            Self::Decode(error) => CommandError::Decode(error),
            Self::Contended => CommandError::Contended,
        }
    }
}

/// Why a claiming command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError<R> {
    /// The claim's subject has an event already, of somebody else.
    #[error("it is claimed already")]
    Taken,
    /// Anything else.
    #[error(transparent)]
    Command(#[from] CommandError<R>),
}
