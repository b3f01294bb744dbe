//! Why verifying failed.

use exodrive_log::ReadError;
use exodrive_projections::Error;

/// Why a projection could not be verified.
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
        /// Which projection.
        projection: &'static str,
        /// The version of the rows.
        found: u32,
        /// The version of this release.
        own: u32,
    },
    /// Somebody retried, skipped or rolled back, again and again.
    #[error(
        "projection {0} was operated on all the while (events retried or skipped, or an older generation taken): verify again when that is done"
    )]
    Restless(&'static str),
}
