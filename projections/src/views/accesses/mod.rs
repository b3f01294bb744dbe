//! `accesses`: the staff's reads of personal data. One row for each record, reader and day (UTC).
//! Shown to auditors only.

pub mod read;

use crate::{PersonalData, Projection};
use chrono::{DateTime, Utc};
use exodrive_domain::{Event, Payload, access::AccessEntry, time::serde_micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The view of reads of personal data.
pub struct Accesses;

/// One reader's reads of one record in one day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessRow {
    /// The kind of record.
    pub resource: String,
    /// Its id; `None` for a list.
    pub key: Option<String>,
    /// The reader.
    pub actor: String,
    /// Number of reads.
    pub count: u64,
    /// The first time.
    #[serde(with = "serde_micros")]
    pub first_at: DateTime<Utc>,
    /// The last time.
    #[serde(with = "serde_micros")]
    pub last_at: DateTime<Utc>,
    /// Number of reads by each route.
    pub routes: BTreeMap<String, u64>,
    /// Id of the last read's request.
    pub request_id: Option<String>,
}

impl AccessRow {
    fn of(row: Option<Self>, entry: &AccessEntry) -> Self {
        let mut row = row.unwrap_or_else(|| Self {
            resource: entry.resource.clone(),
            key: entry.key.clone(),
            actor: entry.actor.clone(),
            count: 0,
            first_at: entry.first_at,
            last_at: entry.last_at,
            routes: BTreeMap::new(),
            request_id: None,
        });
        row.count += entry.count;
        *row.routes.entry(entry.route.clone()).or_default() += entry.count;
        row.first_at = row.first_at.min(entry.first_at);
        if entry.last_at >= row.last_at {
            row.last_at = entry.last_at;
            row.request_id.clone_from(&entry.request_id);
        }
        row
    }
}

/// Begins with the record, so that its rows are together in the index.
fn row_key(entry: &AccessEntry) -> String {
    let AccessEntry { resource, key, actor, first_at, .. } = entry;
    let day = first_at.date_naive();
    // A read of a whole list names no id.
    let key = key.as_deref().unwrap_or_default();
    format!("{resource}/{key}/{day}/{actor}")
}

impl Projection for Accesses {
    const NAME: &'static str = "accesses";
    const ABOUT: &'static str =
        "A reader's reads of one resource in a day, by RESOURCE/ID/DAY/ACTOR";
    const KEY_EXAMPLE: &'static str =
        "email/f3c95789-ace1-4954-ac5d-6baed2eac902/2026-11-20/auditor:ada";
    const VERSION: u32 = 1;
    const SUBJECTS: &'static [&'static str] = &["exo.access."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Row = AccessRow;

    fn personal(_key: &str) -> PersonalData<'_> {
        PersonalData::OfMany("access")
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        let Payload::Access(access) = event.payload else { return Vec::new() };
        let mut keys: Vec<_> = access.entries.iter().map(row_key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn evolve(key: &str, row: Option<AccessRow>, event: &Event<'_>) -> Option<AccessRow> {
        let Payload::Access(access) = event.payload else { return row };
        let of_key = access.entries.iter().filter(|entry| row_key(entry) == key);
        of_key.fold(row, |row, entry| Some(AccessRow::of(row, entry)))
    }

    const READERS: &'static str =
        "current_setting('exodrive.identity', true) in ('auditor', 'system')";
}
