//! What the tiles lack.

/// A tile that the database should hold and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seals lack the node at level {level}, index {index}")]
pub struct NoNode {
    /// Levels above the leaves.
    pub level: u8,
    /// Which of its level.
    pub index: u64,
}
