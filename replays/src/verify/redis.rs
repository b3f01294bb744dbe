//! Compares the views that Redis holds with the rows.

use super::{
    error::VerifyError,
    refold::Fresh,
    report::{Field, Finding, Place, RedisOutcome, Report, position},
};
use crate::diff;
use exodrive_projections::{
    Database, Projection,
    engine::{
        cache::{Cache, CacheError},
        inspect::Found,
    },
};
use serde_json::Value;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// Rows read at a time.
const PAGE: i64 = 1_000;
/// Times that a differing value is read again, and the pause before each.
const MAX_ROUNDS: u32 = 8;
const RETRY_DELAY: Duration = Duration::from_millis(400);
/// Callers do not ask Redis for a moment after a failure; it may be asked again this many times.
const ATTEMPTS: u32 = 10;
/// Time that Redis may take to be filled after it was emptied.
const FILLING: Duration = Duration::from_secs(15);
/// Most values that are read again.
const SUSPECTS: usize = 5_000;
const CHUNK: usize = 200;

/// Asks Redis, and retries after a failure. Not a function: futures that borrow their caller's data
/// are not known to be `Send`.
macro_rules! retry_on_redis_error {
    ($ask:expr) => {{
        let mut attempt = 0;
        loop {
            match $ask.await {
                Err(_) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                outcome => break outcome,
            }
        }
    }};
}

/// The expected value of one key in Redis.
struct Expected {
    /// The key in Redis: that of the row or an alias.
    name: String,
    /// The row at the time of the comparison.
    row: Found,
    value: (u64, String),
}

/// The views of a projection in Redis, while they are compared.
pub(super) struct Views<'a, P> {
    cache: Option<&'a Cache>,
    /// The generation whose rows are compared.
    pub(super) generation: i32,
    compared: u64,
    unavailable: Option<String>,
    suspects: Vec<Expected>,
    projection: std::marker::PhantomData<P>,
}

impl<'a, P: Projection> Views<'a, P> {
    /// Waits until Redis holds all of the view, if it is served from there.
    pub(super) async fn begin(
        database: &Database,
        cache: Option<&'a Cache>,
    ) -> Result<Self, VerifyError> {
        let views = Self {
            cache: cache.filter(|_| P::CACHED),
            generation: 0,
            compared: 0,
            unavailable: None,
            suspects: Vec::new(),
            projection: std::marker::PhantomData,
        };
        let Some(cache) = views.cache else { return Ok(views) };
        let began = Instant::now();
        loop {
            let active_generation = database.active_generation::<P>().await?;
            match retry_on_redis_error!(active_generation.is_cached::<P>(cache)) {
                Ok(true) => return Ok(views),
                Ok(false) if began.elapsed() < FILLING => tokio::time::sleep(RETRY_DELAY).await,
                Ok(false) => {
                    let why =
                        "Redis does not hold all of the view: its worker fills it, if one runs";
                    return Ok(views.give_up(why.to_owned()));
                }
                Err(error) => return Ok(views.give_up(error.to_string())),
            }
        }
    }

    fn give_up(mut self, why: String) -> Self {
        self.fail(why);
        self
    }

    fn fail(&mut self, why: String) {
        self.unavailable = Some(why);
        self.cache = None;
        self.suspects.clear();
    }

