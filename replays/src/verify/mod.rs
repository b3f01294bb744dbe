//! Verifies that the live views equal what the log gives.
//!
//! **Exact while the system runs.** [`verify`] folds the log up to the projection's checkpoint,
//! then reads all rows at one moment (one repeatable-read transaction), folds the few events that
//! have come meanwhile up to exactly that moment's checkpoint, and compares. Redis follows Postgres
//! within milliseconds, so a value that differs is read again before it is reported as wrong.
//!
//! **In bounded memory.** Rows are folded for a range of hashes of their keys
//! at a time, as wide as [`Options::memory`] allows; rows of Postgres are read
//! page by page.

mod error;
mod redis;
mod refold;
mod report;

pub use error::VerifyError;
pub use report::{Field, Finding, Place, RedisOutcome, Report};

use crate::{Progress, diff, reading};
use exodrive_domain::{Event, decode};
use exodrive_log::Log;
use exodrive_projections::{
    Database, Projection, Sources,
    engine::{
        cache::Cache,
        inspect::{ActiveGeneration, Found, Snapshot},
        keys_of,
    },
};
use redis::Views;
use refold::{Fresh, Plan, Refold};
use report::position;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

/// The rows to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All rows; Redis must hold no others.
    All,
    /// This many, chosen at random: rows of the table, and half as many of events of the log, so
    /// that a missing row is found too.
    Sample(usize),
    /// The rows of these keys.
    Keys(Vec<String>),
}

/// Options of a verification.
#[derive(Clone, Debug)]
pub struct Options {
    /// The rows.
    pub extent: Extent,
    /// Bytes of rows, as JSON, that are folded at a time.
    pub memory: usize,
}

impl Options {
    /// Default of [`Options::memory`].
    pub const MEMORY: usize = 256 << 20;

    /// These rows, with the default memory.
    pub fn new(extent: Extent) -> Self {
        Self { extent, memory: Self::MEMORY }
    }
}

/// Rows read at a time.
const PAGE: i64 = 1_000;
/// Times that a pass begins again because operators changed the projection.
const ATTEMPTS: u32 = 5;
/// Time in which a writer tries parked events again after one more event of their key.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

