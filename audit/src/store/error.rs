//! The error for a missing node of the tree.

/// A tile that the database should hold and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seals lack the node at level {level}, index {index}")]
pub struct NoNode {
    /// Levels above the leaves.
    pub level: u8,
    /// Its index in the level.
    pub index: u64,
}
