//! Separates outages, which pass, from faults, which stay until somebody changes
//! something.

use crate::Error;
use sqlx::migrate::MigrateError;

impl Error {
    /// True if a service is out: the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Database(error) => is_postgres_outage(error),
            Self::Log(error) => error.outage().is_some(),
            _ => false,
        }
    }
}

impl Error {
    /// True if others were in the way: a lock was not free in time, or two transactions have met.
    pub(crate) fn is_contention(&self) -> bool {
        let error = match self {
            Self::Database(error)
            | Self::Migrate(
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
            ) => error,
            _ => return false,
        };
        // XX000: two grants changed one entry of the catalogue ("tuple concurrently updated").
        let code = error.as_database_error().and_then(|error| error.code());
        code.is_some_and(|code| code.starts_with("40") || code == "55P03" || code == "XX000")
    }
}

/// True if Postgres is out: it does not answer, or says that it cannot now. The
/// same statement may succeed later; any other error stays until somebody
/// changes something.
pub fn is_postgres_outage(error: &sqlx::Error) -> bool {
    // Classes of SQLSTATE: connections, a standby that takes no writes,
    // serialization failures, resources, locks, the operator's intervention
    // (shutdown, timeouts), the system, and defects of the server. 42P01, a
    // table that is not there: another generation replaced it a moment ago, or
    // nobody has migrated the database yet.
    const OUTAGES: [&str; 9] = ["08", "25", "40", "42P01", "53", "55", "57", "58", "XX"];
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| OUTAGES.iter().any(|class| code.starts_with(class)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{borrow::Cow, fmt};

    /// An answer of Postgres, by its SQLSTATE.
    #[derive(Debug)]
    struct Answer(&'static str);

    impl fmt::Display for Answer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Answer {}

    impl sqlx::error::DatabaseError for Answer {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn a_migration_is_tried_again_when_others_were_in_the_way() {
        let of = |code| sqlx::Error::from(Answer(code));
        for code in ["55P03", "40P01", "40001", "XX000"] {
            assert!(Error::Database(of(code)).is_contention(), "{code}");
            let migration = MigrateError::ExecuteMigration(of(code), 12);
            assert!(Error::Migrate(migration).is_contention(), "{code}");
        }
        for code in ["42501", "42P07", "57014"] {
            assert!(!Error::Database(of(code)).is_contention(), "{code}");
        }
        assert!(!Error::Migrate(MigrateError::VersionMismatch(12)).is_contention());
    }

    #[test]
    fn an_outage_passes_and_a_fault_stays() {
        let answers = |code| is_postgres_outage(&sqlx::Error::from(Answer(code)));
        for outage in ["57P01", "57014", "53300", "08006", "40001", "25006", "42P01"] {
            assert!(answers(outage), "{outage}");
        }
        for fault in ["42501", "42601", "22P02", "23505", "28P01"] {
            assert!(!answers(fault), "{fault}");
        }
        assert!(is_postgres_outage(&sqlx::Error::PoolTimedOut));
        assert!(!is_postgres_outage(&sqlx::Error::ColumnNotFound("name".to_owned())));
        let source = serde_json::from_str::<u8>("{").unwrap_err();
        assert!(!Error::Row { table: "inbox", key: "a".to_owned(), source }.is_outage());
        assert!(Error::Database(sqlx::Error::PoolTimedOut).is_outage());
    }
}
