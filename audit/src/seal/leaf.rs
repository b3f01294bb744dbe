//! The leaf that the tree holds for an event.

use exodrive_log::StoredMessage;
use exodrive_proof::{Hash, Leaf};

/// The hash of a stored message, as the tree has it.
pub fn leaf_hash(message: &StoredMessage) -> Hash {
    Leaf {
        position: message.position,
        stored_at_nanos: message.stored_at_nanos,
        subject: &message.subject,
        headers: &message.headers,
        body: &message.body,
    }
    .hash()
}
