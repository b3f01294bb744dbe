use exodrive_domain::{UnreadableEvent, erasure::ErasureRejection};
use exodrive_log::{AppendError, KeyError, ReadError};

/// Why nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    /// The address is none.
    #[error("give an email address, for example dana@example.com")]
    Address,
    /// A reason is needed.
    #[error("say why: a reason is needed, it stays in the log (write nothing personal into it)")]
    NoReason,
    /// The reason is too long.
    #[error("the reason has more than {0} characters")]
    LongReason(usize),
    /// As things are, it may not be.
    #[error(transparent)]
    Rejected(#[from] ErasureRejection),
    /// The log cannot be read.
    #[error("the event log cannot be read")]
    Read(#[from] ReadError),
    /// An event of it cannot be read, so nothing is decided about it.
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
    /// An event that cannot be written down.
    #[error("an event cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}