    /// Records rows, just read and found correct, whose values in Redis differ.
    pub(super) async fn compare(&mut self, rows: Vec<(Found, Fresh<P::Row>)>) {
        let Some(cache) = self.cache else { return };
        let expected: Vec<_> = rows
            .into_iter()
            .flat_map(|(found, fresh)| expected::<P>(found, &fresh.row, fresh.position))
            .collect();
        self.compared += expected.len() as u64;
        let mut expected = expected.into_iter().peekable();
        while expected.peek().is_some() {
            let chunk: Vec<_> = expected.by_ref().take(CHUNK).collect();
            match values(cache, P::NAME, self.generation, &chunk).await {
                Ok(values) => {
                    let differing = chunk
                        .into_iter()
                        .zip(values)
                        .filter(|(expected, value)| value.as_ref() != Some(&expected.value));
                    let room = SUSPECTS.saturating_sub(self.suspects.len());
                    self.suspects.extend(differing.map(|(expected, _)| expected).take(room));
                }
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    /// Reads the differing values again, with the rows of now, and reports those that still differ.
    pub(super) async fn settle(
        &mut self,
        database: &Database,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let Some(cache) = self.cache else { return Ok(()) };
        let mut suspects = std::mem::take(&mut self.suspects);
        for round in 0..=MAX_ROUNDS {
            if suspects.is_empty() {
                return Ok(());
            }
            let keys: HashSet<_> = suspects.iter().map(|it| it.row.key.clone()).collect();
            let keys: Vec<_> = keys.into_iter().collect();
            let (generation, rows) = database.rows_now::<P>(&keys).await?;
            suspects = suspects.into_iter().filter_map(|it| renewed::<P>(it, &rows)).collect();
            let mut still = Vec::new();
            let mut chunks = suspects.into_iter().peekable();
            while chunks.peek().is_some() {
                let chunk: Vec<_> = chunks.by_ref().take(CHUNK).collect();
                let values = match values(cache, P::NAME, generation, &chunk).await {
                    Ok(values) => values,
                    Err(error) => {
                        self.fail(error.to_string());
                        return Ok(());
                    }
                };
                for (expected, value) in chunk.into_iter().zip(values) {
                    if value.as_ref() == Some(&expected.value) {
                        continue;
                    }
                    if round == MAX_ROUNDS {
                        report_difference(&expected, value, report);
                    } else {
                        still.push(expected);
                    }
                }
            }
            suspects = still;
            if !suspects.is_empty() {
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
        Ok(())
    }

    /// Reports values under keys that no row has.
    pub(super) async fn find_too_many(
        &mut self,
        database: &Database,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let Some(cache) = self.cache else { return Ok(()) };
        let generation = database.active_generation::<P>().await?.generation;
        let keys = match retry_on_redis_error!(cache.keys(P::NAME, generation)) {
            Ok(keys) => keys,
            Err(error) => {
                self.fail(error.to_string());
                return Ok(());
            }
        };
        let mut strange = HashSet::new();
        for chunk in keys.chunks(1_000) {
            // Redis has a row only after Postgres has it.
            let (now, rows) = database.rows_now::<P>(chunk).await?;
            if now != generation {
                return Ok(());
            }
            let known: HashSet<_> = rows.iter().map(|row| row.key.as_str()).collect();
            let unknown = chunk.iter().filter(|key| !known.contains(key.as_str()));
            let room = SUSPECTS.saturating_sub(strange.len());
            strange.extend(unknown.take(room).cloned());
        }
        if strange.is_empty() {
            return Ok(());
        }
        let mut snapshot = database.snapshot::<P>().await?;
        if snapshot.active_generation().generation != generation {
            return Ok(());
        }
        let mut after: Option<String> = None;
        loop {
            let page = snapshot.page(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for row in page {
                for alias in row_of::<P>(&row).iter().flat_map(P::aliases) {
                    strange.remove(&alias);
                }
            }
        }
        let mut strange: Vec<_> = strange.into_iter().collect();
        strange.sort_unstable();
        for key in strange {
            let of_key = std::slice::from_ref(&key);
            match retry_on_redis_error!(cache.values(P::NAME, generation, of_key)) {
                Ok(values) => {
                    // Or it is gone by now.
                    for value in values.into_iter().flatten() {
                        let fields = fields(None, Some(value));
                        report.find_fields(&key, Place::RedisTooMany, fields);
                    }
                }
                Err(error) => {
                    self.fail(error.to_string());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Result of the comparison.
    pub(super) fn end(self) -> RedisOutcome {
        match (self.unavailable, self.cache) {
            (Some(why), _) => RedisOutcome::Unavailable(why),
            (None, Some(_)) => RedisOutcome::Compared(self.compared),
            (None, None) if P::CACHED => RedisOutcome::LeftOut,
            (None, None) => RedisOutcome::NotServed,
        }
    }
}

/// Expected values in Redis for a row that should be like this.
fn expected<P: Projection>(found: Found, row: &P::Row, position: u64) -> Vec<Expected> {
    let Some(json) = P::cached(row, position) else { return Vec::new() };
    let names = std::iter::once(found.key.clone()).chain(P::aliases(row));
    names
        .map(|name| Expected { name, row: found.clone(), value: (position, json.clone()) })
        .collect()
}

/// The same with the row of now; `None` if the row is gone.
fn renewed<P: Projection>(expected: Expected, rows: &[Found]) -> Option<Expected> {
    let now = rows.iter().find(|row| row.key == expected.row.key)?;
    if *now == expected.row {
        return Some(expected);
    }
    let json = P::cached(&row_of::<P>(now)?, now.position)?;
    Some(Expected { value: (now.position, json), row: now.clone(), ..expected })
}

fn row_of<P: Projection>(found: &Found) -> Option<P::Row> {
    serde_json::from_value(found.data.clone()).ok()
}

async fn values(
    cache: &Cache,
    view: &str,
    generation: i32,
    expected: &[Expected],
) -> Result<Vec<Option<(u64, String)>>, CacheError> {
    let names: Vec<_> = expected.iter().map(|expected| expected.name.clone()).collect();
    retry_on_redis_error!(cache.values(view, generation, &names))
}

fn report_difference(expected: &Expected, found: Option<(u64, String)>, report: &mut Report) {
    let place = if found.is_some() { Place::RedisStale } else { Place::RedisMissing };
    let fields = fields(Some(expected.value.clone()), found);
    let of_alias = expected.name != expected.row.key;
    let detail = of_alias.then(|| format!("under its further key {:?}", expected.name));
    report.add_finding(Finding { key: expected.row.key.clone(), place, fields, detail });
}

fn fields(expected: Option<(u64, String)>, found: Option<(u64, String)>) -> Vec<Field> {
    // Text that is not JSON is reported as text.
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let at = |it: &Option<(u64, String)>| it.as_ref().map(|(position, _)| *position);
    let text = |it: &Option<(u64, String)>| it.as_ref().map(|(_, text)| value(text));
    let mut fields = position(at(&expected), at(&found));
    let changes = diff(text(&expected).as_ref(), text(&found).as_ref());
    fields.extend(changes.into_iter().map(Field::from));
    fields
}
