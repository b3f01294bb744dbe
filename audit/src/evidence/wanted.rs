//! What is wanted of the history of an email.

use super::{ids::Ids, pages::Room};
use exodrive_domain::Recorded;
use exodrive_replays::{Candidate, Selection};
use std::{collections::HashSet, sync::Arc};

/// Wants what a page has room for, from a place on.
pub(super) struct OnPage {
    pub(super) begin: usize,
    pub(super) room: Room,
    /// The place of the first that has no room.
    pub(super) more: Option<usize>,
    pub(super) ids: Ids,
}

impl Selection for OnPage {
    fn sees(&mut self, event: &Recorded) {
        self.ids.add(event);
    }

    fn takes(&mut self, place: usize, event: Candidate) -> bool {
        if place < self.begin || self.more.is_some() {
            return false;
        }
        if self.room.is_full() {
            self.more = Some(place);
            return false;
        }
        self.room.take(event.bytes);
        true
    }
}

/// Wants what is at some positions.
pub(super) struct Found {
    pub(super) positions: Arc<HashSet<u64>>,
    pub(super) ids: Ids,
}

impl Selection for Found {
    fn sees(&mut self, event: &Recorded) {
        self.ids.add(event);
    }

    fn takes(&mut self, _: usize, event: Candidate) -> bool {
        self.positions.contains(&event.position)
    }
}
