//! Errors of erasure commands.

use exodrive_domain::{UnreadableEvent, erasure::ErasureRejection, value::InvalidValue};
use exodrive_log::{AppendError, KeyError, ReadError};
use exodrive_replays::person::PersonError;

/// An error of an erasure command; nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    /// The text is not an email address.
    #[error("give an email address, for example dana@example.com")]
    Address,
    /// The command needs a reason.
    #[error("a reason is required; it stays in the log (write nothing personal into it)")]
    NoReason,
    /// The reason breaks the rule of reasons.
    #[error("the reason {0}")]
    Reason(InvalidValue),
    /// The domain rejects the command in the present state.
    #[error(transparent)]
    Rejected(#[from] ErasureRejection),
    /// The log cannot be read.
    #[error("the event log cannot be read")]
    Read(#[from] ReadError),
    /// An event cannot be read, so nothing is decided about the erasure.
    #[error(transparent)]
    Unreadable(#[from] UnreadableEvent),
    /// The log did not take the event.
    #[error("the event log did not take the event")]
    Append(#[from] AppendError),
    /// A data key could not be destroyed.
    #[error("a data key cannot be destroyed")]
    Key(#[from] KeyError),
    /// The database failed.
    #[error("the database of the projections does not answer")]
    Database(#[from] exodrive_projections::Error),
    /// Redis failed.
    #[error("Redis does not answer")]
    Cache(#[from] exodrive_projections::engine::cache::CacheError),
    /// An event cannot be written as JSON.
    #[error("an event cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}

impl From<PersonError> for ErasureError {
    fn from(error: PersonError) -> Self {
        match error {
            PersonError::Read(error) => Self::Read(error),
            PersonError::NewerRelease(error) => Self::Unreadable(error.into()),
        }
    }
}
