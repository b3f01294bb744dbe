//! Rebuilds: another generation is filled beside the one that readers see, caught up, compared with
//! it, and swapped in.

mod compare;
mod governor;
pub(crate) mod load;
mod progress;
mod run;
mod swap;

pub(crate) use run::run;
