//! Splits the keys of a generation into partitions.

use sha2::{Digest, Sha256};

/// One partition of a generation: the rows whose keys belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartitionId {
    pub(crate) generation: i32,
    pub(crate) partition: i32,
    /// Number of partitions of the generation.
    pub(crate) partitions: i32,
}

impl PartitionId {
    /// True if a row of this key belongs to it.
    pub(crate) fn holds(&self, key: &str) -> bool {
        partition_of(key, self.partitions) == self.partition
    }
}

/// The partition that a key belongs to. The same in every release.
pub fn partition_of(key: &str, partitions: i32) -> i32 {
    if partitions <= 1 {
        return 0;
    }
    let digest: [u8; 32] = Sha256::digest(key).into();
    let hash = i32::from_be_bytes([digest[0] & 0x7f, digest[1], digest[2], digest[3]]);
    hash % partitions
}
