//! Errors of operators' commands.

use exodrive_domain::value::InvalidValue;
use exodrive_log::{AppendError, ReadError};
use exodrive_projections::{Error, engine::operations::RebuildState, names};

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
    /// The request is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidOperation),
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
    /// The present state does not allow the command.
    #[error(transparent)]
    Rejected(#[from] OperationRejection),
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

/// A fault of a request, whatever the state of the projection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOperation {
    /// The reason breaks the rule of reasons.
    #[error("the reason {0}")]
    Reason(InvalidValue),
    /// The text is not a key.
    #[error("the key is empty or has a NUL character")]
    FaultyKey,
    /// A rebuild of one key has neither a range nor partitions.
    #[error("one key is folded in place: it takes neither a first position nor partitions")]
    KeyWithRange,
    /// There can be 1 to 64 partitions.
    #[error("there can be 1 to 64 partitions")]
    Partitions,
    /// The log has no event there.
    #[error("the log has positions 1 to {end}: begin at one of them")]
    NoSuchPosition {
        /// The log's last position.
        end: u64,
    },
}

/// Reason why the present state does not allow a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the messages say they are")]
pub enum OperationRejection {
    /// Only the whole projection can be rebuilt with another version.
    #[error(
        "the rows of {projection} were folded by version {found}, this release has version {version}: only the whole of it can be rebuilt"
    )]
    OtherVersion { projection: String, found: i32, version: u32 },
    /// The rebuild does not wait to be accepted.
    #[error("rebuild {rebuild} of {projection} does not wait for a decision, it is {state}")]
    NotWaiting { projection: String, rebuild: String, state: RebuildState },
    /// The rebuild has ended.
    #[error("rebuild {rebuild} is {state} already")]
    Over { rebuild: String, state: RebuildState },
    /// There is no rebuild to accept or cancel.
    #[error("no rebuild of {projection} is in progress")]
    NothingUnderWay { projection: String },
    /// There is nothing to roll back to.
    #[error(
        "{projection} has no earlier generation to roll back to: readers see {active}, and no other is stored"
    )]
    NoEarlierGeneration { projection: String, active: i32 },
    /// The projection is already paused.
    #[error("{projection} is already paused by {by}: {reason}")]
    AlreadyPaused { projection: String, by: String, reason: String },
    /// It folds already.
    #[error("{projection} is not paused")]
    NotPaused { projection: String },
    /// No event waits to be folded.
    #[error("nothing is parked in {projection}{}", .key.as_ref().map_or(String::new(), |key| format!(" under key {key}")))]
    NothingParked { projection: String, key: Option<String> },
    /// Only the first parked event of a key can be left out.
    #[error(
        "event {position} is not what blocks key {key} of {projection}: event {first} is, the others wait behind it"
    )]
    NotFirstParked { projection: String, key: String, position: u64, first: i64 },
    /// There is no generation that readers no longer see.
    #[error("{projection} has no old generation to drop")]
    NoOldGeneration { projection: String },
}
