//! Folds some rows again, and reads no more of the log than they need.

use crate::{
    Error,
    engine::{
        Engine, PartitionId,
        feed::{Decoded, Events},
        fold::{self, Exclusions, Loaded, Parked, RoutedEvent, Rows, Stored},
        projection::{Projection, Sources},
        sandbox::{HungFold, Mark, Sandbox},
    },
};
use exodrive_domain::{Recorded, Subject};
use exodrive_log::{Log, ReadError};
use futures::{StreamExt, stream};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// Events read at a time.
const BATCH: usize = 4_000;
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Subjects read at once.
const AT_ONCE: usize = 8;

/// The folds of all events that some rows are made of.
pub(crate) struct KeyHistories<P: Projection> {
    log: Log,
    part: PartitionId,
    /// Events that operators skip, and folds that hang.
    exclusions: Exclusions,
    /// The first parked event of keys and subjects: it and the events after it are in no row.
    parked: HashMap<String, u64>,
    sandbox: Sandbox,
    /// Keys by the place of their events.
    groups: BTreeMap<Sources, Arc<HashSet<String>>>,
    /// Keys whose rows show the place of their events.
    by_row: HashSet<String>,
    rows: HashMap<String, Stored<P::Row>>,
    /// The error of each row that could not be folded.
    errors: BTreeMap<String, String>,
    /// The position up to which the log has been folded.
    position: u64,
}

/// Which events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Only those of the rows that are folded.
    Own,
    /// Also some that have to do with none of these rows.
    All,
}

/// Result of folding rows again.
pub(crate) struct Fresh<R> {
    /// The new rows.
    pub(crate) rows: Rows<R>,
    /// The errors of the other rows.
    pub(crate) errors: BTreeMap<String, String>,
}

impl<P: Projection> KeyHistories<P> {
    /// Begins with nothing folded. `keys` come with their present rows, where these can be trusted.
    pub(crate) fn new(
        engine: &Engine,
        part: PartitionId,
        exclusions: &Exclusions,
        parked: HashMap<String, u64>,
        keys: impl IntoIterator<Item = (String, Option<P::Row>)>,
    ) -> Self {
        let mut groups: BTreeMap<Sources, HashSet<String>> = BTreeMap::new();
        let mut by_row = HashSet::new();
        for (key, row) in keys {
            let sources = P::sources(&key, row.as_ref());
            if sources != Sources::All && P::sources(&key, None) == Sources::All {
                by_row.insert(key.clone());
            }
            groups.entry(sources).or_default().insert(key);
        }
        Self {
            log: engine.log.clone(),
            part,
            exclusions: Exclusions { skipped: exclusions.skipped.clone(), ..Exclusions::default() },
            parked,
            sandbox: Sandbox::new(engine.settings.fold_limit),
            groups: groups.into_iter().map(|(sources, keys)| (sources, Arc::new(keys))).collect(),
            by_row,
            rows: HashMap::new(),
            errors: BTreeMap::new(),
            position: 0,
        }
    }

    /// The position up to which the log has been folded.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// True if it was begun with the same events left out.
    pub(crate) fn leaves_out(
        &self,
        exclusions: &Exclusions,
        parked: &HashMap<String, u64>,
    ) -> bool {
        self.exclusions.skipped == exclusions.skipped && self.parked == *parked
    }

    /// Continues to fold, up to and including a position.
    pub(crate) async fn fold_until(mut self, until: u64) -> Result<Self, Error> {
        let from = self.position;
        if until <= from {
            return Ok(self);
        }
        let log = self.log.clone();
        let (long, short): (Vec<_>, Vec<_>) =
            self.groups.clone().into_iter().partition(|(sources, _)| is_long(sources));
        let mut histories = stream::iter(short)
            .map(|(sources, keys)| {
                let log = log.clone();
                async move { (history(&log, &sources, from, until).await, keys) }
            })
            .buffered(AT_ONCE);
        while let Some((events, keys)) = histories.next().await {
            self.fold(events?, &keys, Scope::Own).await?;
        }
        for (sources, keys) in long {
            match sources {
                Sources::Subjects(subjects) => {
                    let filters: Vec<_> = subjects.iter().map(Subject::to_string).collect();
                    self.read_history(&filters, &keys, until, Scope::Own).await?;
                }
                _ => self.read_history(&everything::<P>(), &keys, until, Scope::All).await?,
            }
        }
        // Rows that were wrong about the place of their events.
        let lost = |key: &String| !self.rows.contains_key(key) && !self.errors.contains_key(key);
        let lost: HashSet<_> = self.by_row.iter().filter(|key| lost(key)).cloned().collect();
        if from == 0 && !lost.is_empty() {
            for keys in self.groups.values_mut() {
                Arc::make_mut(keys).retain(|key| !lost.contains(key));
            }
            let all = self.groups.entry(Sources::All).or_default();
            Arc::make_mut(all).extend(lost.iter().cloned());
            self.read_history(&everything::<P>(), &Arc::new(lost), until, Scope::All).await?;
        }
        self.position = until;
        Ok(self)
    }

