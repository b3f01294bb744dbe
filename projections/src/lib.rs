//! Views as folds over the log, the engine that keeps them, and how their rows
//! are read.
//!
//! **May import** the domain, the log, the runtime, the migrations, sqlx and
//! redis. Never appends.
//!
//! **Flow.** Whoever writes a view stays in [`views`]: a folder with the fold, its
//! table and its queries. [`engine`] does the rest, the same for all of them. A
//! worker's runner takes the lease of each part of a projection's generations;
//! the part's writer reads the log in batches from its checkpoint, loads the rows
//! that a batch touches, folds them in memory ([`Projection::evolve`], in a
//! sandbox), writes rows and checkpoint in one transaction ([`engine::store`]),
//! and then publishes the rows that are served from Redis ([`engine::cache`]). A
//! rebuild fills another generation in bulk, lets the same writers catch it up,
//! compares it with the one that readers see, and swaps it in.
//! [`engine::operations`] applies operators' events. The API reads by the `read`
//! module of each view, as a role that row-level security holds for
//! ([`Database`]); [`engine::inspect`] is for whoever verifies.
//!
//! **The answers stand with the views**, with their JSON and its description for
//! the API's documentation: Redis holds an answer as it is sent, rendered by the
//! writer, so the writer must know its form.
//!
//! **To add a view**: `docs/recipes.md`.

pub mod engine;
mod error;
pub mod views;

pub use engine::{
    database::{Database, Identity, ReadTransaction},
    projection::{PersonalData, Projection, Sources, reads},
};
pub use error::Error;
pub use views::{
    list::{ViewInfo, names, version, view, views},
    query::Page,
};
