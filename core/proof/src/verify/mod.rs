//! Verification of an export offline: one file, the log's public key and the
//! checkpoints that the auditor saved.
//!
//! **Flow.** A thread reads the file in chunks. Others turn chunks into records
//! and hash their leaves. The caller's thread takes the outcomes in the file's
//! order, lets the tree grow and compares its root with every checkpoint.
//! Memory does not grow with the file.

mod check;
mod outcome;
mod read;
mod work;

use crate::{
    Hash,
    note::{NoteError, SignedNote, VerifierKey, WitnessVerifierKey},
};
use std::{fmt, path::Path};

/// The keys and checkpoints that an export is verified against.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// The log's keys; every checkpoint must be signed by one of them.
    pub keys: Vec<VerifierKey>,
    /// Checkpoints that the auditor saved. The export must be consistent with
    /// each.
    pub saved: Vec<SignedNote>,
    /// Witnesses; each must have cosigned the export's checkpoint or a saved
    /// one.
    pub witnesses: Vec<WitnessVerifierKey>,
    /// The number of threads that read records; 0 for as many as there are
    /// processors.
    pub threads: usize,
}

/// The facts that a verified export proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedExport {
    /// The log's name.
    pub origin: String,
    /// Events in the export, every one recomputed.
    pub events: u64,
    /// Positions that it leaves out, present as hashes.
    pub omitted: u64,
    /// The size of the tree at the export's checkpoint.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// Bytes of the leaves that were hashed.
    pub leaf_bytes: u64,
    /// The number of saved checkpoints that it is consistent with.
    pub saved_checkpoints: usize,
    /// Earlier checkpoints in the export itself.
    pub earlier_checkpoints: usize,
    /// Witnesses that cosigned the export's checkpoint or a saved one: the
    /// name, and the largest size cosigned.
    pub cosigned_by: Vec<(String, u64)>,
}

/// The place of a fault in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first bad position.
    Position(u64),
    /// A position after `after` and up to `up_to`: the forger recomputed the
    /// hashes.
    Between {
        /// The last position known to be good.
        after: u64,
        /// The last of the positions in question.
        up_to: u64,
    },
    /// In its header, or in its disagreement with a checkpoint as a whole.
    Whole,
}

/// An export that differs from the log that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tampered {
    /// The fault, for people.
    pub reason: String,
    /// The place of the fault.
    pub place: Place,
}

impl Tampered {
    /// The first bad position, if it can be known.
    pub fn first_bad_position(&self) -> Option<u64> {
        match self.place {
            Place::Position(position) => Some(position),
            _ => None,
        }
    }
}

impl fmt::Display for Tampered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Position(position) => write!(out, "first bad position {position}: ")?,
            Place::Between { after, up_to } => {
                write!(out, "bad somewhere in the positions {} to {up_to}: ", after + 1)?;
            }
            Place::Whole => {}
        }
        out.write_str(&self.reason)
    }
}

/// Reason why an export is not verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It was changed, or is not of this log.
    #[error("tampered: {0}")]
    Tampered(Tampered),
    /// The export cannot be judged; the text names the remedy.
    #[error("{0}")]
    Unusable(String),
}

impl VerifyError {
    pub(crate) fn tampered(place: Place, reason: impl Into<String>) -> Self {
        Self::Tampered(Tampered { reason: reason.into(), place })
    }

    /// The error of a checkpoint that cannot be trusted.
    pub(crate) fn of_note(place: Place, which: &str, error: &NoteError) -> Self {
        let hint = match error {
            NoteError::NotSigned { .. } => {
                ". Either this is another log's, or it was forged; a key that the log had before may be missing among those given"
            }
            _ => "",
        };
        Self::tampered(place, format!("{which}: {error}{hint}"))
    }
}

/// Verifies an export in any format, without network or database. `progress` is
/// called with the number of bytes that are done and their total.
///
/// # Errors
///
/// It is tampered with, or cannot be judged.
pub fn verify(
    file: &Path,
    expected: &Expectations,
    progress: impl FnMut(u64, u64),
) -> Result<VerifiedExport, VerifyError> {
    let source = read::Source::open(file)?;
    let checker = check::Checker::new(expected)?;
    work::run(source, expected, checker, progress)
}
