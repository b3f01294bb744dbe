//! `inbox`: one row for each email, in or out, with its status and all that
//! was reported of it.

mod answer;
pub mod read;
mod row;

pub use row::InboxRow;

use crate::{PersonalData, Projection, Sources};
use exodrive_domain::{
    Event, Payload, Subject,
    email::{self, Dated},
};

/// See the module.
pub struct Inbox;

impl Projection for Inbox {
    const NAME: &'static str = "inbox";
    const ABOUT: &'static str = "An email, by its id";
    const KEY_EXAMPLE: &'static str = "4ef9a417-02e9-4d39-ad75-9611e0fcc33c";
    const VERSION: u32 = 1;
    const SUBJECTS: &'static [&'static str] = &["exo.email."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    const CACHED: bool = true;
    type Row = InboxRow;

    fn personal(key: &str) -> PersonalData<'_> {
        PersonalData::OfOne("email", key)
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        match event.payload {
            Payload::Delivery(delivery) => {
                delivery.email_id().map(ToString::to_string).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn evolve(_key: &str, row: Option<InboxRow>, event: &Event<'_>) -> Option<InboxRow> {
        let Payload::Delivery(delivery) = event.payload else { return row };
        let Some(report) = &delivery.report else { return row };
        let at = delivery.happened_at.unwrap_or(event.recorded.envelope.time);
        let dated = Dated { id: &event.recorded.envelope.id, at, report };
        email::evolve(row.map(|row| row.email), dated).map(InboxRow::of)
    }

    /// The key is the email's id, and its events are of its subject.
    fn sources(key: &str, _row: Option<&InboxRow>) -> Sources {
        Sources::subject(key.parse().ok().map(Subject::Email))
    }

    fn cached(row: &InboxRow, position: u64) -> Option<String> {
        serde_json::to_string(&answer::EmailDetail::of(row, position)).ok()
    }
}
