//! The part of the writer that repairs rows: it retries parked events and finds rejected rows.

use super::turn::{BatchError, Outcome, PartitionWriter};
use crate::{
    Error,
    engine::{
        feed::{Decoded, Events},
        fold::{self, Parked, Rows},
        projection::Projection,
        store::{
            self,
            parked::{self, Again},
        },
    },
};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

impl<P: Projection> PartitionWriter<'_, P> {
    /// Finds the rows of a batch that Postgres rejects, by writing each alone in a transaction that
    /// is then rolled back.
    pub(super) async fn write_one_by_one(&mut self, events: &Events) -> Result<Vec<Parked>, Error> {
        let generation = self.lease.part.generation;
        let routed = self.route(events, None).await.map_err(|hung| hung.error(P::NAME))?;
        let mut transaction = store::begin_transaction(self.engine.database.pool()).await?;
        let folded = self.fold(&mut transaction, events, routed, self.exclusions.clone());
        let Outcome { changed, routed, .. } =
            folded.await.map_err(|error| error.into_error(P::NAME))?;
        let mut refused = Vec::new();
        for (key, row) in changed {
            let alone = Rows::from([(key.clone(), row)]);
            if try_write::<P>(&mut transaction, generation, &alone).await? {
                continue;
            }
            if let Some(position) = fold::first_of(events, &routed, &key) {
                let error = "Postgres rejected the row's value".to_owned();
                refused.push(Parked { key, position, error });
            }
        }
        transaction.rollback().await?;
        Ok(refused)
    }

    /// Folds the parked events of one key whose retry an operator requested, or whose retry is due.
    pub(super) async fn retry_parked(&mut self) -> Result<(), Error> {
        let (pool, part) = (self.engine.database.pool().clone(), self.lease.part);
        let Some(due) = parked::due(self.engine.definition, &pool, part).await? else {
            return Ok(());
        };
        let mut decoded = Vec::new();
        for position in &due.positions {
            decoded.extend(self.engine.log.read_event(*position).await?.map(Decoded::from));
        }
        let events = Events::of(decoded);
        let mut exclusions = self.exclusions.clone();
        exclusions.blocked.remove(&due.key);
        let mut transaction = store::begin_transaction(&pool).await?;
        let outcome = match self.route(&events, Some(&due.key)).await {
            Ok(routed) => self.fold(&mut transaction, &events, routed, exclusions).await,
            Err(hung) => Err(hung.into()),
        };
        let Outcome { changed, parked, mut exclusions, .. } = match outcome {
            Ok(outcome) => outcome,
            Err(BatchError::HungFold(_)) => {
                // The server may have ended the transaction as hung meanwhile.
                drop(transaction);
                let mut connection = pool.acquire().await?;
                let again = Again::WhenAsked;
                parked::keep(self.engine.definition, &mut connection, part, &due, again).await?;
                tracing::error!(
                    projection = P::NAME,
                    "The fold still does not end, the event stays parked"
                );
                return Ok(());
            }
            Err(BatchError::Error(error)) => return Err(error),
        };
        parked::unpark(self.engine.definition, &mut transaction, part, &due.key).await?;
        if let Err(error) = store::write::<P>(&mut transaction, part.generation, &changed).await {
            if !store::is_refused_value(&error) {
                return Err(error);
            }
            transaction.rollback().await?;
            tracing::error!(
                projection = P::NAME,
                "Postgres still rejects the row, the event stays parked"
            );
            let mut connection = pool.acquire().await?;
            let again = Again::Later;
            return parked::keep(self.engine.definition, &mut connection, part, &due, again).await;
        }
        parked::park(self.engine.definition, &mut transaction, part, &parked, due.attempts + 1)
            .await?;
        let position = self.lease.position;
        store::leases::advance(
            self.engine.definition,
            &mut transaction,
            &self.lease,
            position,
            changed.len(),
        )
        .await?;
        transaction.commit().await?;
        exclusions.hung_folds.clear();
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
        Ok(())
    }
}

/// Writes rows; returns false and changes nothing if Postgres rejects one.
pub(super) async fn try_write<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    rows: &Rows<P::Row>,
) -> Result<bool, Error> {
    let mut attempt = connection.begin().await?;
    match store::write::<P>(&mut attempt, generation, rows).await {
        Ok(()) => attempt.commit().await?,
        Err(error) if store::is_refused_value(&error) => {
            attempt.rollback().await?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    Ok(true)
}
