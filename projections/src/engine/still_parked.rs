//! Parked events that could be folded now: what a rebuild would not park.

use super::{
    PartitionId,
    context::EngineSettings,
    feed::{Decoded, Events},
    fold::{self, Exclusions, HUNG},
    projection::{Definition, Projection},
    refused::{States, judge},
    sandbox::Sandbox,
    store::{self, parked},
};
use crate::{Database, Error};
use exodrive_log::Log;
use std::{collections::HashMap, sync::Arc};

impl Database {
    /// Keys and subjects of the generation that readers see whose first parked event could be
    /// folded now, with its position: their rows are not what a rebuild would make. Changes
    /// nothing. An event whose fold did not end is not tried.
    ///
    /// # Errors
    /// When the log or the database does not answer.
    pub async fn still_parked<P: Projection>(
        &self,
        log: &Log,
    ) -> Result<Vec<(String, u64)>, Error> {
        let definition = Definition::of::<P>();
        let active = store::generations::active(definition, self.pool()).await?;
        let mut sandbox = Sandbox::new(EngineSettings::default().fold_limit);
        let mut found = Vec::new();
        for partition in 0..active.partitions {
            let part = PartitionId {
                generation: active.generation,
                partition,
                partitions: active.partitions,
            };
            let exclusions = parked::exclusions(definition, self.pool(), part).await?;
            for queue in parked::queues(definition, self.pool(), part).await? {
                let Some(first) = queue.positions.first().copied() else { continue };
                if queue.error != HUNG
                    && self.can_fold::<P>(log, part, &exclusions, &queue, &mut sandbox).await?
                {
                    found.push((queue.key, first));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    async fn can_fold<P: Projection>(
        &self,
        log: &Log,
        part: PartitionId,
        exclusions: &Exclusions,
        queue: &parked::Queue,
        sandbox: &mut Sandbox,
    ) -> Result<bool, Error> {
        let mut decoded = Vec::new();
        for position in &queue.positions {
            decoded.extend(log.read_event(*position).await?.map(Decoded::from));
        }
        let events = Events::of(decoded);
        let mut own = exclusions.clone();
        own.blocked.remove(&queue.key);
        let (batch, known, only) = (events.clone(), own.clone(), queue.key.clone());
        let routed = sandbox
            .run(move |mark| fold::route::<P>(&batch, part, &known, Some(&only), mark))
            .await;
        let Ok(routed) = routed else { return Ok(false) };
        let keys = fold::keys(&routed);
        let rows = {
            let mut connection = self.pool().acquire().await?;
            store::load::<P>(&mut connection, part.generation, &keys).await?
        };
        let mut states = States::new(rows, Arc::new(keys.into_iter().collect()));
        let folded = sandbox.run(move |mark| {
            let parked = fold::fold::<P>(&events, &routed, &mut states, &mut own, mark);
            (states, parked)
        });
        let Ok((states, parked)) = folded.await else { return Ok(false) };
        let first = queue.positions.first().copied();
        if parked.iter().any(|it| it.key == queue.key && Some(it.position) == first) {
            return Ok(false);
        }
        let mut refused = HashMap::new();
        let mut transaction = store::begin_transaction(self.pool()).await?;
        judge::<P>(&mut transaction, part.generation, states, &mut refused).await?;
        transaction.rollback().await?;
        Ok(refused.get(&queue.key).copied() != first)
    }
}
