//! The results that the threads send to the checker.

use crate::{
    Hash,
    export::{End, Flaw, Header, Omitted},
    note::{Checkpoint, NoteError},
};

/// The facts about a record that the checker needs.
pub(super) enum Item {
    Header(Header<'static>),
    Event {
        position: u64,
        /// The hash of the record's fields.
        leaf: Hash,
        /// True if that hash is the one in the record.
        matches: bool,
    },
    Omitted(Omitted),
    /// An earlier checkpoint, if it can be believed.
    Checkpoint(Result<Checkpoint, NoteError>),
    End(End),
    /// An invalid record, with the fault.
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
