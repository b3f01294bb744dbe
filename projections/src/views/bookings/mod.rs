//! `bookings`: one row for each booking, with its customer.

pub mod read;

use crate::{
    PersonalData, Projection, Sources,
    views::search::{OLDER_WORDS, phone, text_of},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Event, Payload,
    booking::{self, Booking, BookingChange, BookingEvent, Customer, CustomerDetails},
    time::serde_micros,
};
use serde::{Deserialize, Serialize};

/// The view of bookings.
pub struct Bookings;

/// A booking, its customer, and the text that lists search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BookingRow {
    /// The booking as folded.
    pub booking: Booking,
    /// The customer.
    pub customer: CustomerDetails,
    /// The staff's notes, oldest first.
    pub notes: Vec<Note>,
    /// The words that it is found by.
    pub search: String,
}

/// A note of the staff.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The text.
    pub text: String,
    /// Its author.
    pub actor: Option<String>,
    /// Time that it was written.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
}

impl BookingRow {
    fn learn(&mut self, event: &BookingEvent, recorded: &exodrive_domain::Recorded) {
        match &event.change {
            BookingChange::CustomerChanged { customer, .. } => {
                self.customer = customer.details.0.clone();
            }
            BookingChange::NoteAdded { text } => self.note(&text.0, recorded),
            _ => {}
        }
        let id = self.booking.id.to_string();
        let CustomerDetails { email, first_name, last_name, phone: number } = &self.customer;
        let texts = [&reference(&id), &id, email, first_name, last_name, &phone(number.as_deref())];
        self.search = text_of(texts.map(String::as_str));
        // Only decisions use them.
        self.booking.commands.clear();
    }

    fn note(&mut self, text: &str, recorded: &exodrive_domain::Recorded) {
        let (actor, at) = (recorded.envelope.actor.clone(), recorded.envelope.time);
        self.notes.push(Note { text: text.to_owned(), actor, at });
    }
}

impl Projection for Bookings {
    const NAME: &'static str = "bookings";
    const ABOUT: &'static str = "A booking, by its id";
    const KEY_EXAMPLE: &'static str = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4";
    const VERSION: u32 = 3;
    const SUBJECTS: &'static [&'static str] = &["exo.booking."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    const NEWER_COLUMNS: &'static [(&'static str, &'static str)] = &[OLDER_WORDS];
    const READERS: &'static str = "case current_setting('exodrive.identity', true)
            when 'customer' then user_id = current_setting('exodrive.subject', true)
            when 'guest' then data -> 'booking' -> 'links' @> jsonb_build_array(
                jsonb_build_object('hash', current_setting('exodrive.subject', true)))
            else current_setting('exodrive.identity', true) in ('admin', 'auditor', 'system')
         end";
    const COUNTED: Option<&'static str> = Some("status");
    type Row = BookingRow;

    fn counted(row: &BookingRow) -> Option<&str> {
        Some(row.booking.status.name())
    }

    fn personal(key: &str) -> PersonalData<'_> {
        PersonalData::OfOne("booking", key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        match event.payload {
            Payload::Booking(event) => vec![event.booking_id.to_string()],
            _ => Vec::new(),
        }
    }

    fn evolve(_key: &str, row: Option<BookingRow>, event: &Event<'_>) -> Option<BookingRow> {
        let Payload::Booking(change) = event.payload else { return row };
        // The other half of a move has all the facts.
        if matches!(change.change, BookingChange::MovedOut { .. }) {
            return row;
        }
        let (before, known) = match row {
            Some(row) => (Some(row.booking), Some((row.customer, row.notes))),
            None => (None, None),
        };
        let booking = booking::evolve(before, change, event.recorded)?;
        let (customer, notes) = match (&change.change, known) {
            (
                BookingChange::Held { customer, .. } | BookingChange::Imported { customer, .. },
                None,
            ) => (Customer::clone(customer).details.0, Vec::new()),
            (_, known) => known?,
        };
        let mut row = BookingRow { booking, customer, notes, search: String::new() };
        if let BookingChange::Held { note, .. } = &change.change
            && let Some(text) = &note.0
        {
            row.note(text, event.recorded);
        }
        row.learn(change, event.recorded);
        Some(row)
    }

    /// A booking moves between cars, and its events between their subjects.
    fn sources(_key: &str, _row: Option<&BookingRow>) -> Sources {
        Sources::All
    }
}

/// A booking's short reference, for people.
pub fn reference(booking_id: &str) -> String {
    format!("EXO-{}", booking_id[..booking_id.len().min(8)].to_uppercase())
}
