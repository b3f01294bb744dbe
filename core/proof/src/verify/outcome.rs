//! What the threads tell the checker.

use crate::{
    Hash,
    export::{End, Flaw, Header, Omitted},
    note::{Checkpoint, NoteError},
};

/// What the checker needs to know of a record.
pub(super) enum Item {
    Header(Header<'static>),
    Event {
        position: u64,
        /// The hash of what the record says.
        leaf: Hash,
        /// Whether that is what the record says it is.
        matches: bool,
    },
    Omitted(Omitted),
    /// An earlier checkpoint, if it can be believed.
    Checkpoint(Result<Checkpoint, NoteError>),
    End(End),
    /// No record, and why.
    Flawed(Flaw),
}

/// The records of one chunk.
pub(super) struct Outcome {
    pub(super) items: Vec<Item>,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Bytes of the leaves.
    pub(super) leaf_bytes: u64,
}
