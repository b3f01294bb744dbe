//! The leaf that the tree holds for an event.

use exodrive_log::StoredMessage;
use exodrive_proof::{Hash, Leaf};

/// The hash of a stored message, as the tree has it.
pub fn leaf_hash(message: &StoredMessage) -> Hash {
    // The log keeps nanoseconds in an i64, so every time in it is within range.
    let nanos = message.stored_at.timestamp_nanos_opt().unwrap_or_default();
    Leaf {
        position: message.position,
        stored_at_nanos: nanos,
        subject: &message.subject,
        headers: &message.headers,
        body: &message.body,
    }
    .hash()
}
