//! The growing tree, before it is sealed.

use crate::store::{Place, Seal};
use exodrive_proof::{
    Hash,
    note::Checkpoint,
    tile::{HEIGHT, WIDTH},
    tree::{Node, Tree},
};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// A checkpoint is made after this many events ...
const STEP: u64 = 256;
/// ... or after this many while the log is far ahead.
const LONG_STEP: u64 = 4_096;

/// The sealed tree, and the events that are not sealed yet.
pub(super) struct TreeGrowth {
    pub(super) tree: Tree,
    /// The newest checkpoint.
    pub(super) sealed: Option<Seal>,
    /// The hash of the last sealed event, and of the last one at all.
    pub(super) sealed_leaf: Option<Hash>,
    pub(super) newest_leaf: Option<Hash>,
    /// Tiles that were not full then, and have grown since.
    pub(super) tiles: BTreeMap<Place, Vec<Hash>>,
    /// A checkpoint that is saved beside the log and that the database has lost: nothing is signed
    /// before the tree has its size and its root.
    pub(super) floor: Option<Checkpoint>,
    /// Time by which the events that are not sealed must be.
    pub(super) due: Option<Instant>,
    /// Number of events in the log that were not read yet.
    pub(super) behind: u64,
}

impl TreeGrowth {
    pub(super) fn sealed_size(&self) -> u64 {
        self.sealed.as_ref().map_or(0, |seal| seal.size)
    }

    pub(super) fn push(&mut self, leaf: Hash) {
        self.newest_leaf = Some(leaf);
        let tiles = &mut self.tiles;
        self.tree.push_leaf_with(leaf, |Node { level, index, hash }| {
            if level.is_multiple_of(HEIGHT) {
                tiles.entry((level / HEIGHT, index / WIDTH)).or_default().push(hash);
            }
        });
    }

    /// Events between two checkpoints.
    fn step(&self) -> u64 {
        if self.floor.is_some() || self.behind >= LONG_STEP { LONG_STEP } else { STEP }
    }

    fn unsealed(&self) -> u64 {
        self.tree.size() - self.sealed_size()
    }

    /// Number of events that fit before the next checkpoint.
    pub(super) fn room(&self) -> usize {
        let room = self.step() - self.unsealed() % self.step();
        let floor = self.floor.as_ref().map_or(room, |it| it.size.saturating_sub(self.tree.size()));
        room.min(floor).max(1) as usize
    }

    /// True if a checkpoint is due.
    pub(super) fn is_due(&self) -> bool {
        let late = self.due.is_some_and(|due| due <= Instant::now());
        let full = match &self.floor {
            Some(floor) if self.tree.size() == floor.size => true,
            Some(_) => self.unsealed().is_multiple_of(LONG_STEP),
            None => self.unsealed() >= self.step(),
        };
        self.unsealed() > 0 && (late || full)
    }
}
