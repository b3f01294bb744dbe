//! Proofs with which a stranger can check the log while our database is
//! switched off: the leaf of a stored message, the Merkle tree over all leaves
//! (RFC 6962, RFC 9162), its tiles, signed checkpoints and cosignatures (C2SP
//! signed-note, tlog-checkpoint, tlog-tiles, tlog-cosignature), the files of an
//! export and their verification offline, and a witness's decision.
//!
//! **May import** hashes, signatures and file formats. No other crate of this
//! workspace, no network, no database and no async: an auditor can read this
//! crate alone.
//!
//! **Flow.** The sealer hashes each stored message ([`Leaf`]), pushes the
//! hashes into a [`tree::Tree`], stores them as [`tile::Tile`]s and signs the
//! root ([`note::sign`]). The API answers with [`tree::inclusion_proof`] and
//! [`tree::consistency_proof`] over those tiles. An export is a sequence of
//! [`export::Record`]s, written by [`export::ExportWriter`] and checked by
//! [`verify::verify`]. A [`witness::Witness`] cosigns a checkpoint that extends
//! the one that it saw last.
//!
//! A position of the log counts from 1, an index of the tree from 0: the event
//! at position `p` is leaf `p - 1`, and a tree of size `n` covers the positions
//! `1..=n`.

pub mod export;
mod leaf;
pub mod note;
pub mod tile;
pub mod tree;
pub mod verify;
pub mod witness;

pub use leaf::{Hash, Leaf};
