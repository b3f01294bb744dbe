//! `calendar`: one row for each car, with its taken days.

pub mod read;

use crate::{PersonalData, Projection, Sources};
use chrono::{NaiveDate, TimeDelta};
use exodrive_domain::{
    Event, Payload, Subject,
    booking::{BlockChange, BookingChange, Status},
    days::Days,
};
use serde::{Deserialize, Serialize};

/// The view of cars' calendars.
pub struct CalendarView;

/// The taken days of a car.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CalendarRow {
    /// In order of days.
    pub entries: Vec<Entry>,
    /// The same days as a multirange of their numbers, for Postgres.
    pub taken: String,
}

/// Days that are taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// The days.
    pub days: Days,
    /// `held`, `booked` or `maintenance`.
    pub status: String,
    /// The booking or block.
    pub id: String,
}

/// Days that ended this many days before the newest event are dropped.
const KEPT_DAYS: i64 = 400;

impl CalendarRow {
    /// Gives these days to a booking or block; takes its days away if `None`.
    fn set(&mut self, id: &str, days: Option<Days>, status: &str) {
        self.entries.retain(|entry| entry.id != id);
        let (id, status) = (id.to_owned(), status.to_owned());
        self.entries.extend(days.map(|days| Entry { days, status, id }));
        self.entries.sort_unstable();
    }

    fn settle(&mut self, today: NaiveDate) {
        let oldest = today - TimeDelta::days(KEPT_DAYS);
        self.entries.retain(|entry| entry.days.until() > oldest);
        let range = |entry: &Entry| {
            format!("[{},{})", day_number(entry.days.first()), day_number(entry.days.until()))
        };
        let ranges: Vec<_> = self.entries.iter().map(range).collect();
        self.taken = format!("{{{}}}", ranges.join(","));
    }
}

impl Projection for CalendarView {
    const NAME: &'static str = "calendar";
    const ABOUT: &'static str = "The days of a car that are taken, by the car's id";
    const KEY_EXAMPLE: &'static str = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4";
    const VERSION: u32 = 1;
    const SUBJECTS: &'static [&'static str] = &["exo.booking."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    const CACHED: bool = true;
    const READERS: &'static str = "true";
    type Row = CalendarRow;

    fn personal(_key: &str) -> PersonalData<'_> {
        PersonalData::Nothing
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        match event.payload {
            Payload::Booking(event) => vec![event.car_id.to_string()],
            Payload::Block(event) => vec![event.car_id.to_string()],
            _ => Vec::new(),
        }
    }

    fn evolve(_key: &str, row: Option<CalendarRow>, event: &Event<'_>) -> Option<CalendarRow> {
        // Before its first event a car's calendar is empty.
        let mut row = row.unwrap_or_default();
        match event.payload {
            Payload::Booking(booking) => {
                let status =
                    if booking.status == Status::PendingPayment { "held" } else { "booked" };
                let days = match booking.change {
                    BookingChange::MovedOut { .. } => None,
                    _ => booking.occupies,
                };
                row.set(&booking.booking_id.to_string(), days, status);
            }
            Payload::Block(block) => {
                let days = match &block.change {
                    BlockChange::Blocked { days, .. } => Some(*days),
                    BlockChange::Unblocked {} => None,
                };
                row.set(&block.block_id.to_string(), days, "maintenance");
            }
            _ => {}
        }
        row.settle(event.recorded.envelope.time.date_naive());
        Some(row)
    }

    /// A car's calendar is one subject, with its blocks and both halves of moves.
    fn sources(key: &str, _row: Option<&CalendarRow>) -> Sources {
        Sources::subject(key.parse().ok().map(Subject::Booking))
    }

    fn cached(row: &CalendarRow, _position: u64) -> Option<String> {
        serde_json::to_string(&row.entries).ok()
    }
}

/// The day's number, counted like the calendar's days.
pub(crate) fn day_number(day: NaiveDate) -> i32 {
    day.to_epoch_days()
}
