//! What operators want of the projections: heeded once, by whichever worker is
//! first, and read back for whoever asks. The wishes are events of the log;
//! what they come to stands in tables, which the engine goes by.

mod apply;

pub use super::store::{
    operations::UnrecordedSwap,
    overview::{Generation, ParkedEvent, Rebuild},
    states::{GenerationState, RebuildKind, RebuildState},
};
pub use apply::OperatorCommand;

use crate::{Projection, for_each_projection};

/// What a projection is, by its code.
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
    /// The projection of this name; none if there is none.
    pub fn of(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|it| it.name == name)
    }

    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for_each_projection!(P => {
            all.push(Self { name: P::NAME, version: P::VERSION, subjects: P::SUBJECTS });
        });
        all
    }
}
