//! Queries and answers of a booking's timeline.

use super::{BookingTimeline, TimelineRow};
use crate::{
    Error, Projection, ReadTransaction,
    views::{bookings::read::reference, inbox::Inbox},
};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An event of a booking, or an email about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BookingEntry {
    /// Always `booking_event`.
    pub object: String,
    /// The event's type; `email` for an email.
    #[serde(rename = "type")]
    #[schema(example = "exodrive.booking.held")]
    pub kind: String,
    /// The event's id; the email's for an email.
    pub id: String,
    /// Its position in the log.
    pub position: u64,
    /// Time that it happened.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The actor.
    pub actor: Option<String>,
    /// Text for people; an email's subject.
    pub summary: String,
    /// The reason, if one was given.
    pub reason: Option<String>,
    /// The booking's status after the event; an email's present status.
    pub status: Option<String>,
    /// Id of the event that caused it.
    pub causation: Option<String>,
    /// Id of the request that it results from.
    pub correlation: Option<String>,
}

/// All entries of a booking's timeline, in the order that they happened.
///
/// # Errors
/// When the database fails.
pub async fn timeline_of_booking(
    reader: &mut ReadTransaction,
    booking_id: &str,
) -> Result<Vec<BookingEntry>, Error> {
    let reader = reader.over(&[BookingTimeline::NAME, Inbox::NAME])?;
    let found = sqlx::query!(
        r#"select timeline.key as "key!", timeline.data as "data!",
                  inbox.data -> 'email' ->> 'subject' as email_subject,
                  inbox.status as "email_status?"
           from booking_timeline timeline
           left join inbox on timeline.data ->> 'type' = 'email'
                and inbox.key = timeline.data ->> 'id'
           where (timeline.key >= $1 || '/' and timeline.key < $1 || '0')
              or (timeline.key >= $2 || '/' and timeline.key < $2 || '0')"#,
        booking_id,
        reference(booking_id)
    )
    .fetch_all(&mut **reader)
    .await?;
    let mut entries = Vec::with_capacity(found.len());
    for found in found {
        let row: TimelineRow = serde_json::from_value(found.data).map_err(|source| Error::Row {
            table: BookingTimeline::NAME,
            key: found.key,
            source,
        })?;
        entries.push(BookingEntry {
            object: "booking_event".to_owned(),
            kind: row.kind,
            id: row.id,
            position: row.position,
            at: row.at,
            actor: row.actor,
            summary: found.email_subject.unwrap_or(row.summary),
            reason: row.reason,
            status: found.email_status.or(row.status),
            causation: row.causation,
            correlation: row.correlation,
        });
    }
    entries.sort_by_key(|entry| (entry.at, entry.position));
    Ok(entries)
}
