//! Inclusion and consistency proofs (RFC 9162, sections 2.1.3 and 2.1.4).

use super::{canonical, empty_root, node_hash, root_of};
use crate::Hash;

/// A source of the hashes of complete subtrees.
pub trait Nodes {
    /// Reason why a hash is not available.
    type Error;

    /// The hash of the complete subtree at this level and index.
    ///
    /// # Errors
    ///
    /// It is not available.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

impl<F, E> Nodes for F
where
    F: Fn(u8, u64) -> Result<Hash, E>,
{
    type Error = E;

    fn node(&self, level: u8, index: u64) -> Result<Hash, E> {
        self(level, index)
    }
}

/// A proof is a list of hashes, each of a range of leaves.
type Ranges = Vec<(u64, u64)>;

/// The proof that leaf `index` is in the tree of `size` leaves. Empty if
/// `index` is not below `size`.
///
/// # Errors
///
/// A node is not available.
pub fn inclusion_proof<N: Nodes>(index: u64, size: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    hashes(&inclusion_ranges(index, size), nodes)
}

/// The proof that the tree of `from` leaves is the beginning of the tree of
/// `to` leaves. Empty if `from` is 0 or not below `to`.
///
/// # Errors
///
/// A node is not available.
pub fn consistency_proof<N: Nodes>(from: u64, to: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    hashes(&consistency_ranges(from, to), nodes)
}

/// The nodes (level, index) that [`inclusion_proof`] will ask for, so that a
/// store can fetch them at once.
pub fn inclusion_nodes(index: u64, size: u64) -> Vec<(u8, u64)> {
    nodes_of(&inclusion_ranges(index, size))
}

/// The nodes (level, index) that [`consistency_proof`] will ask for.
pub fn consistency_nodes(from: u64, to: u64) -> Vec<(u8, u64)> {
    nodes_of(&consistency_ranges(from, to))
}

fn nodes_of(ranges: &[(u64, u64)]) -> Vec<(u8, u64)> {
    ranges.iter().flat_map(|(from, to)| canonical(*from, *to)).collect()
}

fn hashes<N: Nodes>(ranges: &[(u64, u64)], nodes: &N) -> Result<Vec<Hash>, N::Error> {
    let hash = |(from, to): &(u64, u64)| {
        let parts: Result<Vec<_>, _> = canonical(*from, *to)
            .into_iter()
            .map(|(level, index)| nodes.node(level, index))
            .collect();
        parts.map(|parts| root_of(&parts))
    };
    ranges.iter().map(hash).collect()
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

fn inclusion_ranges(index: u64, size: u64) -> Ranges {
    let mut ranges = Vec::new();
    if index >= size {
        return ranges;
    }
    let (mut from, mut to) = (0, size);
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            ranges.push((middle, to));
            to = middle;
        } else {
            ranges.push((from, middle));
            from = middle;
        }
    }
    ranges.reverse();
    ranges
}

fn consistency_ranges(old: u64, size: u64) -> Ranges {
    let mut ranges = Vec::new();
    if old == 0 || old >= size {
        return ranges;
    }
    let (mut from, mut to) = (0, size);
    while to != old {
        let middle = from + split(to - from);
        if old <= middle {
            ranges.push((middle, to));
            to = middle;
        } else {
            ranges.push((from, middle));
            from = middle;
        }
    }
    // The verifier knows the old root, so the proof leaves it out if it is a
    // node.
    if from != 0 {
        ranges.push((from, to));
    }
    ranges.reverse();
    ranges
}

/// True if `proof` shows that the leaf with this hash is number `index` of the
/// tree of `size` leaves with this root. The proof must have exactly the hashes
/// that are needed.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            // The last node of a level goes up until it has a left sibling.
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// True if `proof` shows that the tree of `from` leaves with the root
/// `from_root` is the beginning of the tree of `to` leaves with the root
/// `to_root`. The proof must have exactly the hashes that are needed: none if
/// the sizes are equal or the first tree has no leaves.
pub fn verify_consistency(
    from: u64,
    to: u64,
    from_root: &Hash,
    to_root: &Hash,
    proof: &[Hash],
) -> bool {
    if from > to {
        return false;
    }
    if from == to {
        return proof.is_empty() && from_root == to_root;
    }
    if from == 0 {
        return proof.is_empty() && *from_root == empty_root();
    }
    let (first, rest) = match proof.split_first() {
        _ if from.is_power_of_two() => (from_root, proof),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let shift = (from - 1).trailing_ones();
    let (mut place, mut last) = ((from - 1) >> shift, (to - 1) >> shift);
    let (mut old, mut new) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && old == *from_root && new == *to_root
}
