//! What readers get of a booking's timeline.

use super::{BookingTimeline, TimelineRow};
use crate::{Error, Projection, ReadTransaction, views::bookings::read::reference};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that became of a booking.
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
    /// Where it stands in the log.
    pub position: u64,
    /// When it happened.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// Who did it.
    pub actor: Option<String>,
    /// What happened, for people; an email's subject.
    pub summary: String,
    /// Why, if somebody said.
    pub reason: Option<String>,
    /// Where the booking stood then; for an email where that stands now.
    pub status: Option<String>,
    /// The event that caused it.
    pub causation: Option<String>,
    /// The request that it came of.
    pub correlation: Option<String>,
}

/// Everything that became of a booking, in the order that it happened.
///
/// # Errors
/// When the database fails.
pub async fn timeline_of_booking(
    reader: &mut ReadTransaction,
    booking_id: &str,
) -> Result<Vec<BookingEntry>, Error> {
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
