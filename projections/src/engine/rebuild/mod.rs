//! Rebuilds: another generation is filled beside the one that readers see,
//! caught up, compared with it, and swapped in.

mod compare;
mod copy;
mod governor;
pub(crate) mod load;
mod progress;
mod run;
mod swap;

pub use compare::{Comparison, Difference};
pub use run::RebuildSettings;
pub(crate) use run::run;
