//! The part of the writer that folds rows again, beside the folding of events: one row that an
//! operator requested, or rows whose events were erased.

use super::{
    backlog::entries,
    refolding::{Refold, RefoldSource},
    turn::{PartitionWriter, TICK},
};
use crate::{
    Error,
    engine::{
        cache::CacheError,
        fold::{self, REFUSED, Rows, Stored},
        histories::{Fresh, KeyHistories},
        projection::Projection,
        refused::write_each,
        store::{self, leases::NOTHING, parked, rebuilds, refolds},
    },
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The name of its task in errors.
const REFOLDING: &str = "The task that folds rows again";
/// Events that the writer may read itself; more are read by a task beside it.
const FEW: u64 = 4_000;

impl<P: Projection> PartitionWriter<'_, P> {
    /// Begins to fold rows again if any are requested, or writes rows whose folding has ended.
    pub(super) async fn refold(&mut self) -> Result<(), Error> {
        if let Some(refold) = self.refolding.take_if(|refold| refold.is_finished()) {
            self.end_refold(refold).await?;
        }
        if self.refolding.is_none() {
            self.begin_refold().await?;
            self.at_rest = self.unread && self.refolding.is_none();
        }
        Ok(())
    }

    async fn begin_refold(&mut self) -> Result<(), Error> {
        let (definition, pool) = (self.engine.definition, self.engine.database.pool());
        let part = self.lease.part;
        let (source, keys) = match rebuilds::key_requested(definition, pool, part).await? {
            // Its row may be wrong, so it does not determine where its events are.
            Some((id, key)) => (RefoldSource::Key(id, key.clone()), vec![(key, None)]),
            None => {
                let due = refolds::due(definition, pool, part).await?;
                if due.rows.is_empty() {
                    return Ok(());
                }
                self.events.read_again(due.position);
                let keys: Vec<_> = due.rows.keys().cloned().collect();
                let mut connection = pool.acquire().await?;
                let mut rows = store::load::<P>(&mut connection, part.generation, &keys).await?;
                let row = |key: String| {
                    let row = rows.remove(&key).map(|stored| stored.row);
                    (key, row)
                };
                (RefoldSource::Erased(due), keys.into_iter().map(row).collect())
            }
        };
        let parked = parked::firsts(definition, pool, part).await?;
        let histories = KeyHistories::new(self.engine, part, &self.exclusions, parked, keys);
        self.refolding = Some(Refold::new(source, histories, self.lease.position));
        Ok(())
    }

    async fn end_refold(&mut self, refold: Refold<P>) -> Result<(), Error> {
        let Refold { source, task } = refold;
        let position = self.lease.position;
        let parked =
            parked::firsts(self.engine.definition, self.engine.database.pool(), self.lease.part)
                .await?;
        let folded = match task.await.unwrap_or_else(|error| Err(Error::lost(REFOLDING, &error))) {
            // Other events are left out of rows now: the folding begins again.
            Ok(histories) if !histories.leaves_out(&self.exclusions, &parked) => return Ok(()),
            Ok(histories) if position.saturating_sub(histories.position()) > FEW => {
                self.refolding = Some(Refold::new(source, histories, position));
                return Ok(());
            }
            Ok(histories) => histories.fold_until(position).await,
            Err(error) => Err(error),
        };
        let fresh = match (folded, &source) {
            (Ok(histories), _) => histories.end(),
            (Err(Error::HungFold { .. }), RefoldSource::Key(_, key)) => {
                Fresh::failed([key], "the fold of this row does not end")
            }
            (Err(Error::HungFold { .. }), RefoldSource::Erased(due)) => {
                Fresh::failed(due.rows.keys(), "the fold does not end")
            }
            (Err(Error::TaskPanicked(_) | Error::TaskEnded(_)), source) => {
                Fresh::failed(source.keys(), "the engine failed; see the worker's log")
            }
            // Folding of events continues meanwhile.
            (Err(error), RefoldSource::Erased(due)) if !error.is_final() => {
                tracing::warn!(
                    projection = P::NAME,
                    error = exodrive_runtime::error_chain(&error),
                    "Rows could not be folded again, will be retried"
                );
                Fresh::failed(due.rows.keys(), "the log could not be read; see the worker's log")
            }
            (Err(error), _) => return Err(error),
        };
        self.put(&source, fresh).await
    }

    /// Replaces the stored rows by fresh ones.
    async fn put(&mut self, source: &RefoldSource, fresh: Fresh<P::Row>) -> Result<(), Error> {
        let Fresh { mut rows, mut errors } = fresh;
        let (definition, pool) = (self.engine.definition, self.engine.database.pool().clone());
        let (part, position) = (self.lease.part, self.lease.position);
        let mut transaction = store::begin_transaction(&pool).await?;
        let keys: Vec<_> = rows.keys().cloned().collect();
        let before = store::load::<P>(&mut transaction, part.generation, &keys).await?;
        let mut changed = rows.clone();
        changed.retain(|key, row| before.get(key) != row.as_ref());
        for key in write_each::<P>(&mut transaction, part.generation, changed.clone()).await? {
            rows.remove(&key);
            changed.remove(&key);
            errors.insert(key, REFUSED.to_owned());
        }
        match source {
            RefoldSource::Key(id, key) => match errors.get(key) {
                Some(error) => rebuilds::fail(&mut transaction, *id, 0, error).await?,
                None => {
                    let differs = changed.contains_key(key);
                    let tx = &mut transaction;
                    rebuilds::key_done(definition, tx, *id, part, position, key, differs).await?;
                }
            },
            RefoldSource::Erased(due) => {
                refolds::folded(definition, &mut transaction, part, due, rows.keys()).await?;
                refolds::failed(definition, &mut transaction, part, due, &errors).await?;
                if !P::CACHED {
                    refolds::done(definition, &mut transaction, part, due, rows.keys()).await?;
                }
            }
        }
        let counts = fold::counts::<P>(&before, &changed);
        let folded = (changed.len(), &counts);
        store::leases::advance(definition, &mut transaction, &self.lease, position, folded).await?;
        transaction.commit().await?;
        tracing::info!(
            projection = P::NAME,
            generation = part.generation,
            rows = rows.len(),
            failed = errors.len(),
            "Folded rows again"
        );
        if !P::CACHED {
            return Ok(());
        }
        // It may hold the previous rows.
        self.ahead = None;
        match (self.republish(&before, &rows).await, source) {
            (Ok(()), RefoldSource::Key(..)) => {}
            (Err(_), RefoldSource::Key(..)) => self.miss(TICK),
            (Ok(()), RefoldSource::Erased(due)) => {
                // Unless another worker has taken over: then Redis may have got our rows too late,
                // and they are still due.
                let mut transaction = store::begin_transaction(&pool).await?;
                let tx = &mut transaction;
                store::leases::advance(definition, tx, &self.lease, position, NOTHING).await?;
                refolds::done(definition, tx, part, due, rows.keys()).await?;
                transaction.commit().await?;
            }
            (Err(_), RefoldSource::Erased(due)) => {
                let error = || "Redis does not answer; it may hold the previous row".to_owned();
                let errors = rows.into_keys().map(|key| (key, error())).collect();
                let mut connection = pool.acquire().await?;
                refolds::failed(definition, &mut connection, part, due, &errors).await?;
            }
        }
        Ok(())
    }

    /// Makes Redis, and readers that cache rows, forget rows, and gives them the fresh ones. Redis
    /// retains the higher position of two: that of a wrong row may be too high, and that of an
    /// erased one is the same.
    async fn republish(
        &self,
        before: &HashMap<String, Stored<P::Row>>,
        rows: &Rows<P::Row>,
    ) -> Result<(), CacheError> {
        let (cache, generation) = (&self.engine.cache, self.lease.part.generation);
        let mut names: BTreeSet<_> = rows.keys().cloned().collect();
        for stored in before.values().chain(rows.values().flatten()) {
            names.extend(P::aliases(&stored.row));
        }
        let names: Vec<_> = names.into_iter().collect();
        cache.forget(P::NAME, generation, &names).await?;
        let fresh = rows.iter().filter_map(|(key, row)| Some((key, row.as_ref()?)));
        let entries: Vec<_> = fresh.flat_map(|(key, row)| entries::<P>(key, row)).collect();
        cache.publish(P::NAME, generation, &entries).await
    }
}

impl<R> Fresh<R> {
    fn failed<'a>(keys: impl IntoIterator<Item = &'a String>, error: &str) -> Self {
        let errors = keys.into_iter().map(|key| (key.clone(), error.to_owned()));
        Self { rows: Rows::new(), errors: errors.collect::<BTreeMap<_, _>>() }
    }
}
