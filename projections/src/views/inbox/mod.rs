//! `inbox`: one row for each email, inbound or outbound, with its status and everything that was
//! reported about it.

mod answer;
pub mod read;
mod row;

pub use row::InboxRow;

use crate::{PersonalData, Projection, Sources, views::search::OLDER_WORDS};
use exodrive_domain::{
    Event, Payload, Subject,
    email::{self, Dated},
};

/// The view of emails.
pub struct Inbox;

impl Projection for Inbox {
    const NAME: &'static str = "inbox";
    const ABOUT: &'static str = "An email, by its id";
    const KEY_EXAMPLE: &'static str = "f3c95789-ace1-4954-ac5d-6baed2eac902";
    const VERSION: u32 = 3;
    const SUBJECTS: &'static [&'static str] = &["exo.email."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    const NEWER_COLUMNS: &'static [(&'static str, &'static str)] = &[
        OLDER_WORDS,
        (
            "rare_status",
            "case when data ->> 'status' not in ('sent', 'delivered', 'opened', 'clicked')
             then data ->> 'status' end",
        ),
    ];
    const CACHED: bool = true;
    const COUNTED: Option<&'static str> = Some("status");
    type Row = InboxRow;

    fn counted(row: &InboxRow) -> Option<&str> {
        Some(&row.status)
    }

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

    /// The key is the email's id, and its events have the email's subject.
    fn sources(key: &str, _row: Option<&InboxRow>) -> Sources {
        Sources::subject(key.parse().ok().map(Subject::Email))
    }

    fn cached(row: &InboxRow, position: u64) -> Option<String> {
        serde_json::to_string(&answer::EmailDetail::of(row, position)).ok()
    }
}
