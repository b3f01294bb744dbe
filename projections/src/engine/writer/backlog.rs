//! Rows that Redis has missed, and the entries that it gets for a row.

use crate::{
    Error,
    engine::{PartitionId, cache::Entry, fold::Stored, projection::Projection, store},
};
use sqlx::PgPool;
use std::time::Instant;

/// Rows that are published at a time when Redis has to be filled again.
const REPUBLISH: i64 = 1_000;

/// State of publishing rows that Redis has missed, page by page in the order of keys.
#[derive(Clone)]
pub(super) struct Backlog {
    /// Time to continue.
    pub(super) due: Instant,
    /// The last key published.
    pub(super) after: String,
}

/// A page of the rows that Redis has missed.
#[derive(PartialEq, Eq)]
pub(super) struct PageCursor {
    pub(super) since: u64,
    pub(super) after: String,
}

/// Entries, and the key to continue after if there may be more.
pub(super) type Page = (Vec<Entry>, Option<String>);

/// Reads a page of the rows that Redis has missed.
pub(super) async fn fetch<P: Projection>(
    pool: PgPool,
    part: PartitionId,
    place: PageCursor,
) -> Result<Page, Error> {
    let page = store::changed_since::<P>(&pool, part, place.since, &place.after, REPUBLISH);
    let (rows, next) = page.await?;
    let entries = rows.iter().flat_map(|(key, stored)| entries::<P>(key, stored)).collect();
    Ok((entries, next))
}

/// The entries of a row for Redis, under its key and its aliases.
pub(super) fn entries<P: Projection>(key: &str, stored: &Stored<P::Row>) -> Vec<Entry> {
    let Some(json) = P::cached(&stored.row, stored.position) else { return Vec::new() };
    let entry = |key| Entry { key, position: stored.position, json: json.clone() };
    std::iter::once(key.to_owned()).chain(P::aliases(&stored.row)).map(entry).collect()
}
