//! One row, folded afresh.

use crate::{
    Error,
    feed::{Decoded, Events},
    fold::{self, Barred, Loaded, Rows, Stored},
    projection::Projection,
    sandbox::Sandbox,
    store::Part,
};
use exodrive_log::Log;
use std::time::Duration;

/// Events read at a time.
const BATCH: usize = 4_000;
const PATIENCE: Duration = Duration::from_secs(5);

/// The fold of everything that one key's row was made of.
pub(crate) struct KeyHistory<P: Projection> {
    log: Log,
    part: Part,
    barred: Barred,
    key: String,
    sandbox: Sandbox,
    row: Option<Stored<P::Row>>,
    /// How far the log has been folded.
    position: u64,
}

impl<P: Projection> KeyHistory<P> {
    pub(crate) fn new(log: &Log, part: Part, mut barred: Barred, key: String) -> Self {
        barred.blocked.remove(&key);
        let sandbox = Sandbox::default();
        Self { log: log.clone(), part, barred, key, sandbox, row: None, position: 0 }
    }

    /// Folds on, up to and with a position.
    pub(crate) async fn fold_until(mut self, until: u64) -> Result<Self, Error> {
        let mut reader = self.log.reader(self.position + 1);
        while self.position < until {
            let mut events = reader.next_batch(BATCH, PATIENCE).await?.events;
            events.retain(|event| event.position <= until);
            let Some(last) = events.last().map(|event| event.position) else { continue };
            self.fold(Events::of(events.into_iter().map(Decoded::from).collect())).await?;
            self.position = last;
        }
        Ok(self)
    }

    async fn fold(&mut self, events: Events) -> Result<(), Error> {
        let (part, key, mut barred) = (self.part, self.key.clone(), self.barred.clone());
        let row = self.row.take();
        let folded = self.sandbox.run(move |mark| {
            let keyed = fold::keyed::<P>(&events, part, &barred, Some(&key), mark);
            let rows = row.map(|row| (key.clone(), row)).into_iter().collect();
            let mut table = Loaded { rows, changed: Rows::new() };
            let parked = fold::fold::<P>(&events, &keyed, &mut table, &mut barred, mark);
            // Others' events are none of ours: a subject that cannot be read
            // may block this key too, as it does in the live view.
            drop(parked);
            let row = match table.changed.remove(&key) {
                Some(row) => row,
                None => table.rows.remove(&key),
            };
            (row, barred)
        });
        let (row, barred) = folded.await.map_err(|_| Error::Engine)?;
        self.row = row;
        self.barred = barred;
        Ok(())
    }

    pub(crate) fn into_row(self) -> Option<Stored<P::Row>> {
        self.row
    }
}
