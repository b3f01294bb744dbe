//! Reads deliveries by the time at which they were received.

use crate::reading::{BATCH, READ_TIMEOUT};
use chrono::{DateTime, Utc};
use exodrive_domain::Recorded;
use exodrive_log::{Log, ReadError};

/// Every subject of a provider's deliveries.
const DELIVERIES: [&str; 2] = ["exo.email.>", "exo.provider.>"];

/// The position of the first event that the log's server stored at a time or
/// later; one after the end if there is none.
///
/// # Errors
/// When the log cannot be read.
pub async fn first_stored_at(log: &Log, time: DateTime<Utc>) -> Result<u64, ReadError> {
    // Positions before `low` are earlier, those from `high` on are not.
    let (mut low, mut high) = (1, log.last_position().await? + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let hole = ReadError::Hole { expected: middle, found: middle + 1 };
        if log.read_expected(middle).await?.ok_or(hole)?.stored_at() < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The deliveries from a position on, in log order: up to `limit` of them, and only those before
/// the first for which `ends` is true.
///
/// # Errors
/// When the log cannot be read.
pub async fn deliveries(
    log: &Log,
    from: u64,
    limit: usize,
    ends: impl Fn(&Recorded) -> bool,
) -> Result<Vec<Recorded>, ReadError> {
    let mut last = 0;
    for filter in DELIVERIES {
        last = last.max(log.last_position_under(filter).await?.unwrap_or(0));
    }
    let mut reader = log.reader_of(&DELIVERIES.map(str::to_owned), from);
    let (mut found, mut position) = (Vec::new(), from.saturating_sub(1));
    while position < last && found.len() < limit {
        let batch = reader.next_batch(BATCH.min(limit - found.len()), READ_TIMEOUT).await?;
        let Some(newest) = batch.events.last() else {
            return Err(ReadError::Unavailable("no event came in time".into()));
        };
        position = newest.position;
        for event in batch.events {
            if event.position > last || ends(&event) {
                return Ok(found);
            }
            found.push(event);
        }
    }
    Ok(found)
}
