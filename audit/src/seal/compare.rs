//! Compares the log with its seals.

use super::leaf::leaf_hash;
use crate::store::{Place, Seal, SealStore, StoreError};
use exodrive_log::{FEW_BYTES, Log, ReadError, StoredBatch, StoredReader};
use exodrive_proof::{
    Hash,
    note::{self, Checkpoint, SignedNote, VerifierKey},
    tile::WIDTH,
    tree::Tree,
};
use exodrive_replays::Progress;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// Messages held at a time.
const BATCH: u64 = 2_048;
/// Time without a message after which a read of messages that the log holds fails.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of attempts to read, with a pause after each.
const ATTEMPTS: u32 = 5;
const RETRY_DELAY: Duration = Duration::from_millis(400);
/// Checkpoints read at a time.
const PAGE: i64 = 500;

/// A defect of the log or of its seals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// A sealed event is not there.
    #[error("the event at position {position} is missing from the log")]
    Missing {
        /// The first that is missing.
        position: u64,
    },
    /// An event is not what was sealed.
    #[error("the event at position {position} is not what was sealed: the log has been changed")]
    Changed {
        /// The first that differs.
        position: u64,
    },
    /// The log ends too early.
    #[error(
        "the log ends at position {end}, but {sealed} events are sealed: its end has been removed"
    )]
    Short {
        /// Its end.
        end: u64,
        /// The expected end.
        sealed: u64,
    },
    /// The log differs somewhere from a signed checkpoint.
    #[error(
        "the log is not what was signed: between positions {from} and {to} it differs from the checkpoint that is saved beside it"
    )]
    Fork {
        /// The first position that may differ.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A tile is missing, or is not made of those below it.
    #[error(
        "the tile of hashes at level {level}, index {index} in the database is wrong: the seals have been changed"
    )]
    Tile {
        /// Its level.
        level: u8,
        /// Its index.
        index: u64,
    },
    /// The tiles do not give the root that was signed.
    #[error(
        "the hashes in the database do not give the root of the checkpoint of size {size}: the seals have been changed"
    )]
    Root {
        /// The checkpoint's size.
        size: u64,
    },
    /// A checkpoint is not signed as it should be.
    #[error(
        "the checkpoint of size {size} is not valid: {why}. If its key was replaced, name the old verifier key in EXODRIVE_SEAL_KEYS too"
    )]
    Signature {
        /// The checkpoint's size; 0 if it cannot be read.
        size: u64,
        /// The defect.
        why: String,
    },
}

impl SealFault {
    /// The first position that is wrong, if it is known.
    pub fn position(&self) -> Option<u64> {
        match self {
            Self::Missing { position } | Self::Changed { position } => Some(*position),
            Self::Short { end, .. } => Some(end + 1),
            Self::Fork { from, .. } => Some(*from),
            Self::Tile { .. } | Self::Root { .. } | Self::Signature { .. } => None,
        }
    }
}

