//! Proof of the log for people who need not trust us.
//!
//! **May import** the replays, the projections, the log, the proofs and the
//! domain.
//!
//! **Flow.** [`seal`] makes the log tamper-evident: events become leaves of a Merkle tree whose
//! root is signed; [`store`] stores tiles and checkpoints in Postgres. [`export`] writes a part of
//! the log, which [`events`] selects, with everything that proves it. [`evidence`] shows the
//! history of email with every delivery's bytes and signature ([`webhook_signature`]).

pub mod events;
pub mod evidence;
pub mod export;
pub mod seal;
pub mod store;
pub mod webhook_signature;
