//! The leaf of the Merkle tree that represents one stored message.

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Version of the encoding. Another encoding gets another number, so that no
/// two messages of different encodings can have the same bytes.
const VERSION: u8 = 1;
/// Sets leaves apart from inner nodes (RFC 6962, section 2.1).
const LEAF_PREFIX: u8 = 0;

/// A message as the log's server stores it. The hash covers all of it: its
/// position and time, its subject, every header and the body's bytes.
///
/// `N` and `V` are header names and values in the form that the caller has:
/// nothing is copied. Headers are sorted by name; the values of one name keep
/// their order.
#[derive(Debug, Clone, Copy)]
pub struct Leaf<'a, N, V> {
    /// The message's position in the log, from 1.
    pub position: u64,
    /// The time at which the server stored it: Unix time, UTC, in nanoseconds.
    pub stored_at_nanos: i64,
    /// The message's subject.
    pub subject: &'a str,
    /// Every stored header.
    pub headers: &'a [(N, V)],
    /// The stored bytes.
    pub body: &'a [u8],
}

impl<N: AsRef<str>, V: AsRef<str>> Leaf<'_, N, V> {
    /// The leaf's hash: SHA-256 of a zero byte and the encoding.
    ///
    /// The encoding is a version byte and then the position (u64), the time
    /// (i64), the subject, the number of headers (u32), each header's name and
    /// value, and the body. Numbers are big-endian; every field except the
    /// number of headers is preceded by its length as a u32.
    pub fn hash(&self) -> Hash {
        let mut hasher = Sha256::new();
        self.encode(&mut |bytes: &[u8]| hasher.update(bytes));
        hasher.finalize().into()
    }

    /// The same, for many leaves: `scratch` is a buffer that can be used
    /// again.
    pub fn hash_with(&self, scratch: &mut Vec<u8>) -> Hash {
        scratch.clear();
        self.encode(&mut |bytes: &[u8]| scratch.extend_from_slice(bytes));
        Sha256::digest(&scratch).into()
    }

    fn encode(&self, sink: &mut impl FnMut(&[u8])) {
        sink(&[LEAF_PREFIX, VERSION]);
        field(sink, &self.position.to_be_bytes());
        field(sink, &self.stored_at_nanos.to_be_bytes());
        field(sink, self.subject.as_bytes());
        sink(&length(self.headers.len()));
        for (name, value) in self.headers {
            field(sink, name.as_ref().as_bytes());
            field(sink, value.as_ref().as_bytes());
        }
        field(sink, self.body);
    }
}

fn field(sink: &mut impl FnMut(&[u8]), bytes: &[u8]) {
    sink(&length(bytes.len()));
    sink(bytes);
}

/// A message of the log is far below 4 GiB.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf<'a>(headers: &'a [(&'a str, &'a str)]) -> Leaf<'a, &'a str, &'a str> {
        Leaf {
            position: 7,
            stored_at_nanos: 1_790_000_000_123_456_789,
            subject: "exo.email.1",
            headers,
            body: b"{}",
        }
    }

    #[test]
    fn the_encoding_is_as_described() {
        let headers = [("ce-id", "a"), ("x", "")];
        let mut expected = vec![0, 1];
        expected.extend([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.extend([0, 0, 0, 8]);
        expected.extend(1_790_000_000_123_456_789_i64.to_be_bytes());
        expected.extend(b"\0\0\0\x0bexo.email.1\0\0\0\x02\0\0\0\x05ce-id\0\0\0\x01a");
        expected.extend(b"\0\0\0\x01x\0\0\0\0\0\0\0\x02{}");
        let mut scratch = Vec::new();
        let hash = leaf(&headers).hash_with(&mut scratch);
        assert_eq!(scratch, expected);
        assert_eq!(hash, Hash::from(Sha256::digest(&expected)));
        assert_eq!(hash, leaf(&headers).hash());
    }

    #[test]
    fn what_moves_between_fields_changes_the_hash() {
        let hashes = [
            leaf(&[("a", "bc")]).hash(),
            leaf(&[("ab", "c")]).hash(),
            leaf(&[("a", "b"), ("c", "")]).hash(),
            leaf(&[("a", ""), ("b", "c")]).hash(),
            leaf(&[]).hash(),
            Leaf { subject: "exo.email.1{}", body: b"", ..leaf(&[]) }.hash(),
        ];
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(hash), "{index}");
        }
    }
}
