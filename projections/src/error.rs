//! Errors of the read side.

use exodrive_log::ReadError;
use tokio::task::JoinError;

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
    Log(#[from] ReadError),
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
    /// The state of a worker has seen events that the log does not hold.
    #[error(
        "worker {worker} is at position {position}, but the event log ends at {end}: the log has lost events. Restore it, or begin with an empty database"
    )]
    WorkerAheadOfLog {
        /// The worker.
        worker: &'static str,
        /// The position up to which it has read.
        position: u64,
        /// The log's last position.
        end: u64,
    },
    /// A query reads a view that its transaction did not name, so that nobody has
    /// waited for it: a defect of the code that reads.
    #[error("the view {0} is read, and was not named when the read began")]
    ViewNotNamed(&'static str),
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
    /// A fold does not end, or brings its thread down, and to leave out the event
    /// that it is at does not help: a defect of the projection's own code.
    #[error(
        "the fold of projection {projection} does not end at position {position}, and leaving that event out does not help: fix the projection's code, and run a release with the fix"
    )]
    HungFold {
        /// The projection.
        projection: &'static str,
        /// The event's position; 0 if it is at no event.
        position: u64,
    },
    /// Postgres refuses rows, and takes every state of them alone.
    #[error(
        "Postgres refuses rows of projection {0} though it takes each of them alone: its own log has the reason"
    )]
    RefusedRows(&'static str),
    /// A task of the engine panicked: a defect of this program.
    #[error(
        "{0} panicked: the worker's log has the panic's message, which is a defect to report. Start the worker again; it goes on from its checkpoints"
    )]
    TaskPanicked(&'static str),
    /// A task of the engine is gone, and nothing had ended it.
    #[error(
        "{0} ended before its work was done, though nothing had stopped it: start the worker again; it goes on from its checkpoints"
    )]
    TaskEnded(&'static str),
    /// Another worker has taken over.
    #[error("another worker has taken projection {0} over")]
    Fenced(&'static str),
}

impl Error {
    /// True if no retry can succeed.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::OtherLog { .. }
            | Self::AheadOfLog { .. }
            | Self::WorkerAheadOfLog { .. }
            | Self::HungFold { .. }
            | Self::TaskPanicked(_)
            | Self::TaskEnded(_)
            | Self::ViewNotNamed(_)
            | Self::Log(ReadError::Hole { .. }) => true,
            // A key that these settings can never open.
            Self::Log(ReadError::Key(error)) => error.outage().is_none(),
            Self::Log(
                ReadError::Unavailable(_)
                | ReadError::KeyMissing { .. }
                | ReadError::Changed { .. },
            )
            | Self::Database(_)
            | Self::Migrate(_)
            | Self::Row { .. }
            | Self::RefusedRows(_)
            | Self::Fenced(_) => false,
        }
    }

    /// Why a task gave nothing. `task` names it, as the subject of a sentence.
    pub(crate) fn lost(task: &'static str, error: &JoinError) -> Self {
        if error.is_panic() { Self::TaskPanicked(task) } else { Self::TaskEnded(task) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exodrive_log::KeyError;

    #[test]
    fn a_permanent_fault_of_a_key_is_final_and_an_outage_is_not() {
        let wrapping = KeyError::Wrapping { name: "email.a".to_owned(), version: 2 };
        assert!(Error::from(ReadError::from(wrapping)).is_final());
        let out = ReadError::from(KeyError::Unavailable(None));
        assert!(!Error::from(out).is_final());
        assert!(!Error::from(ReadError::Unavailable("no answer".into())).is_final());
        assert!(Error::from(ReadError::Hole { expected: 1, found: 2 }).is_final());
        assert!(!Error::Fenced("inbox").is_final());
    }

    #[tokio::test]
    async fn a_task_that_panics_is_not_one_that_is_gone() {
        let panics = tokio::spawn(async { panic!("a panic of a test") });
        let error = Error::lost("The test's task", &panics.await.unwrap_err());
        assert!(matches!(error, Error::TaskPanicked(_)) && error.is_final());
        let gone = tokio::spawn(std::future::pending::<()>());
        gone.abort();
        let error = Error::lost("The test's task", &gone.await.unwrap_err());
        assert!(matches!(error, Error::TaskEnded(_)) && error.is_final());
    }
}
