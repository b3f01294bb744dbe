//! Bodies of a provider's deliveries, with a record separator between them: whatever they hold, they
//! fold into a row that can be stored and read again, in any order and however often each comes.

use chrono::{DateTime, Utc};
use exodrive_domain::{
    Delivery,
    email::{Dated, Email, evolve},
    value::address_key,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Bodies that are read of an input, at most.
const MOST: usize = 5;

/// A delivery that is about an email, with the id under which it came.
type Report = (String, Delivery);

pub(crate) fn holds(input: &[u8]) -> bool {
    let mut reports: BTreeMap<String, Vec<Report>> = BTreeMap::new();
    for (number, body) in input.split(|byte| *byte == 0x1e).take(MOST).enumerate() {
        let delivery = Delivery::parse(body);
        names_its_type(body, &delivery);
        if let Some(id) = delivery.email_id() {
            let id = id.as_str().to_owned();
            reports.entry(id).or_default().push((format!("msg_{number}"), delivery));
        }
    }
    for reports in reports.values() {
        let email = fold(reports.iter());
        let mut repeated = fold(reports.iter().rev().chain(reports));
        if let Some(repeated) = &mut repeated {
            repeated.repeats = 0;
        }
        assert_eq!(email, repeated, "order and repetition make no difference");
        if let Some(email) = email {
            is_stored(&email);
        }
    }
    !reports.is_empty()
}

fn names_its_type(body: &[u8], delivery: &Delivery) {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    let kind = body.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty());
    assert_eq!(delivery.provider_type, kind.map(|kind| kind.replace('\0', "\u{fffd}")));
}

fn fold<'a>(reports: impl Iterator<Item = &'a Report>) -> Option<Email> {
    let arrival = DateTime::<Utc>::from_timestamp_nanos(1_795_000_000_000_000_000);
    reports.fold(None, |email, (id, delivery)| {
        let report = delivery.report.as_ref().expect("it names an email");
        evolve(email, Dated { id, at: delivery.happened_at.unwrap_or(arrival), report })
    })
}

fn is_stored(email: &Email) {
    let row = serde_json::to_string(email).expect("a row is JSON");
    assert!(!holds_nul(&serde_json::from_str(&row).unwrap()), "Postgres takes no NUL: {row}");
    let read: Email = serde_json::from_str(&row).unwrap_or_else(|error| panic!("{error}: {row}"));
    assert_eq!(&read, email);
    for key in email.addresses() {
        assert_eq!(address_key(&key), key);
    }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value))
        }
        _ => false,
    }
}
