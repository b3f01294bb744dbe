//! Errors of a verification.

use exodrive_log::ReadError;
use exodrive_projections::Error;

/// Reason that a projection could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log could not be read.
    #[error("the log cannot be read")]
    Log(#[from] ReadError),
    /// Postgres could not be read.
    #[error("the views cannot be read")]
    Database(#[from] Error),
    /// Only the release that folds the rows can fold them again.
    #[error(
        "the rows of {projection} were folded by version {found} of its fold, this release has version {own}: verify with the release that is running"
    )]
    OtherVersion {
        /// The projection.
        projection: &'static str,
        /// The version of the rows.
        found: u32,
        /// The version of this release.
        own: u32,
    },
    /// Operators retried, skipped or rolled back again and again.
    #[error(
        "operators changed projection {0} during every attempt (events retried or skipped, or a rollback): verify again when that is done"
    )]
    Restless(&'static str),
}
