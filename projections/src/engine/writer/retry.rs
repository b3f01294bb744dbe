//! The part of the writer that repairs rows: it retries parked events, and finds the events after
//! which Postgres refuses rows.

use super::turn::{BatchError, Outcome, PartitionWriter};
use crate::{
    Error, Transaction,
    engine::{
        feed::{Decoded, Events},
        fold::{self, Exclusions},
        projection::Projection,
        refused::{States, judge, write_each},
        store::{
            self,
            parked::{self, Again, Due},
        },
    },
};
use std::{collections::HashMap, sync::Arc, time::Duration};

impl<P: Projection> PartitionWriter<'_, P> {
    /// Finds the events of a batch after which Postgres refuses rows, and adds them to `exclusions`
    /// (see [`refused`](crate::engine::refused)). All of an event's keys if `only` is its subject,
    /// else only that key.
    ///
    /// # Errors
    /// `error`, by which the batch was refused, if no further such event is found.
    pub(super) async fn leave_out_refused(
        &mut self,
        events: &Events,
        only: Option<&str>,
        exclusions: &mut Exclusions,
        error: Error,
    ) -> Result<(), BatchError> {
        let (generation, before) = (self.lease.part.generation, exclusions.clone());
        let pool = self.engine.database.pool().clone();
        let routed = self.route(events, only).await?;
        let keys = fold::keys(&routed);
        let rows = {
            let mut connection = pool.acquire().await.map_err(Error::from)?;
            store::load::<P>(&mut connection, generation, &keys).await?
        };
        let Outcome { changed, routed, .. } =
            self.fold(events, routed, before.clone(), Duration::MAX).await?;
        let mut transaction = store::begin_transaction(&pool).await?;
        let keys = write_each::<P>(&mut transaction, generation, changed).await?;
        transaction.rollback().await.map_err(Error::from)?;
        // Only of these rows is every state kept.
        let mut states = States::new(rows, Arc::new(keys.into_iter().collect()));
        let (events, mut own) = (events.clone(), before);
        let job = self.sandbox.run(move |mark| {
            fold::fold::<P>(&events, &routed, &mut states, &mut own, mark);
            states
        });
        let (states, mut refused) = (job.await?, HashMap::new());
        let mut transaction = store::begin_transaction(&pool).await?;
        judge::<P>(&mut transaction, generation, states, &mut refused).await?;
        transaction.rollback().await.map_err(Error::from)?;
        if refused.iter().all(|(key, first)| exclusions.refused.get(key) == Some(first)) {
            return Err(error.into());
        }
        exclusions.refused.extend(refused);
        Ok(())
    }

    /// Folds the parked events of one key whose retry an operator requested, or whose retry is due.
    /// False if there is none.
    pub(super) async fn retry_parked(&mut self) -> Result<bool, Error> {
        let (pool, part) = (self.engine.database.pool().clone(), self.lease.part);
        let Some(due) = parked::due(self.engine.definition, &pool, part).await? else {
            return Ok(false);
        };
        let mut decoded = Vec::new();
        for position in &due.positions {
            decoded.extend(self.engine.log.read_event(*position).await?.map(Decoded::from));
        }
        let events = Events::of(decoded);
        let mut exclusions = self.exclusions.clone();
        exclusions.blocked.remove(&due.key);
        let (mut transaction, outcome) = loop {
            let failed = match self.try_retry(&events, &due, &exclusions).await {
                Ok(folded) => break folded,
                Err(BatchError::Error(error)) if store::is_refused_value(&error) => {
                    let only = Some(&*due.key);
                    let found = self.leave_out_refused(&events, only, &mut exclusions, error);
                    match found.await {
                        Ok(()) if exclusions.refused.get(&due.key) != due.positions.first() => {
                            continue;
                        }
                        Ok(()) => {
                            tracing::error!(
                                projection = P::NAME,
                                "Postgres still rejects the row, the event stays parked"
                            );
                            return self.keep(&due, Again::Later).await;
                        }
                        Err(failed) => failed,
                    }
                }
                Err(failed) => failed,
            };
            match failed {
                BatchError::HungFold(_) => {
                    tracing::error!(
                        projection = P::NAME,
                        "The fold still does not end, the event stays parked"
                    );
                    return self.keep(&due, Again::WhenAsked).await;
                }
                BatchError::Error(error) => return Err(error),
            }
        };
        let Outcome { changed, counts, parked, mut exclusions, .. } = outcome;
        parked::park(self.engine.definition, &mut transaction, part, &parked, due.attempts + 1)
            .await?;
        let position = self.lease.position;
        store::leases::advance(
            self.engine.definition,
            &mut transaction,
            &self.lease,
            position,
            (changed.len(), &counts),
        )
        .await?;
        transaction.commit().await?;
        exclusions.hung_folds.clear();
        exclusions.refused.clear();
        self.exclusions = exclusions;
        tracing::info!(
            projection = P::NAME,
            events = due.positions.len(),
            still_parked = parked.len(),
            "Retried parked events"
        );
        // Their positions are before the one up to which Redis is known to have rows.
        if let Some(first) = due.positions.first() {
            self.lease.published = self.lease.published.min(first.saturating_sub(1));
            self.miss(Duration::ZERO);
        }
        Ok(true)
    }

    /// Folds parked events and writes the rows, in a transaction that is not committed.
    async fn try_retry(
        &mut self,
        events: &Events,
        due: &Due,
        exclusions: &Exclusions,
    ) -> Result<(Transaction, Outcome<P::Row>), BatchError> {
        let part = self.lease.part;
        let routed = self.route(events, Some(&due.key)).await?;
        let outcome = self.fold(events, routed, exclusions.clone(), Duration::MAX).await?;
        let mut transaction = store::begin_transaction(self.engine.database.pool()).await?;
        parked::unpark(self.engine.definition, &mut transaction, part, &due.key).await?;
        store::write::<P>(&mut transaction, part.generation, &outcome.changed).await?;
        Ok((transaction, outcome))
    }

    /// Leaves the events of a key parked.
    async fn keep(&self, due: &Due, again: Again) -> Result<bool, Error> {
        let mut connection = self.engine.database.pool().acquire().await?;
        let (definition, part) = (self.engine.definition, self.lease.part);
        parked::keep(definition, &mut connection, part, due, again).await?;
        Ok(true)
    }
}
