//! The engine's tables in Postgres: rows, checkpoints and leases, generations, parked events, rows
//! to be folded again; and the states of workers.

pub(crate) mod comparison;
pub(crate) mod copy;
pub(crate) mod erasures;
pub(crate) mod generations;
pub(crate) mod inspection;
pub(crate) mod leases;
mod numbers;
mod open_holds;
pub(crate) mod operations;
pub(crate) mod overview;
pub(crate) mod parked;
pub(crate) mod rebuilds;
pub(crate) mod refolds;
mod rows;
pub(crate) mod states;
mod status;
pub(crate) mod swaps;
mod worker_status;

pub use comparison::{Comparison, Difference, NewlyParked};
pub use erasures::{ErasureLock, KnownErasure};
pub use leases::LEASE;
pub(crate) use numbers::to_i32;
pub use numbers::{to_i64, to_u64};
pub use open_holds::OpenHold;
pub use refolds::RefoldsLeft;
pub(crate) use rows::{
    begin_transaction, changed_since, check_log, is_refused_value, json, load, take, write,
};
pub use states::{GenerationState, RebuildKind, RebuildState};
pub use status::Status;
pub use worker_status::{RecordedWorker, WorkerState, WorkerStatus};
