//! What the engine keeps in Postgres: rows, checkpoints and leases,
//! generations, parked events, rows to be folded afresh.

pub(crate) mod erasures;
pub(crate) mod generations;
pub(crate) mod leases;
pub(crate) mod overview;
pub(crate) mod parked;
pub(crate) mod rebuilds;
pub(crate) mod refolds;
mod rows;
mod status;

pub use erasures::{ErasureLock, KnownErasure};
pub use leases::LEASE;
pub use refolds::RefoldsLeft;
pub use rows::partition_of;
pub(crate) use rows::{
    Part, begin, changed_since, check_log, is_refused_value, json, load, stored, to_i32, to_i64,
    to_u64, write,
};
pub use status::Status;
