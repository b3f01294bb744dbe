use exodrive_log::{AppendError, ReadError};
use exodrive_projections::{Error, names};

/// Why an act was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No projection has the name.
    #[error("there is no projection {0:?}; there are {known}", known = names().join(", "))]
    NoSuchProjection(String),
    /// It has no generation yet.
    #[error("projection {0} has no tables yet: run `exodrive migrate`")]
    NotBuilt(String),
    /// The act needs a reason.
    #[error("say why: a reason is needed, it stays in the log")]
    NoReason,
    /// Something in the request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// One is under way.
    #[error(
        "rebuild {rebuild} of {projection} is under way: wait for it, or cancel it (`exodrive projections rebuild {projection} --cancel`)"
    )]
    UnderWay {
        /// Which projection.
        projection: String,
        /// Which rebuild.
        rebuild: String,
    },
    /// As things are, there is nothing to be done.
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
    /// An event that cannot be written down.
    #[error("an event cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}
