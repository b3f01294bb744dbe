//! Conversion of positions and versions to and from Postgres's integers.

/// A position as Postgres stores it.
pub fn to_i64(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// A position, from what Postgres stores.
pub fn to_u64(position: i64) -> u64 {
    u64::try_from(position).unwrap_or(0)
}

pub(crate) fn to_i32(version: u32) -> i32 {
    i32::try_from(version).unwrap_or(i32::MAX)
}
