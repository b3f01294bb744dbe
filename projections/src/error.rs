//! Errors of the read side.

/// Reason that a view could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres does not answer, or rejected the statement.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The migrations could not be applied.
    #[error("the database could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The log could not be read.
    #[error("the event log failed")]
    Log(#[from] exodrive_log::ReadError),
    /// The database was projected from another log.
    #[error(
        "this database was projected from another event log (made {database}, this one was made {log}): point EXODRIVE_DATABASE_URL at the right database, or at an empty one"
    )]
    OtherLog {
        /// Time that the log of the database was made.
        database: String,
        /// Time that this log was made.
        log: String,
    },
    /// The database has seen events that the log does not hold.
    #[error(
        "projection {projection} is at position {position}, but the event log ends at {end}: the log has lost events. Restore it, or project it again into an empty database"
    )]
    AheadOfLog {
        /// The projection.
        projection: &'static str,
        /// Its checkpoint.
        position: u64,
        /// The log's last position.
        end: u64,
    },
    /// A row that contradicts its type.
    #[error("row {key:?} of {table} cannot be read")]
    Row {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// The defect.
        #[source]
        source: serde_json::Error,
    },
    /// A defect of the engine itself: its task panicked.
    #[error("a projection's engine panicked, see the lines above; start the worker again")]
    Engine,
    /// Another worker has taken over.
    #[error("another worker has taken projection {0} over")]
    Fenced(&'static str),
}

impl Error {
    /// True if no retry can succeed.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::OtherLog { .. }
                | Self::AheadOfLog { .. }
                | Self::Engine
                | Self::Log(exodrive_log::ReadError::Hole { .. })
        )
    }
}
