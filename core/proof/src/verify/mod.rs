//! Verification of an export offline: one file, the log's public key and the
//! checkpoints that the auditor kept.
//!
//! **Flow.** A thread reads the file in chunks; others turn chunks into
//! records and hash their leaves; the caller's thread takes the outcomes in
//! the file's order, lets the tree grow and compares its root with every
//! checkpoint. Memory does not grow with the file.

mod check;
mod outcome;
mod read;
mod work;

use crate::{
    Hash,
    note::{NoteError, SignedNote, VerifierKey, WitnessVerifierKey},
};
use std::{fmt, path::Path};

/// What an export is verified against.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// The log's keys; every checkpoint must be signed by one of them.
    pub keys: Vec<VerifierKey>,
    /// Checkpoints that the auditor kept. The export must be consistent with
    /// each.
    pub saved: Vec<SignedNote>,
    /// Witnesses; each must have cosigned the export's checkpoint or a kept
    /// one.
    pub witnesses: Vec<WitnessVerifierKey>,
    /// How many threads read records; 0 for as many as there are processors.
    pub threads: usize,
}

/// What a sound export proved.
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
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the leaves that were hashed.
    pub leaf_bytes: u64,
    /// The auditor's saved checkpoints that it is consistent with.
    pub saved_checkpoints: usize,
    /// Earlier checkpoints in the export itself.
    pub earlier_checkpoints: usize,
    /// Witnesses that cosigned the export's checkpoint or a kept one: the
    /// name, and the largest size cosigned.
    pub cosigned_by: Vec<(String, u64)>,
}

/// Where an export is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this position first.
    Position(u64),
    /// Somewhere after `after` and up to `up_to`: whoever changed it computed
    /// the hashes anew.
    Between {
        /// The last position known to be good.
        after: u64,
        /// The last of the positions in question.
        up_to: u64,
    },
    /// In what it says of itself, or against another checkpoint as a whole.
    Whole,
}

/// An export that is not what the log signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tampered {
    /// What is wrong, for people.
    pub reason: String,
    /// Where.
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

/// Why an export is not sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It was changed, or is not of this log.
    #[error("tampered: {0}")]
    Tampered(Tampered),
    /// Nothing can be said; the text tells what to do.
    #[error("{0}")]
    Unusable(String),
}

impl VerifyError {
    pub(crate) fn tampered(place: Place, reason: impl Into<String>) -> Self {
        Self::Tampered(Tampered { reason: reason.into(), place })
    }

    /// A checkpoint that cannot be believed.
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

/// Verifies an export in any format, without network or database. `progress`
/// is told how many bytes are done and how many there are.
///
/// # Errors
///
/// It is tampered with, or nothing can be said.
pub fn verify(
    file: &Path,
    expected: &Expectations,
    progress: impl FnMut(u64, u64),
) -> Result<VerifiedExport, VerifyError> {
    let source = read::Source::open(file)?;
    let checker = check::Checker::new(expected)?;
    work::run(source, expected, checker, progress)
}
