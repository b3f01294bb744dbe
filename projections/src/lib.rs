//! Views as folds over the log, the engine that writes them, and the queries that read their rows.
//!
//! **May import** the domain, the log, the runtime, the migrations, sqlx and
//! redis. Never appends.
//!
//! **Flow.** The author of a view works in [`mod@views`]: a folder with the fold, its table and its
//! queries. [`engine`] does the rest, the same for all views. A worker's runner takes the lease of
//! each partition of a projection's generations. The partition's writer reads the log in batches
//! from its checkpoint, loads the rows that a batch touches, folds them in memory
//! ([`Projection::evolve`], in a sandbox), writes rows and checkpoint in one transaction
//! ([`engine::store`]), and then publishes the rows that are served from Redis ([`engine::cache`]).
//! A rebuild fills another generation in bulk, lets the same writers catch it up, compares it with
//! the generation that readers see, and swaps it in. [`engine::operations`] applies operators'
//! events. The API reads through the `read` module of each view, in a role to which row-level
//! security applies ([`Database`]). [`engine::inspect`] is for code that verifies rows.
//!
//! **The answers are defined beside the views**, with their JSON and its description for the API's
//! documentation: Redis holds an answer as it is sent, rendered by the writer, so the writer must
//! know its form.
//!
//! **To add a view**: `docs/recipes.md`.

pub mod engine;
mod error;
mod outage;
pub mod views;

pub use engine::{
    database::{Database, Identity, ReadTransaction},
    projection::{PersonalData, Projection, Sources, reads},
    transaction::Transaction,
};
pub use error::Error;
pub use outage::is_postgres_outage;
pub use views::{
    list::{ViewInfo, names, version, view, views},
    query::{Page, Place, RowPlace, SortedPlace, parse_position},
};
