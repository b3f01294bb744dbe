//! Finds the events about a person by reading all of the log, since only the log is complete.

use exodrive_domain::{
    EMAIL_IMPORTED, KnownEvent, NewerRelease, Payload, Recorded, UnreadableEvent, WEBHOOK_RECEIVED,
    booking::{BookingChange, Customer},
    personal::{Trace, trace},
    value::address_key,
};
use exodrive_log::{Log, ReadError};
use exodrive_projections::engine::inspect::rows_of;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

const BATCH: usize = 4_000;
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason that it is not known what concerns a person.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event that names the person, or that their data keys encrypt, is of a
    /// newer release: that release knows whose it is, and which rows have it.
    #[error(transparent)]
    NewerRelease(#[from] NewerRelease),
}

/// The parts of the log that concern a person.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// Data keys that encrypt events about the person, with the number of events of each.
    pub keys: BTreeMap<String, u64>,
    /// Customers that the person is, by id.
    pub customers: BTreeSet<String>,
    /// Places of the address in events that are about others.
    pub mentions: Vec<Mention>,
    /// The position up to which the log was read.
    pub position: u64,
}

/// An event about others that mentions the person.
#[derive(Clone, Debug, Serialize)]
pub struct Mention {
    /// Its position.
    pub position: u64,
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The data key that encrypts it; `None` if it is not encrypted.
    pub key: Option<String>,
}

impl Found {
    /// Number of events about the person.
    pub fn events(&self) -> u64 {
        self.keys.values().sum()
    }
}

/// Reads all of the log for a person, by email address in lower case. With `include_mentions`, an
/// event that only mentions the address counts as about the person. Calls `progress` with the
/// position reached and the last position.
///
/// # Errors
/// When the log cannot be read, or an event that names the person is of a newer release.
pub async fn find_mentions(
    log: &Log,
    address: &str,
    include_mentions: bool,
    mut progress: impl FnMut(u64, u64),
) -> Result<Found, PersonError> {
    let mut found = Found { position: log.last_position().await?, ..Found::default() };
    let mut events: HashMap<String, u64> = HashMap::new();
    let mut own: BTreeSet<String> = BTreeSet::new();
    each(log, found.position, &mut progress, |recorded| {
        let key = recorded.protection.as_ref().map(|protection| protection.key.clone());
        if recorded.is_erased() {
            return Ok(());
        }
        if let Some(key) = &key {
            *events.entry(key.clone()).or_default() += 1;
        }
        let Some(trace) = trace(&recorded.body, address) else { return Ok(()) };
        match key {
            Some(key) if is_about(recorded, trace, address, &mut found.customers)? => {
                own.insert(key);
            }
            key => found.mentions.push(Mention {
                position: recorded.position,
                kind: recorded.envelope.kind.clone(),
                key,
            }),
        }
        Ok(())
    })
    .await?;
    if include_mentions {
        own.extend(found.mentions.iter().filter_map(|mention| mention.key.clone()));
    }
    // An event about the customer may come before the one that gives the address, and under another
    // key of theirs.
    let is_own = |key: &str| {
        let customer = key.strip_prefix("customer.").and_then(|rest| rest.split('.').next());
        own.contains(key) || customer.is_some_and(|id| found.customers.contains(id))
    };
    found.keys = events.into_iter().filter(|(key, _)| is_own(key)).collect();
    found.mentions.retain(|mention| !mention.key.as_deref().is_some_and(is_own));
    Ok(found)
}

/// True if an event is about the person, and does not only mention the address.
fn is_about(
    recorded: &Recorded,
    trace: Trace,
    address: &str,
    customers: &mut BTreeSet<String>,
) -> Result<bool, NewerRelease> {
    let kind = recorded.envelope.kind.as_str();
    if kind == WEBHOOK_RECEIVED || kind == EMAIL_IMPORTED {
        return Ok(trace == Trace::Own);
    }
    let known = match KnownEvent::read(recorded) {
        Ok(known) => known,
        Err(UnreadableEvent::NewerRelease(newer)) => return Err(newer),
        // No release reads it.
        Err(UnreadableEvent::Decode(_)) => return Ok(false),
    };
    let event = known.event();
    let Payload::Booking(event) = event.payload else { return Ok(false) };
    let own = match &event.change {
        BookingChange::Held { customer, .. }
        | BookingChange::CustomerChanged { customer, .. }
        | BookingChange::Imported { customer, .. } => is_customer(customer, address),
        _ => false,
    };
    if own {
        customers.insert(event.customer_id.to_string());
    }
    Ok(own)
}

fn is_customer(customer: &Customer, address: &str) -> bool {
    address_key(&customer.details.0.email) == address
}

/// The rows that events encrypted by some keys touch.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Keys of rows, by projection.
    pub rows: BTreeMap<&'static str, BTreeSet<String>>,
    /// Positions of the events.
    pub positions: Vec<u64>,
    /// The position up to which the log was read.
    pub position: u64,
}

/// Reads all of the log for events that some data keys encrypt.
///
/// # Errors
/// When the log cannot be read, or such an event is of a newer release.
pub async fn touched(log: &Log, keys: &HashSet<String>) -> Result<Touched, PersonError> {
    let mut touched = Touched { position: log.last_position().await?, ..Touched::default() };
    each(
        log,
        touched.position,
        |_, _| {},
        |recorded| {
            let key = recorded.protection.as_ref().map(|protection| &protection.key);
            if key.is_some_and(|key| keys.contains(key)) {
                if let Err(UnreadableEvent::NewerRelease(newer)) = KnownEvent::read(recorded) {
                    return Err(newer);
                }
                touched.positions.push(recorded.position);
                for (projection, rows) in rows_of(recorded) {
                    touched.rows.entry(projection).or_default().extend(rows);
                }
            }
            Ok(())
        },
    )
    .await?;
    Ok(touched)
}

async fn each(
    log: &Log,
    end: u64,
    mut progress: impl FnMut(u64, u64),
    mut on_event: impl FnMut(&Recorded) -> Result<(), NewerRelease>,
) -> Result<(), PersonError> {
    let mut reader = log.reader(1);
    let mut position = 0;
    while position < end {
        let batch = reader.next_batch(BATCH, READ_TIMEOUT).await?;
        for recorded in batch.events.iter().filter(|event| event.position <= end) {
            on_event(recorded)?;
        }
        position = batch.events.last().map_or(position, |event| event.position);
        progress(position.min(end), end);
    }
    Ok(())
}
