//! Operators' commands for projections. Each is an event of the log; the first worker to see it
//! applies it, once. Its effects are in tables, which the engine obeys and which the API reads
//! back.

mod apply;

pub use super::store::{
    operations::UnrecordedSwap,
    overview::{Generation, ParkedEvent, Rebuild},
    states::{GenerationState, RebuildKind, RebuildState},
};
pub use apply::OperatorCommand;

use crate::{Projection, for_each_projection};

/// A projection's name, version and subjects, from its code.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// The version of the fold in this release.
    pub version: u32,
    /// Prefixes of the subjects whose events it may fold.
    pub subjects: &'static [&'static str],
}

impl Description {
    /// The projection of this name; `None` if there is none.
    pub fn of(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|it| it.name == name)
    }

    /// All projections.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for_each_projection!(P => {
            all.push(Self { name: P::NAME, version: P::VERSION, subjects: P::SUBJECTS });
        });
        all
    }
}