    /// Folds the events of some filters, while they are read.
    async fn read_history(
        &mut self,
        filters: &[String],
        keys: &Arc<HashSet<String>>,
        until: u64,
        scope: Scope,
    ) -> Result<(), Error> {
        let mut last = 0;
        for filter in filters {
            last = last.max(self.log.last_position_under(filter).await?.unwrap_or(0));
        }
        let mut position = self.position;
        let mut reader = self.log.reader_of(filters, position + 1);
        while position < until.min(last) {
            let mut events = reader.next_batch(BATCH, READ_TIMEOUT).await?.events;
            let Some(read) = events.last().map(|event| event.position) else { continue };
            events.retain(|event| event.position <= until);
            self.fold(events, keys, scope).await?;
            position = read;
        }
        Ok(())
    }

    /// Folds events over the rows of `keys`.
    async fn fold(
        &mut self,
        events: Vec<Recorded>,
        keys: &Arc<HashSet<String>>,
        scope: Scope,
    ) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let events = Events::of(events.into_iter().map(Decoded::from).collect());
        loop {
            match self.try_fold(&events, keys, scope).await {
                Ok(()) => {
                    self.exclusions.hung_folds.clear();
                    return Ok(());
                }
                // It is parked, in this fold only, and the others continue.
                Err(hung) if self.exclusions.leave_out(hung) => {}
                Err(hung) => return Err(hung.error(P::NAME)),
            }
        }
    }

    async fn try_fold(
        &mut self,
        events: &Events,
        keys: &Arc<HashSet<String>>,
        scope: Scope,
    ) -> Result<(), HungFold> {
        let (own, part, exclusions) = (events.clone(), self.part, self.exclusions.clone());
        let (requested, parked) = (keys.clone(), self.parked.clone());
        let routed = self.sandbox.run(move |mark| {
            let mut routed = fold::route::<P>(&own, part, &exclusions, None, mark);
            fold::retain(&mut routed, |key| requested.contains(key));
            fold::leave_out(&own, &mut routed, &parked);
            routed
        });
        let routed = routed.await?;
        if routed.is_empty() {
            return Ok(());
        }
        let touched = fold::keys(&routed).into_iter();
        let rows = touched.filter_map(|key| self.rows.get_key_value(&key));
        let rows = rows.map(|(key, row)| (key.clone(), row.clone())).collect();
        let mut exclusions = self.exclusions.clone();
        exclusions.blocked.extend(self.errors.keys().cloned());
        let own = events.clone();
        let folded =
            self.sandbox.run(move |mark| fold_rows::<P>(&own, &routed, rows, exclusions, mark));
        let (changed, parked, touches) = folded.await?;
        for (key, row) in changed {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        for Parked { key, position, .. } in parked {
            if keys.contains(&key) {
                self.fail(key, position);
                continue;
            }
            // It names a subject. If events of others are read too, the keys that the event is
            // known to touch wait for it; otherwise all keys do.
            let waits = touches.iter().filter(|(_, at)| *at == position).map(|(key, _)| key);
            let waits: Vec<_> = match scope {
                Scope::Own => keys.iter().collect(),
                Scope::All => waits.collect(),
            };
            for key in waits {
                self.fail(key.clone(), position);
            }
        }
        Ok(())
    }

    /// Records the first error of a key. It quotes no data.
    fn fail(&mut self, key: String, position: u64) {
        let error = || format!("the event at position {position} cannot be folded into it");
        self.errors.entry(key).or_insert_with(error);
    }

    /// The result.
    pub(crate) fn end(mut self) -> Fresh<P::Row> {
        let mut rows = Rows::new();
        for key in self.groups.values().flat_map(|keys| keys.iter()) {
            if !self.errors.contains_key(key) {
                rows.insert(key.clone(), self.rows.remove(key));
            }
        }
        Fresh { rows, errors: self.errors }
    }
}

/// True if there may be more events than are held at once.
fn is_long(sources: &Sources) -> bool {
    match sources {
        Sources::Subjects(subjects) => subjects.contains(&Subject::Provider),
        Sources::Position(_) => false,
        Sources::All => true,
    }
}

/// Filters for every event that a projection may fold.
fn everything<P: Projection>() -> Vec<String> {
    P::SUBJECTS.iter().map(|prefix| format!("{prefix}>")).collect()
}

/// A fold of rows: the changed rows, the events that could not be folded, and the positions of the
/// events that touch each key.
type Folded<R> = (Rows<R>, Vec<Parked>, Vec<(String, u64)>);

fn fold_rows<P: Projection>(
    events: &Events,
    routed: &[RoutedEvent],
    rows: HashMap<String, Stored<P::Row>>,
    mut exclusions: Exclusions,
    mark: &Mark,
) -> Folded<P::Row> {
    let mut table = Loaded { rows, changed: Rows::new() };
    let parked = fold::fold::<P>(events, routed, &mut table, &mut exclusions, mark);
    (table.changed, parked, fold::touches(events, routed))
}

/// The events of one source between two positions, without the event at the first, in log order.
async fn history(
    log: &Log,
    sources: &Sources,
    after: u64,
    until: u64,
) -> Result<Vec<Recorded>, ReadError> {
    let mut events = Vec::new();
    match sources {
        Sources::Subjects(subjects) => {
            for subject in subjects {
                events.extend(log.events_after(subject, after).await?);
            }
        }
        Sources::Position(position) if (after + 1..=until).contains(position) => {
            events.extend(log.read_event(*position).await?);
        }
        Sources::Position(_) | Sources::All => {}
    }
    events.retain(|event| event.position <= until);
    events.sort_by_key(|event| event.position);
    Ok(events)
}
