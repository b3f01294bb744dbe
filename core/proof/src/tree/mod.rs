//! The Merkle tree of RFC 6962: its right edge, which grows, and the nodes
//! that cover a range of leaves.

mod proof;

pub use proof::{
    Nodes, consistency_nodes, consistency_proof, inclusion_nodes, inclusion_proof,
    verify_consistency, verify_inclusion,
};

use crate::Hash;
use sha2::{Digest, Sha256};

/// Sets inner nodes apart from leaves (RFC 6962, section 2.1).
const NODE_PREFIX: u8 = 1;

/// The root of a complete subtree: level 0 are leaves, the node at `level`
/// and `index` covers the leaves `index << level .. (index + 1) << level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The number of levels above the leaves.
    pub level: u8,
    /// Its index in its level, from the left.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0; 65];
    bytes[0] = NODE_PREFIX;
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    Sha256::digest(bytes).into()
}

/// The root of the tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The fewest complete subtrees that cover the leaves `from..to`, from left to
/// right: (level, index) of each.
pub fn canonical(from: u64, to: u64) -> Vec<(u8, u64)> {
    let mut nodes = Vec::new();
    let mut at = from;
    while at < to {
        let aligned = at.trailing_zeros().min(63);
        let fitting = (to - at).ilog2();
        let level = aligned.min(fitting);
        nodes.push((level as u8, at >> level));
        at += 1 << level;
    }
    nodes
}

/// The hash of the leaves that `canonical` nodes cover, from their hashes in
/// the same order. It is RFC 6962's MTH of them if a subtree of that size
/// begins at the first leaf; that is so for a tree and for every part of a
/// proof.
pub fn root_of(hashes: &[Hash]) -> Hash {
    let Some((last, rest)) = hashes.split_last() else { return empty_root() };
    rest.iter().rev().fold(*last, |right, left| node_hash(left, &right))
}

/// The node does not begin where the tree ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node at level {level}, index {index} does not begin where the tree ends, at {size}")]
pub struct Misplaced {
    /// The node's level.
    pub level: u8,
    /// The node's index.
    pub index: u64,
    /// The tree's size.
    pub size: u64,
}

/// The right edge of a tree, all that is needed to let it grow: the complete
/// subtrees that cover its leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    edge: Vec<Node>,
}

impl Tree {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves whose [`canonical`]`(0, size)` nodes have
    /// these hashes. `None` if their number is wrong.
    pub fn from_edge(size: u64, hashes: &[Hash]) -> Option<Self> {
        let places = canonical(0, size);
        (places.len() == hashes.len()).then(|| Self {
            size,
            edge: places
                .into_iter()
                .zip(hashes)
                .map(|((level, index), hash)| Node { level, index, hash: *hash })
                .collect(),
        })
    }

    /// The number of its leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The complete subtrees that cover its leaves, from left to right.
    pub fn edge(&self) -> &[Node] {
        &self.edge
    }

    /// Its root.
    pub fn root(&self) -> Hash {
        let Some((last, rest)) = self.edge.split_last() else { return empty_root() };
        rest.iter().rev().fold(last.hash, |right, left| node_hash(&left.hash, &right))
    }

    /// Appends a leaf.
    pub fn push_leaf(&mut self, hash: Hash) {
        self.push_leaf_with(hash, |_| ());
    }

    /// Appends a leaf and passes every node that it completes to `complete`,
    /// the leaf first.
    pub fn push_leaf_with(&mut self, hash: Hash, complete: impl FnMut(Node)) {
        self.grow(Node { level: 0, index: self.size, hash }, complete);
    }

    /// Appends a complete subtree.
    ///
    /// # Errors
    ///
    /// It does not begin where the tree ends.
    pub fn push_node(&mut self, node: Node) -> Result<(), Misplaced> {
        let Node { level, index, .. } = node;
        let begin = index.checked_shl(u32::from(level)).filter(|it| it >> level == index);
        let end = index
            .checked_add(1)
            .and_then(|it| it.checked_mul(1_u64.checked_shl(u32::from(level))?));
        if level > 62 || begin != Some(self.size) || end.is_none() {
            return Err(Misplaced { level, index, size: self.size });
        }
        self.grow(node, |_| ());
        Ok(())
    }

    fn grow(&mut self, mut node: Node, mut complete: impl FnMut(Node)) {
        self.size += 1 << node.level;
        complete(node);
        while let Some(left) = self.edge.pop_if(|left| left.level == node.level) {
            node = Node {
                level: node.level + 1,
                index: node.index >> 1,
                hash: node_hash(&left.hash, &node.hash),
            };
            complete(node);
        }
        self.edge.push(node);
    }
}
