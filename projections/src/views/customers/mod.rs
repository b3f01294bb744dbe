//! `customers`: one row for each customer, by email address, with their bookings and payments.

pub mod read;

use crate::{
    PersonalData, Projection, Sources,
    views::search::{OLDER_WORDS, phone, text_of},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Event, Payload,
    booking::{BookingChange, Customer, CustomerDetails, Share},
    id::BookingId,
    time::serde_micros,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The view of customers.
pub struct Customers;

/// A customer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CustomerRow {
    /// Name, email address and telephone number, as last given.
    pub details: CustomerDetails,
    /// The account, if there is one.
    pub user_id: Option<String>,
    /// Their bookings.
    pub bookings: BTreeSet<BookingId>,
    /// Payments less refunds, in cents, by currency.
    pub paid_cents: BTreeMap<String, i64>,
    /// Time of their first booking.
    #[serde(with = "serde_micros")]
    pub first_at: DateTime<Utc>,
    /// Time that a booking of theirs last changed.
    #[serde(with = "serde_micros")]
    pub last_at: DateTime<Utc>,
    /// The words that it is found by.
    pub search: String,
}

impl CustomerRow {
    fn add_paid(&mut self, currency: &str, cents: i64) {
        if cents != 0 {
            *self.paid_cents.entry(currency.to_owned()).or_default() += cents;
        }
    }
}

impl Projection for Customers {
    const NAME: &'static str = "customers";
    const ABOUT: &'static str = "A customer, by its id";
    const KEY_EXAMPLE: &'static str = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4";
    const VERSION: u32 = 3;
    const SUBJECTS: &'static [&'static str] = &["exo.booking."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    const NEWER_COLUMNS: &'static [(&'static str, &'static str)] = &[OLDER_WORDS];
    type Row = CustomerRow;

    fn personal(key: &str) -> PersonalData<'_> {
        PersonalData::OfOne("customer", key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        let Payload::Booking(booking) = event.payload else { return Vec::new() };
        let mut keys = vec![booking.customer_id.to_string()];
        if let BookingChange::CustomerChanged { from_customer_id, .. } = booking.change
            && from_customer_id != booking.customer_id
        {
            keys.push(from_customer_id.to_string());
        }
        // An amount stays with who paid it, also when the booking is another's.
        let payers = booking.paid().map_or_else(Vec::new, |(shares, _)| shares);
        for payer in payers.iter().filter(|payer| payer.customer_id != booking.customer_id) {
            keys.push(payer.customer_id.to_string());
        }
        keys
    }

    fn evolve(key: &str, row: Option<CustomerRow>, event: &Event<'_>) -> Option<CustomerRow> {
        let Payload::Booking(booking) = event.payload else { return row };
        let at = event.recorded.envelope.time;
        let mut paid = 0;
        let mut currency = None;
        if let Some((shares, name)) = booking.paid() {
            let own = |share: &&Share| share.customer_id.to_string() == key;
            paid = shares.iter().filter(own).map(|share| share.amount_cents).sum();
            currency = Some(name);
            if booking.customer_id.to_string() != key {
                let mut row = row?;
                row.last_at = row.last_at.max(at);
                row.add_paid(name, paid);
                return Some(row);
            }
        }
        let mut row = row;
        match &booking.change {
            BookingChange::Held { customer, .. } | BookingChange::Imported { customer, .. } => {
                row = Some(learn(row, customer, at));
            }
            // The old customer's row is another one than the new customer's.
            BookingChange::CustomerChanged { customer, from_customer_id } => {
                let was =
                    row.as_ref().is_some_and(|row| row.bookings.contains(&booking.booking_id));
                let readable = !event.recorded.is_erased();
                let same = *from_customer_id == booking.customer_id
                    || row.as_ref().is_some_and(|row| {
                        readable
                            && row.details.email.eq_ignore_ascii_case(&customer.details.0.email)
                    });
                match row {
                    Some(mut left) if was && !same => {
                        left.bookings.remove(&booking.booking_id);
                        left.last_at = left.last_at.max(at);
                        return Some(left);
                    }
                    known => row = Some(learn(known, customer, at)),
                }
            }
            _ => {}
        }
        let mut row = row?;
        row.bookings.insert(booking.booking_id);
        row.last_at = row.last_at.max(at);
        row.first_at = row.first_at.min(at);
        if let Some(currency) = currency {
            row.add_paid(currency, paid);
        }
        Some(row)
    }

    /// A customer may book any car.
    fn sources(_key: &str, _row: Option<&CustomerRow>) -> Sources {
        Sources::All
    }
}

fn learn(row: Option<CustomerRow>, customer: &Customer, at: DateTime<Utc>) -> CustomerRow {
    let details = customer.details.0.clone();
    let mut row = row.unwrap_or_else(|| CustomerRow {
        details: details.clone(),
        user_id: None,
        bookings: BTreeSet::new(),
        paid_cents: BTreeMap::new(),
        first_at: at,
        last_at: at,
        search: String::new(),
    });
    if let Some(user_id) = &customer.user_id {
        row.user_id = Some(user_id.clone());
    }
    let CustomerDetails { email, first_name, last_name, phone: number } = &details;
    let texts = [email, first_name, last_name, &phone(number.as_deref())];
    row.search = text_of(texts.map(String::as_str));
    row.details = details;
    row
}
