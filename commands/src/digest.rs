//! Hashes, and ids that follow from them: the same in every retry.

use exodrive_log::Log;
use ring::digest;
use serde::Serialize;
use uuid::Uuid;

/// SHA-256 in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// A UUID that follows from `parts`: the same parts give the same UUID.
pub fn derived_uuid(parts: &[&str]) -> Uuid {
    let mut first = [0; 16];
    let digest = digest::digest(&digest::SHA256, parts.join("\n").as_bytes());
    first.copy_from_slice(&digest.as_ref()[..16]);
    uuid_from_digest(first)
}

/// A UUID (version 8, RFC 9562) from the first 16 bytes of a digest.
pub(crate) fn uuid_from_digest(first: [u8; 16]) -> Uuid {
    uuid::Builder::from_custom_bytes(first).into_uuid()
}

/// A hash of what a command asks for: the same for the same request. It is
/// keyed, since it goes into the log, and what is asked for may be personal.
///
/// # Errors
/// When the request cannot be written as JSON.
pub fn keyed_request_hash(
    log: &Log,
    request: &impl Serialize,
) -> Result<String, serde_json::Error> {
    Ok(log.mac("request", &serde_json::to_vec(request)?))
}
