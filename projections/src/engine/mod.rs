//! Keeps a projection level with the log: read a batch, load its rows, fold, write rows and
//! checkpoint in one transaction, publish.
//!
//! A projection has one or more generations, each of one or more partitions; each partition has a
//! checkpoint and a writer of its own. Any number of workers may run an engine for the same
//! projection and share the partitions. A worker that stops, dies or hangs loses its leases within
//! [`store::LEASE`], and the fencing epoch rejects whatever it still tries to write.

mod alive;
mod apart;
pub mod cache;
mod context;
pub(crate) mod database;
pub(crate) mod feed;
pub(crate) mod fold;
pub(crate) mod histories;
pub mod inspect;
mod logins;
mod migration;
pub mod operations;
mod partition;
pub(crate) mod projection;
pub(crate) mod rebuild;
pub(crate) mod refused;
mod runner;
pub(crate) mod sandbox;
mod share;
mod still_parked;
pub mod store;
pub(crate) mod transaction;
pub(crate) mod watch;
pub(crate) mod writer;

pub use apart::Apart;
pub(crate) use context::Engine;
pub use context::{EngineSettings, RebuildSettings, Step};
pub use fold::keys_of;
pub use logins::Login;
pub(crate) use partition::PartitionId;
pub use partition::partition_of;
pub use runner::{Runner, run_all};
