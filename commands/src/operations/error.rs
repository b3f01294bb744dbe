//! Errors of operators' commands.

use exodrive_log::{AppendError, ReadError};
use exodrive_projections::{Error, names};

/// An error of an operator's command; it was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No projection has the name.
    #[error("there is no projection {0:?}; there are {known}", known = names().join(", "))]
    NoSuchProjection(String),
    /// The projection has no generation yet.
    #[error("projection {0} has no tables yet: run `exodrive migrate`")]
    NotBuilt(String),
    /// The command needs a reason.
    #[error("a reason is required; it stays in the log")]
    NoReason,
    /// The request is invalid; the text says where.
    #[error("{0}")]
    Invalid(String),
    /// A rebuild of the projection is in progress.
    #[error(
        "rebuild {rebuild} of {projection} is in progress: wait for it, or cancel it (`exodrive projections rebuild {projection} --cancel`)"
    )]
    UnderWay {
        /// Name of the projection.
        projection: String,
        /// Id of the rebuild.
        rebuild: String,
    },
    /// The command is rejected in the present state; the text says why.
    #[error("{0}")]
    Rejected(String),
    /// No rebuild has the id.
    #[error("there is no such rebuild")]
    NoSuchRebuild,
    /// The log cannot be read.
    #[error("the event log cannot be read")]
    Read(#[from] ReadError),
    /// The log did not take the event.
    #[error("the event log did not take the event")]
    Append(#[from] AppendError),
    /// The database failed.
    #[error("the database of the projections does not answer")]
    Database(#[from] Error),
    /// An event cannot be written as JSON.
    #[error("an event cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}