/// Folds rows of a projection again, and compares them with Postgres and, if `cache` is given, with
/// Redis.
///
/// # Errors
/// [`VerifyError`]. The report says if Redis does not answer.
pub async fn verify<P: Projection>(
    log: &Log,
    database: &Database,
    cache: Option<&Cache>,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Report, VerifyError> {
    let mut report = Report::new(P::NAME);
    let plan = match &options.extent {
        Extent::All => Plan::Range,
        Extent::Sample(count) => {
            let keys = sample::<P>(log, database, *count).await?;
            Plan::Keys(by_sources::<P>(database, keys).await?)
        }
        Extent::Keys(keys) => {
            let keys = keys.iter().cloned().collect();
            Plan::Keys(by_sources::<P>(database, keys).await?)
        }
    };
    let mut views = Views::<P>::begin(database, cache).await?;
    let mut next = Some(0);
    while let Some(first) = next {
        let last = pass(log, database, &plan, first, options, &mut report, &mut views, progress);
        next = last.await?.checked_add(1);
        views.settle(database, &mut report).await?;
    }
    if options.extent == Extent::All {
        views.find_too_many(database, &mut report).await?;
        find_still_parked::<P>(log, database, &mut report).await?;
        find_other_counts::<P>(database, &mut report).await?;
    }
    report.redis = views.end();
    Ok(report)
}

/// Reports parked events that a rebuild would fold. A writer tries an event again after the next one
/// of its key, so they are looked at twice.
async fn find_still_parked<P: Projection>(
    log: &Log,
    database: &Database,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let mut found = database.still_parked::<P>(log).await?;
    if found.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(RETRY_PAUSE).await;
    let again = database.still_parked::<P>(log).await?;
    found.retain(|it| again.contains(it));
    for (key, position) in found {
        let detail = format!(
            "position {position}: it can be folded now; `exodrive projections retry {}`",
            P::NAME
        );
        let (place, fields) = (Place::StillParked, Vec::new());
        report.add_finding(Finding { key, place, fields, detail: Some(detail) });
    }
    Ok(())
}

/// Reports numbers that are kept for lists and are not those of the rows.
async fn find_other_counts<P: Projection>(
    database: &Database,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let counts = database.snapshot::<P>().await?.counts().await?;
    let (Some((kept, counted)), Some(column)) = (counts, P::COUNTED) else { return Ok(()) };
    if kept != counted {
        let field = Field { field: String::new(), expected: Some(counted), found: Some(kept) };
        report.find_fields(column, Place::CountsDiffer, vec![field]);
    }
    Ok(())
}

/// Verifies the keys with a hash from `first` on, as far as memory allows; returns the last hash.
#[expect(clippy::too_many_arguments, reason = "what all passes share")]
async fn pass<P: Projection>(
    log: &Log,
    database: &Database,
    plan: &Plan,
    first: u64,
    options: &Options,
    report: &mut Report,
    views: &mut Views<'_, P>,
    progress: Progress<'_>,
) -> Result<u64, VerifyError> {
    for _ in 0..ATTEMPTS {
        let before = database.active_generation::<P>().await?;
        check_version::<P>(&before)?;
        let mut refold = Refold::<P>::new(first, options.memory);
        refold.fold(plan, log, &before, (0, before.least()), progress).await?;
        let mut snapshot = database.snapshot::<P>().await?;
        let active_generation = snapshot.active_generation().clone();
        check_version::<P>(&active_generation)?;
        if !active_generation.continues(&before, before.least()) {
            continue;
        }
        let rest = (before.least(), active_generation.most());
        refold.fold(plan, log, &active_generation, rest, &|_, _| {}).await?;
        report.generation = active_generation.generation;
        report.position = active_generation.least();
        report.blocked = active_generation.blocked();
        report.passes += 1;
        views.generation = active_generation.generation;
        compare(&mut snapshot, plan, &mut refold, report, views).await?;
        return Ok(refold.last);
    }
    Err(VerifyError::Restless(P::NAME))
}

fn check_version<P: Projection>(active_generation: &ActiveGeneration) -> Result<(), VerifyError> {
    if active_generation.version == P::VERSION {
        return Ok(());
    }
    let (found, own) = (active_generation.version, P::VERSION);
    Err(VerifyError::OtherVersion { projection: P::NAME, found, own })
}

/// Compares the rows of one moment with the fresh ones, all of which are used up then.
async fn compare<P: Projection>(
    snapshot: &mut Snapshot<P>,
    plan: &Plan,
    refold: &mut Refold<P>,
    report: &mut Report,
    views: &mut Views<'_, P>,
) -> Result<(), VerifyError> {
    match plan {
        Plan::Range => {
            let mut after: Option<String> = None;
            loop {
                let mut page = snapshot.page(after.as_deref(), PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.key.clone());
                page.retain(|found| refold.holds(&found.key));
                compare_page(page, refold, report, views).await;
            }
        }
        Plan::Keys(groups) => {
            let keys: Vec<_> = groups.values().flatten().filter(|key| refold.holds(key)).collect();
            for chunk in keys.chunks(1_000) {
                let chunk: Vec<_> = chunk.iter().map(|key| (*key).clone()).collect();
                compare_page(snapshot.rows(&chunk).await?, refold, report, views).await;
            }
        }
    }
    let mut missing: Vec<_> = refold.rows.drain().collect();
    missing.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (key, fresh) in missing {
        report.checked += 1;
        let expected = serde_json::to_value(&fresh.row).ok();
        let mut fields = position(Some(fresh.position), None);
        fields.push(Field { field: String::new(), expected, found: None });
        report.find_fields(&key, Place::RowMissing, fields);
    }
    let unfolded = refold.unfolded.iter().filter(|(key, _)| refold.holds(key));
    for (key, unfolded) in unfolded {
        let detail = Some(format!("position {}: {}", unfolded.position, unfolded.error));
        let (key, place, fields) = (key.clone(), Place::NotFolded, Vec::new());
        report.add_finding(Finding { key, place, fields, detail });
    }
    Ok(())
}

async fn compare_page<P: Projection>(
    page: Vec<Found>,
    refold: &mut Refold<P>,
    report: &mut Report,
    views: &mut Views<'_, P>,
) {
    let mut served = Vec::new();
    for found in page {
        let fresh = refold.rows.remove(&found.key);
        if refold.unfolded.contains_key(&found.key) {
            continue;
        }
        report.checked += 1;
        match fresh {
            None => {
                let mut fields = position(None, Some(found.position));
                let data = Some(found.data);
                fields.push(Field { field: String::new(), expected: None, found: data });
                report.find_fields(&found.key, Place::RowTooMany, fields);
            }
            Some(fresh) => {
                compare_row(&found, &fresh, report);
                served.push((found, fresh));
            }
        }
    }
    views.compare(served).await;
}

fn compare_row<R: serde::Serialize>(found: &Found, fresh: &Fresh<R>, report: &mut Report) {
    let expected = serde_json::to_value(&fresh.row).ok();
    if found.position == fresh.position && expected.as_ref() == Some(&found.data) {
        return;
    }
    let mut fields = position(Some(fresh.position), Some(found.position));
    let changes = diff(expected.as_ref(), Some(&found.data));
    fields.extend(changes.into_iter().map(Field::from));
    report.find_fields(&found.key, Place::RowChanged, fields);
}

/// Keys of random rows, and of random events.
async fn sample<P: Projection>(
    log: &Log,
    database: &Database,
    count: usize,
) -> Result<BTreeSet<String>, VerifyError> {
    let rows = i64::try_from(count).unwrap_or(i64::MAX);
    let mut keys: BTreeSet<String> = database.sample_keys::<P>(rows).await?.into_iter().collect();
    let end = database.active_generation::<P>().await?.least();
    let filters = reading::filters::<P>();
    for n in 0..count.div_ceil(2) {
        if end == 0 {
            break;
        }
        let Some(filter) = filters.get(n % filters.len().max(1)) else { break };
        let position = rand::random_range(1..=end);
        let Some(event) = log.next_under(filter, position).await? else { continue };
        if event.position > end {
            continue;
        }
        let touched = || {
            decode(&event)
                .map(|payload| keys_of::<P>(&Event { recorded: &event, payload: &payload }))
        };
        if let Ok(Ok(Ok(touched))) = catch_unwind(AssertUnwindSafe(touched)) {
            keys.extend(touched);
        }
    }
    Ok(keys)
}

/// Keys by the place of their events.
async fn by_sources<P: Projection>(
    database: &Database,
    keys: BTreeSet<String>,
) -> Result<BTreeMap<Sources, HashSet<String>>, VerifyError> {
    let keys: Vec<_> = keys.into_iter().collect();
    let mut rows: HashMap<String, P::Row> = HashMap::new();
    for chunk in keys.chunks(1_000) {
        for found in database.rows_now::<P>(chunk).await?.1 {
            if let Ok(row) = serde_json::from_value(found.data) {
                rows.insert(found.key, row);
            }
        }
    }
    let mut groups: BTreeMap<Sources, HashSet<String>> = BTreeMap::new();
    for key in keys {
        let sources = P::sources(&key, rows.get(&key));
        groups.entry(sources).or_default().insert(key);
    }
    Ok(groups)
}

/// Those of the given keys whose events are found without reading all that the view is made of.
///
/// # Errors
/// When Postgres does not answer.
pub async fn exact<P: Projection>(
    database: &Database,
    keys: Vec<String>,
) -> Result<Vec<String>, VerifyError> {
    let groups = by_sources::<P>(database, keys.into_iter().collect()).await?;
    let exact = groups.into_iter().filter(|(sources, _)| *sources != Sources::All);
    Ok(exact.flat_map(|(_, keys)| keys).collect())
}

/// Random keys: this many of rows, half as many of events.
///
/// # Errors
/// When the log or Postgres does not answer.
pub async fn by_sample<P: Projection>(
    log: &Log,
    database: &Database,
    count: usize,
) -> Result<Vec<String>, VerifyError> {
    Ok(sample::<P>(log, database, count).await?.into_iter().collect())
}
