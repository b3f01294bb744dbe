//! Writes one partition of one generation for as long as this worker holds its lease.

mod backlog;
mod publish;
mod refold;
mod refolding;
mod retry;
mod run;
mod turn;

pub(crate) use run::write_until_lost;
