//! The calendar of one car, on which no day is given twice.

use super::{
    event::{BlockChange, BookingChange, BookingEvent},
    evolve::evolve,
    state::Booking,
    status::Status,
};
use crate::{
    CommandRecord, Event, Payload, Recorded,
    command::remember,
    days::Days,
    id::{BlockId, BookingId, CarId},
};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The calendar of one car: all its bookings and blocks. It is the state that
/// decisions about them are made on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calendar {
    /// Every booking that is of this car.
    pub bookings: BTreeMap<BookingId, Arc<Booking>>,
    /// Every block that was not removed.
    pub blocks: BTreeMap<BlockId, Block>,
    /// Bookings that were moved to another car.
    pub moved: BTreeMap<BookingId, CarId>,
    /// The commands that made those, so that none makes another booking here.
    pub made_moved: BTreeMap<BookingId, String>,
    /// Executed commands about blocks.
    pub commands: Vec<CommandRecord>,
}

/// Days on which the car is not available.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The blocked days.
    pub days: Days,
    /// The reason, as it was given.
    pub reason: String,
    /// The position of its event.
    pub position: u64,
}

/// A day that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TakenDay {
    /// The day.
    pub date: NaiveDate,
    /// The booking or block that takes it.
    pub by: Taken,
}

/// The booking or block that takes a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taken {
    /// An unpaid booking.
    Held(BookingId),
    /// A booking.
    Booked(BookingId),
    /// Blocked, for example for maintenance.
    Blocked(BlockId),
}

impl Taken {
    fn of(booking: &Booking) -> Self {
        match booking.status {
            Status::PendingPayment => Self::Held(booking.id),
            _ => Self::Booked(booking.id),
        }
    }

    /// The day's status in a calendar.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::Booked(_) => "booked",
            Self::Blocked(_) => "maintenance",
        }
    }
}

impl Calendar {
    /// Folds an event of the car's subject.
    pub fn evolve(&mut self, event: &Event<'_>) {
        match event.payload {
            Payload::Booking(booking) => self.apply_booking(booking, event.recorded),
            Payload::Block(block) => {
                match &block.change {
                    BlockChange::Blocked { days, reason, .. } => {
                        let (reason, position) = (reason.clone(), event.recorded.position);
                        self.blocks.insert(block.block_id, Block { days: *days, reason, position });
                    }
                    BlockChange::Unblocked {} => {
                        self.blocks.remove(&block.block_id);
                    }
                }
                remember(&mut self.commands, block.request_hash.as_deref(), event.recorded);
            }
            _ => {}
        }
    }

    fn apply_booking(&mut self, event: &BookingEvent, recorded: &Recorded) {
        let id = event.booking_id;
        if let BookingChange::MovedOut { to_car_id } = event.change {
            let left = self.bookings.remove(&id);
            if let Some(made) = left.as_ref().and_then(|booking| booking.commands.first()) {
                self.made_moved.insert(id, made.id.clone());
            }
            self.moved.insert(id, to_car_id);
            return;
        }
        self.moved.remove(&id);
        self.made_moved.remove(&id);
        let before = self.bookings.remove(&id).map(Arc::unwrap_or_clone);
        if let Some(after) = evolve(before, event, recorded) {
            self.bookings.insert(id, Arc::new(after));
        }
    }

    /// Every day of `days` that is taken, in order. A day that is taken twice
    /// (a block forced over a booking) is listed twice.
    pub fn taken(&self, days: Days, except: Option<BookingId>) -> Vec<TakenDay> {
        let mut taken = Vec::new();
        for booking in self.bookings.values().filter(|booking| Some(booking.id) != except) {
            let shared = booking.occupied().and_then(|occupied| occupied.shared(&days));
            let by = Taken::of(booking);
            taken.extend(shared.iter().flat_map(Days::iter).map(|date| TakenDay { date, by }));
        }
        for (id, block) in &self.blocks {
            let shared = block.days.shared(&days);
            let by = Taken::Blocked(*id);
            taken.extend(shared.iter().flat_map(Days::iter).map(|date| TakenDay { date, by }));
        }
        taken.sort_unstable();
        taken
    }

    /// The first free range with as many days as `days`, on or after its first
    /// day.
    pub fn next_free(&self, days: Days, except: Option<BookingId>) -> Option<Days> {
        let others = self.bookings.values().filter(|booking| Some(booking.id) != except);
        let occupied = others.filter_map(|booking| booking.occupied());
        // Most ranges of a long history are over.
        let mut ranges: Vec<Days> = occupied
            .chain(self.blocks.values().map(|block| block.days))
            .filter(|range| range.until() > days.first())
            .collect();
        ranges.sort_unstable();
        let mut candidate = days;
        for range in ranges {
            if range.overlaps(&candidate) {
                candidate = candidate.beginning(range.until())?;
            }
        }
        Some(candidate)
    }
}
