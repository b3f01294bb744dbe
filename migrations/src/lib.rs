//! The SQL that every database needs before a projection can build its tables
//! in it: the projections' own bookkeeping and the reading role.
//!
//! **May import** sqlx. The tables of a projection are not here: each of its
//! generations makes its own, from `schema.sql` in the projection's folder.

/// Every migration, embedded, in order.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./sql");
