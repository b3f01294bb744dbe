//! A witness's decision: it cosigns a checkpoint only if it extends the one
//! that it saw last. So all holders of a cosigned checkpoint know that the
//! witness saw the same log as they did, up to that size.

use crate::{
    Hash,
    note::{self, Checkpoint, NoteError, SignedNote, VerifierKey, WitnessKey},
    tree,
};

/// The memory of a witness: only the checkpoint that it cosigned last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witness {
    /// That checkpoint; none before the first, which is taken on trust.
    pub last: Option<Checkpoint>,
}

/// A checkpoint that may be cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted<'a> {
    note: &'a SignedNote,
    /// Its content.
    pub checkpoint: Checkpoint,
}

impl Accepted<'_> {
    /// The note with the witness's cosignature.
    pub fn cosign(&self, key: &WitnessKey, unix_time: u64) -> SignedNote {
        note::cosign(self.note, key, unix_time)
    }
}

/// Reason why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// The checkpoint is not signed by the log.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// It is of another log.
    #[error("the checkpoint is of the log {found:?}, but this witness follows {followed:?}")]
    OtherLog {
        /// The log that it names.
        found: String,
        /// The log that the witness follows.
        followed: String,
    },
    /// It is older than the checkpoint that the witness saw.
    #[error(
        "the log shows size {found}, but it had shown size {seen} before: it was cut back, restored from an older copy, or is hiding events"
    )]
    Smaller {
        /// The size that it shows.
        found: u64,
        /// The size that the witness saw.
        seen: u64,
    },
    /// The log signed two roots for one size.
    #[error(
        "SPLIT VIEW: the log signed two different trees of size {size}. Keep both checkpoints: together they prove it"
    )]
    SplitView {
        /// The size of both.
        size: u64,
    },
    /// The proof does not lead from the last checkpoint to this one.
    #[error(
        "the log of size {found} does not extend what it had shown at size {seen}: its past was changed, or the proof is wrong. Keep both checkpoints"
    )]
    Inconsistent {
        /// The size that it shows.
        found: u64,
        /// The size that the witness saw.
        seen: u64,
    },
}

impl WitnessError {
    /// True if the error accuses the log, and not only the request.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::Smaller { .. } | Self::SplitView { .. } | Self::Inconsistent { .. })
    }
}

impl Witness {
    /// Advances to the checkpoint in `note` if `keys` sign it and `proof`, the
    /// consistency proof from the last checkpoint's size to this one's, holds.
    /// The proof is empty for the first checkpoint and for one of equal size.
    ///
    /// The caller must store the output of [`Accepted::cosign`] before showing
    /// it to anyone.
    ///
    /// # Errors
    ///
    /// The witness does not advance.
    pub fn advance<'a>(
        &mut self,
        note: &'a SignedNote,
        proof: &[Hash],
        keys: &[VerifierKey],
    ) -> Result<Accepted<'a>, WitnessError> {
        let checkpoint = note::verify(note, keys)?;
        if let Some(last) = &self.last {
            extends(last, &checkpoint, proof)?;
        }
        self.last = Some(checkpoint.clone());
        Ok(Accepted { note, checkpoint })
    }
}

fn extends(last: &Checkpoint, next: &Checkpoint, proof: &[Hash]) -> Result<(), WitnessError> {
    let (seen, found) = (last.size, next.size);
    if last.origin != next.origin {
        let (found, followed) = (next.origin.clone(), last.origin.clone());
        return Err(WitnessError::OtherLog { found, followed });
    }
    if found < seen {
        return Err(WitnessError::Smaller { found, seen });
    }
    if found == seen && last.root != next.root {
        return Err(WitnessError::SplitView { size: seen });
    }
    if !tree::verify_consistency(seen, found, &last.root, &next.root, proof) {
        return Err(WitnessError::Inconsistent { found, seen });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{note::SigningKey, tree::Tree};

    const ORIGIN: &str = "exodrive.example/log";

    fn leaves(size: u64, salt: u8) -> Vec<Hash> {
        (0..size).map(|it| [it as u8 ^ salt; 32]).collect()
    }

    fn signed(leaves: &[Hash], key: &SigningKey) -> SignedNote {
        let mut tree = Tree::new();
        leaves.iter().for_each(|leaf| tree.push_leaf(*leaf));
        let checkpoint = Checkpoint {
            origin: key.name().to_owned(),
            size: tree.size(),
            root: tree.root(),
            extensions: Vec::new(),
        };
        note::sign(&checkpoint, &[key])
    }

    fn proof(leaves: &[Hash], from: u64) -> Vec<Hash> {
        let nodes = |level: u8, index: u64| {
            let from = (index << level) as usize;
            let mut tree = Tree::new();
            leaves[from..from + (1 << level)].iter().for_each(|leaf| tree.push_leaf(*leaf));
            Ok::<_, ()>(tree.root())
        };
        tree::consistency_proof(from, leaves.len() as u64, &nodes).unwrap()
    }

    #[test]
    fn only_an_extension_of_the_last_checkpoint_is_cosigned() {
        let key = SigningKey::generate(ORIGIN).unwrap();
        let keys = [key.verifier()];
        let own = WitnessKey::generate("witness.example").unwrap();
        let log = leaves(9, 0);
        let mut witness = Witness::default();
        let first = signed(&log[..5], &key);
        witness.advance(&first, &[], &keys).unwrap();
        witness.advance(&first, &[], &keys).unwrap();

        let split = signed(&leaves(5, 128), &key);
        assert_eq!(witness.advance(&split, &[], &keys), Err(WitnessError::SplitView { size: 5 }));
        let smaller = signed(&log[..4], &key);
        let refused = witness.advance(&smaller, &[], &keys).unwrap_err();
        assert_eq!(refused, WitnessError::Smaller { found: 4, seen: 5 });
        assert!(refused.is_alarm());
        let forked = leaves(9, 128);
        assert_eq!(
            witness.advance(&signed(&forked, &key), &proof(&forked, 5), &keys),
            Err(WitnessError::Inconsistent { found: 9, seen: 5 })
        );
        let grown = signed(&log, &key);
        assert!(matches!(
            witness.advance(&grown, &proof(&log, 4), &keys),
            Err(WitnessError::Inconsistent { .. })
        ));
        let forger = SigningKey::generate(ORIGIN).unwrap();
        assert!(matches!(
            witness.advance(&signed(&log, &forger), &proof(&log, 5), &keys),
            Err(WitnessError::Note(NoteError::NotSigned { .. }))
        ));
        let other = SigningKey::generate("other.example").unwrap();
        assert!(matches!(
            witness.advance(&signed(&log, &other), &proof(&log, 5), &[other.verifier()]),
            Err(WitnessError::OtherLog { .. })
        ));
        assert_eq!(witness.last.as_ref().map(|last| last.size), Some(5));

        let accepted = witness.advance(&grown, &proof(&log, 5), &keys).unwrap();
        let cosigned = accepted.cosign(&own, 100);
        assert_eq!(note::verify_cosignature(&cosigned, &own.verifier()), Ok(100));
        assert_eq!(note::verify(&cosigned, &keys).unwrap(), accepted.checkpoint);
        assert_eq!(witness.last.map(|last| last.size), Some(9));
    }
}
