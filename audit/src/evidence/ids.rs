//! The ids of deliveries, and how often each is stored.

use chrono::{DateTime, Utc};
use exodrive_domain::Recorded;
use std::collections::HashMap;

/// The ids of some deliveries.
#[derive(Default)]
pub(super) struct Ids {
    pub(super) known: HashMap<String, Known>,
    /// The time at which the first of them was stored.
    pub(super) first_stored_at: Option<DateTime<Utc>>,
}

/// What is known of an id.
#[derive(Clone, Copy)]
pub(super) struct Known {
    /// The first position at which it is stored.
    pub(super) first: u64,
    /// The number of times that it is stored.
    pub(super) times: u64,
}

impl Ids {
    pub(super) fn of<'a>(events: impl IntoIterator<Item = &'a Recorded>) -> Self {
        let mut ids = Self::default();
        events.into_iter().for_each(|event| ids.add(event));
        ids
    }

    pub(super) fn add(&mut self, event: &Recorded) {
        let first = Known { first: event.position, times: 0 };
        let known = self.known.entry(event.envelope.id.clone()).or_insert(first);
        known.first = known.first.min(event.position);
        known.times += 1;
        self.stored_at(event.stored_at);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn stored_at(&mut self, at: DateTime<Utc>) {
        self.first_stored_at = Some(self.first_stored_at.map_or(at, |first| first.min(at)));
    }

    /// Adds what is known of the whole history of an email: it may be more than is known here.
    pub(super) fn merge(&mut self, other: &Self) {
        for (id, it) in &other.known {
            let known = self.known.entry(id.clone()).or_insert(*it);
            known.first = known.first.min(it.first);
            known.times = known.times.max(it.times);
        }
        if let Some(at) = other.first_stored_at {
            self.stored_at(at);
        }
    }
}
