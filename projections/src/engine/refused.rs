//! Rows that Postgres refuses: the one rule, for live folding, retries and rebuilds.
//!
//! **A row is in the state after the last event after which Postgres takes it.** The event behind
//! that one is parked with the reason, and later events of the key wait behind it. When one more
//! comes, all of them are tried again: if Postgres takes the row now, it goes on. So the row
//! depends on the log alone, not on where a batch ends or on who folds.
//!
//! A refusal shows only when a row is written. Whoever meets one records the states of the row
//! ([`States`]), finds the event ([`judge`]), and folds again with that event in
//! [`Exclusions::refused`](super::fold::Exclusions): the fold itself parks it.

use super::{
    fold::{Rows, Stored, Table},
    projection::Projection,
    store,
};
use crate::Error;
use sqlx::{Connection, PgConnection};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// A state of a row: the position of the event, and the row after it.
type State<R> = (u64, Option<Stored<R>>);

/// Rows that are folded, with every state that some of them go through.
pub(crate) struct States<R> {
    /// The rows in their latest state.
    pub(crate) rows: HashMap<String, Stored<R>>,
    /// The keys whose states are recorded.
    recorded: Arc<HashSet<String>>,
    /// In the order of events.
    seen: BTreeMap<String, Vec<State<R>>>,
}

impl<R> States<R> {
    /// Begins with these rows, and no states.
    pub(crate) fn new(rows: HashMap<String, Stored<R>>, recorded: Arc<HashSet<String>>) -> Self {
        Self { rows, recorded, seen: BTreeMap::new() }
    }
}

impl<R: Clone> Table<R> for States<R> {
    fn get(&self, key: &str) -> Option<&R> {
        self.rows.get(key).map(|stored| &stored.row)
    }

    fn put(&mut self, key: &str, position: u64, row: Option<Stored<R>>, _bytes: usize) {
        match &row {
            Some(row) => self.rows.insert(key.to_owned(), row.clone()),
            None => self.rows.remove(key),
        };
        if self.recorded.contains(key) {
            self.seen.entry(key.to_owned()).or_default().push((position, row));
        }
    }
}

/// Has Postgres judge the states of rows, by writing them in a transaction that the caller rolls
/// back. `refused` has the event behind the last state that was taken, by key; it is carried from
/// batch to batch. Returns the rows in their latest state.
pub(crate) async fn judge<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    states: States<P::Row>,
    refused: &mut HashMap<String, u64>,
) -> Result<HashMap<String, Stored<P::Row>>, Error> {
    for (key, seen) in states.seen {
        let mut first = None;
        for (position, row) in seen.into_iter().rev() {
            if try_write::<P>(connection, generation, &Rows::from([(key.clone(), row)])).await? {
                refused.remove(&key);
                break;
            }
            first = Some(position);
        }
        if let Some(first) = first {
            refused.entry(key).or_insert(first);
        }
    }
    Ok(states.rows)
}

/// Writes rows; returns false and changes nothing if Postgres refuses one.
pub(crate) async fn try_write<P: Projection>(
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

/// Writes rows, each alone if need be; returns the keys of those that Postgres refuses.
pub(crate) async fn write_each<P: Projection>(
    connection: &mut PgConnection,
    generation: i32,
    rows: Rows<P::Row>,
) -> Result<Vec<String>, Error> {
    let mut refused = Vec::new();
    if try_write::<P>(connection, generation, &rows).await? {
        return Ok(refused);
    }
    for (key, row) in rows {
        if !try_write::<P>(connection, generation, &Rows::from([(key.clone(), row)])).await? {
            refused.push(key);
        }
    }
    Ok(refused)
}
