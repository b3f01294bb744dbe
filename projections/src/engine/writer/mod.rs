//! Writes one part of one generation for as long as this worker holds its
//! lease.

mod publish;
mod refold;
mod retry;
mod run;

pub(crate) use run::take;
