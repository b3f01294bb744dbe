//! Tiles of the tree (C2SP tlog-tiles): the form in which nodes are stored and
//! served.
//!
//! A tile of height 8 holds up to 256 hashes side by side: at tile level 0 the
//! leaves, at tile level `n` the nodes 8·n levels above them. Nodes between
//! tile levels are computed. A tile with fewer hashes is partial; it grows, and
//! its hashes never change.

use crate::{Hash, tree};
use std::{fmt, str::FromStr};

/// Levels of the tree between two levels of tiles.
pub const HEIGHT: u8 = 8;
/// The number of hashes in a full tile.
pub const WIDTH: u64 = 1 << HEIGHT;

/// The place of a tile, and the number of hashes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// The tile's level: its hashes are nodes at level 8·`level` of the tree.
    pub level: u8,
    /// Its index in its level, from the left.
    pub index: u64,
    /// The number of hashes in it, 1 to 256.
    pub width: u16,
}

impl Tile {
    /// The tile at this place in a tree of `size` leaves. `None` if the
    /// tree has no node there yet.
    pub fn of(level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(u32::from(level) * u32::from(HEIGHT)).unwrap_or(0);
        let width = hashes.saturating_sub(index.checked_mul(WIDTH)?).min(WIDTH);
        (width > 0).then_some(Self { level, index, width: width as u16 })
    }

    /// The tile of a tree of `size` leaves that holds the complete subtree at
    /// `level` and `index`, or the nodes that it is computed from. `None` if the
    /// subtree is not complete at that size.
    pub fn holding(level: u8, index: u64, size: u64) -> Option<Self> {
        let leaves = index.checked_add(1)?.checked_mul(1_u64.checked_shl(u32::from(level))?)?;
        if leaves > size {
            return None;
        }
        Self::of(level / HEIGHT, (index << (level % HEIGHT)) / WIDTH, size)
    }

    /// The node at `level` and `index` of the tree, out of this tile's hashes.
    /// `None` if the tile does not hold the nodes that it is computed from.
    pub fn node(&self, hashes: &[Hash], level: u8, index: u64) -> Option<Hash> {
        let above = level % HEIGHT;
        let first = index.checked_mul(1 << above)?;
        if level / HEIGHT != self.level || first / WIDTH != self.index {
            return None;
        }
        let from = (first % WIDTH) as usize;
        let mut row = hashes.get(from..from + (1 << above))?.to_vec();
        while row.len() > 1 {
            row = row
                .as_chunks()
                .0
                .iter()
                .map(|[left, right]| tree::node_hash(left, right))
                .collect();
        }
        row.first().copied()
    }

    /// True if no further hash will be added to it.
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == WIDTH
    }
}

/// The tiles that are new or wider in a tree of `to` leaves than in one of
/// `from`, in the form of the larger tree.
pub fn changed(from: u64, to: u64) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for level in 0..=(u64::BITS / u32::from(HEIGHT)) as u8 {
        let hashes =
            |size: u64| size.checked_shr(u32::from(level) * u32::from(HEIGHT)).unwrap_or(0);
        let (old, new) = (hashes(from), hashes(to));
        if old >= new {
            break;
        }
        tiles.extend(
            (old / WIDTH..new.div_ceil(WIDTH)).filter_map(|index| Tile::of(level, index, to)),
        );
    }
    tiles
}

/// The path of C2SP tlog-tiles: `tile/<level>/<index>[.p/<width>]`, the index
/// in groups of three digits, all but the last with an `x`.
impl fmt::Display for Tile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "tile/{}/", self.level)?;
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups[1..].iter().rev() {
            write!(out, "x{group:03}/")?;
        }
        write!(out, "{:03}", groups[0])?;
        if !self.is_full() {
            write!(out, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

/// The error of a text that is not the path of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the path of a tile: expected tile/<level>/<index>[.p/<width>], such as tile/0/x001/067"
)]
pub struct NotATile;

impl FromStr for Tile {
    type Err = NotATile;

    fn from_str(path: &str) -> Result<Self, NotATile> {
        parse(path).filter(|tile| tile.to_string() == path).ok_or(NotATile)
    }
}

/// Reads a path. The caller must reject a path that [`Tile`] would spell
/// otherwise.
fn parse(path: &str) -> Option<Tile> {
    let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => {
            (index, width.parse().ok().filter(|width| (1..256).contains(width))?)
        }
        None => (rest, 256),
    };
    let mut number = 0_u64;
    for group in index.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        number =
            number.checked_mul(1000)?.checked_add(digits.parse().ok().filter(|it| *it < 1000)?)?;
    }
    Some(Tile { level: level.parse().ok().filter(|level| *level < 64)?, index: number, width })
}