/// Reason that the log could not be compared with its seals, or the fault that was found.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It differs.
    #[error(transparent)]
    Fault(#[from] SealFault),
    /// The log could not be read.
    #[error("the log cannot be read")]
    Log(#[from] ReadError),
    /// The seals could not be read or written.
    #[error("the seals cannot be read or written")]
    Database(#[from] StoreError),
}

/// Reads stored messages batch by batch; a missing message is a fault.
pub(crate) struct Messages {
    log: Log,
    filters: Vec<String>,
    reader: StoredReader,
    next: u64,
}

impl Messages {
    /// All messages from a position on.
    pub(crate) fn new(log: &Log, position: u64) -> Self {
        Self::of(log, &[], position)
    }

    /// The same, few of them at a time.
    pub(crate) fn few(log: &Log, filters: &[String], position: u64) -> Self {
        let mut messages = Self::of(log, filters, position);
        messages.reader.hold_at_most(FEW_BYTES);
        messages
    }

    /// Messages of some subjects only; a missing one cannot be detected among these.
    fn of(log: &Log, filters: &[String], position: u64) -> Self {
        let reader = log.stored_reader_of(filters, position);
        Self { log: log.clone(), filters: filters.to_vec(), reader, next: position }
    }

    /// Up to `limit` messages, of which the log must hold one.
    pub(crate) async fn next(&mut self, limit: u64) -> Result<StoredBatch, SealError> {
        let mut failures = 0;
        loop {
            let outcome = self.reader.next_batch(limit.min(BATCH) as usize, READ_TIMEOUT).await;
            let error = match outcome {
                Ok(batch) if !batch.messages.is_empty() => {
                    self.next = batch.messages.last().map_or(self.next, |it| it.position + 1);
                    return Ok(batch);
                }
                Ok(_) => ReadError::Unavailable(
                    format!("no message came within {} s", READ_TIMEOUT.as_secs()).into(),
                ),
                Err(ReadError::Hole { expected, .. }) => {
                    return Err(SealFault::Missing { position: expected }.into());
                }
                Err(error) => error,
            };
            failures += 1;
            if failures >= ATTEMPTS {
                return Err(error.into());
            }
            // A log whose end was removed sends nothing either.
            if self.filters.is_empty()
                && let Ok(None) = self.log.read_expected(self.next).await
            {
                return Err(SealFault::Missing { position: self.next }.into());
            }
            tokio::time::sleep(RETRY_DELAY).await;
            self.reader = self.log.stored_reader_of(&self.filters, self.next);
        }
    }
}

/// Compares the events at the positions `from` to `to`, all of them sealed,
/// with their hashes, and full tiles with those above them.
///
/// # Errors
/// [`SealError::Fault`] names the first that differs.
pub async fn compare(
    log: &Log,
    seals: &SealStore,
    from: u64,
    to: u64,
    progress: Progress<'_>,
) -> Result<(), SealError> {
    let end = log.last_position_expecting(to).await?;
    if end < to && from <= to {
        // The events that are there are compared first, so that the first fault is reported.
        Box::pin(compare(log, seals, from, end, progress)).await?;
        return Err(SealFault::Short { end, sealed: to }.into());
    }
    let mut messages = Messages::new(log, from);
    let mut next = from;
    while next <= to {
        let batch = messages.next(to + 1 - next).await?;
        let Some(last) = batch.messages.last().map(|message| message.position) else { break };
        let (first, past) = ((next - 1) / WIDTH, (last - 1) / WIDTH);
        let tiles = seals.seal_tiles((first..=past).map(|index| (0, index))).await?;
        for message in &batch.messages {
            let index = message.position - 1;
            let place = (0, index / WIDTH);
            let sealed = tiles.get(&place).and_then(|tile| tile.get((index % WIDTH) as usize));
            let Some(sealed) = sealed else {
                return Err(SealFault::Tile { level: place.0, index: place.1 }.into());
            };
            if *sealed != leaf_hash(message) {
                return Err(SealFault::Changed { position: message.position }.into());
            }
        }
        let full = tiles.into_iter().filter(|(_, hashes)| hashes.len() as u64 == WIDTH).collect();
        above(seals, full).await?;
        next = last + 1;
        progress(last, to);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Compares full tiles with the hashes above them.
async fn above(seals: &SealStore, mut full: HashMap<Place, Vec<Hash>>) -> Result<(), SealError> {
    while !full.is_empty() {
        let parent = |(level, index): Place| (level + 1, index / WIDTH);
        let places: BTreeSet<_> = full.keys().map(|place| parent(*place)).collect();
        let parents = seals.seal_tiles(places).await?;
        for (place, hashes) in &full {
            let mut tree = Tree::new();
            hashes.iter().for_each(|hash| tree.push_leaf(*hash));
            let held = parents.get(&parent(*place));
            let held = held.and_then(|tile| tile.get((place.1 % WIDTH) as usize));
            if held != Some(&tree.root()) {
                return Err(SealFault::Tile { level: place.0, index: place.1 }.into());
            }
        }
        full = parents.into_iter().filter(|(_, hashes)| hashes.len() as u64 == WIDTH).collect();
    }
    Ok(())
}

/// Checks that a checkpoint is signed by one of the keys, and that the tiles
/// give its root.
///
/// # Errors
/// [`SealError::Fault`] if not.
pub async fn check_seal(
    seals: &SealStore,
    seal: &Seal,
    keys: &[VerifierKey],
) -> Result<Tree, SealError> {
    let said = signed(&seal.note, keys)?;
    let lacking = SealFault::Root { size: seal.size };
    if (said.size, said.root) != (seal.size, seal.root) {
        return Err(lacking.into());
    }
    let edge = match seals.seal_edge(seal.size).await {
        Err(StoreError::NoNode(_)) => return Err(lacking.into()),
        edge => edge?,
    };
    match Tree::from_edge(seal.size, &edge) {
        Some(tree) if tree.root() == seal.root => Ok(tree),
        _ => Err(lacking.into()),
    }
}

/// Checks every checkpoint. Returns their number.
///
/// # Errors
/// [`SealError::Fault`] names the first that is not valid.
pub async fn check_seals(seals: &SealStore, keys: &[VerifierKey]) -> Result<u64, SealError> {
    let (mut from, mut count) = (0, 0);
    loop {
        let page = seals.seals_between(from, u64::MAX, PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        from = last.size + 1;
        for seal in &page {
            check_seal(seals, seal, keys).await?;
            count += 1;
        }
    }
}

/// The checkpoint of a note that one of the keys has signed.
///
/// # Errors
/// [`SealFault::Signature`].
pub fn signed(note: &str, keys: &[VerifierKey]) -> Result<Checkpoint, SealFault> {
    let size_of = |note: &SignedNote| note.checkpoint().map_or(0, |it| it.size);
    let note: SignedNote = note.parse().map_err(|error: note::NoteError| SealFault::Signature {
        size: 0,
        why: error.to_string(),
    })?;
    note::verify(&note, keys)
        .map_err(|error| SealFault::Signature { size: size_of(&note), why: error.to_string() })
}
