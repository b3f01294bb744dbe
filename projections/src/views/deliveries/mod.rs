//! `deliveries`: the audit trail of webhooks. One row for each message of the provider that is in
//! the log, of any type, and even if it could not be read. A message stored again is marked on its
//! row.

pub mod read;

use crate::{PersonalData, Projection, Sources};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Event, Payload, Subject, WEBHOOK_RECEIVED, personal::ERASED, time::serde_micros,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The view of webhook messages.
pub struct Deliveries;

/// One message of the provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryRow {
    /// The provider's message id.
    pub event_id: String,
    /// The provider's type, if the body is JSON and has one.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its position in the log.
    pub position: u64,
    /// Time that the provider made the event, by its body.
    #[serde(with = "serde_micros::option")]
    pub happened_at: Option<DateTime<Utc>>,
    /// Time that it reached us.
    #[serde(with = "serde_micros")]
    pub received_at: DateTime<Utc>,
    /// Size of the body in bytes.
    pub size: u64,
    /// SHA-256 of the body, in hexadecimal; `erased` once the body is.
    pub sha256: String,
    /// The keyed MAC of an erased body, by which repeats are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The email it is about.
    pub email_id: Option<String>,
    /// Further times the same message was stored.
    pub repeats: Vec<Repeat>,
}

/// A message stored again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Repeat {
    /// The repeat's position in the log.
    pub position: u64,
    /// Time that it reached us.
    #[serde(with = "serde_micros")]
    pub received_at: DateTime<Utc>,
    /// True if its body has the same bytes as the first one's.
    pub same_bytes: bool,
}

impl Projection for Deliveries {
    const NAME: &'static str = "deliveries";
    const ABOUT: &'static str = "A message of the provider, by its id";
    const KEY_EXAMPLE: &'static str = "msg_2kVZ";
    const VERSION: u32 = 2;
    const SUBJECTS: &'static [&'static str] = &["exo.email.", "exo.provider."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Row = DeliveryRow;

    fn personal(key: &str) -> PersonalData<'_> {
        PersonalData::OfOne("delivery", key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        match event.payload {
            Payload::Delivery(_) if event.recorded.envelope.kind == WEBHOOK_RECEIVED => {
                vec![event.recorded.envelope.id.clone()]
            }
            _ => Vec::new(),
        }
    }

    fn evolve(_key: &str, row: Option<DeliveryRow>, event: &Event<'_>) -> Option<DeliveryRow> {
        let Payload::Delivery(delivery) = event.payload else { return row };
        let recorded = event.recorded;
        let erased = recorded.protection.as_ref().filter(|protection| protection.erased);
        let mac = erased.map(|protection| protection.mac.clone());
        let sha256 = match erased {
            Some(_) => ERASED.to_owned(),
            None => hex::encode(Sha256::digest(&recorded.body)),
        };
        if let Some(mut row) = row {
            row.repeats.push(Repeat {
                position: recorded.position,
                received_at: recorded.envelope.time,
                same_bytes: row.sha256 == sha256 && row.mac == mac,
            });
            return Some(row);
        }
        Some(DeliveryRow {
            event_id: recorded.envelope.id.clone(),
            kind: delivery.provider_type.clone(),
            position: recorded.position,
            happened_at: delivery.happened_at,
            received_at: recorded.envelope.time,
            size: recorded.body.len() as u64,
            sha256,
            mac,
            email_id: delivery.email_id().map(ToString::to_string),
            repeats: Vec::new(),
        })
    }

    /// The same bytes always have the same subject: that of the email that they are about, or else
    /// the provider's. A message that came again with other bytes may have another subject.
    fn sources(_key: &str, row: Option<&DeliveryRow>) -> Sources {
        match row {
            Some(row) if row.repeats.iter().all(|repeat| repeat.same_bytes) => {
                Sources::subject(match &row.email_id {
                    Some(id) => id.parse().ok().map(Subject::Email),
                    None => Some(Subject::Provider),
                })
            }
            _ => Sources::All,
        }
    }
}
