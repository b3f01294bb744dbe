//! What a worker process does beside projecting.
//!
//! **May import** the commands, the audit, the replays, the projections, the log,
//! the domain and the runtime; never HTTP.

pub mod drift_check;
pub mod erasure;
pub mod hold_expiry;
pub mod operations;
pub mod sealing;
