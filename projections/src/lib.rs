//! Views as folds over the log, the engine that keeps them, and how their rows
//! are read.
//!
//! **May import** the domain, the log, the runtime, sqlx and redis. Never
//! appends.
//!
//! **Flow.** [`engine`] keeps the parts of a projection's generations; a turn as
//! a part's writer reads the log in batches from its checkpoint, loads the rows
//! that a batch touches, folds in memory ([`Projection::evolve`], in a sandbox),
//! and writes rows and checkpoint in one transaction ([`engine::store`]); then it
//! publishes the rows that are served from Redis ([`engine::cache`]). [`engine::rebuild`] fills
//! another generation in bulk, has it caught up by the same turns, compares it
//! and swaps it in. Operators' events are heeded in [`engine::operations`]. The API
//! reads by the `read` module of each projection, as a role that row-level
//! security holds for ([`Database`]); [`engine::inspect`] is for who verifies.
//! [`seals`] is what the log is sealed with.
//!
//! **To add a projection**: see [`Projection`].

pub mod engine;
pub mod seals;
pub mod views;

pub use engine::database::{Database, Identity, ReadTransaction};
pub use engine::projection::{Projection, Sources, reads};

use serde::Serialize;

/// Runs `$body` for every projection, with `$P` standing for it. The one list
/// of them.
#[macro_export]
macro_rules! for_each_projection {
    ($P:ident => $body:expr) => {
        $crate::for_each_projection!(
            $P => $body;
            inbox::Inbox
            email_timeline::EmailTimeline
            deliveries::Deliveries
            cars::Cars
            calendar::CalendarView
            bookings::Bookings
            booking_timeline::BookingTimeline
            customers::Customers
            payments::Payments
            accesses::Accesses
        )
    };
    ($P:ident => $body:expr; $($module:ident::$name:ident)*) => {{
        $({
            type $P = $crate::views::$module::$name;
            $body
        })*
    }};
}

/// The names of all projections.
pub fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    for_each_projection!(P => names.push(P::NAME));
    names
}

/// The version of a projection's fold in this release; 0 if there is no such
/// projection.
pub fn version(name: &str) -> i32 {
    let mut version = 0;
    for_each_projection!(P => {
        if P::NAME == name {
            version = engine::store::to_i32(P::VERSION);
        }
    });
    version
}

/// Why a view could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres does not answer, or refused.
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
        /// When the log of the database was made.
        database: String,
        /// When this one was made.
        log: String,
    },
    /// The database has seen events that the log does not hold.
    #[error(
        "projection {projection} is at position {position}, but the event log ends at {end}: the log has lost events. Restore it, or project anew into an empty database"
    )]
    AheadOfLog {
        /// Which projection.
        projection: &'static str,
        /// Its checkpoint.
        position: u64,
        /// The log's last position.
        end: u64,
    },
    /// A row that contradicts its type.
    #[error("row {key:?} of {table} cannot be read")]
    Row {
        /// Which table.
        table: &'static str,
        /// Which row.
        key: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The seals are not whole.
    #[error(transparent)]
    Seals(#[from] seals::NoNode),
    /// A defect of the engine itself: its task panicked.
    #[error("a projection's engine panicked, see the lines above; start the worker again")]
    Engine,
    /// Another worker has taken over.
    #[error("another worker has taken projection {0} over")]
    Fenced(&'static str),
}

impl Error {
    /// Whether no retry can mend it.
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

/// A page of a list, newest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}
