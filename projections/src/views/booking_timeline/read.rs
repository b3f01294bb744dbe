//! Queries and answers of a booking's timeline.

use super::{BookingTimeline, TimelineRow};
use crate::{
    Error, Page, Projection, ReadTransaction,
    views::{bookings::read::reference, inbox::Inbox, query::Place},
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

/// A page of a booking's timeline, in the order that its entries happened.
///
/// # Errors
/// When the database fails.
pub async fn timeline_of_booking(
    reader: &mut ReadTransaction,
    booking_id: &str,
    (limit, after): (i64, Option<&Place>),
) -> Result<Page<BookingEntry>, Error> {
    let reader = reader.over(&[BookingTimeline::NAME, Inbox::NAME])?;
    let found = sqlx::query!(
        r#"select entries.key as "key!", entries.data as "data!", moment as "moment!", place as "place!",
                  inbox.data -> 'email' ->> 'subject' as email_subject,
                  inbox.status as "email_status?"
           from (select key, data, (data ->> 'position')::bigint as place,
                        (data ->> 'at') collate "C" as moment
                 from booking_timeline
                 where (key >= $1 || '/' and key < $1 || '0')
                    or (key >= $2 || '/' and key < $2 || '0')) entries
           left join inbox on entries.data ->> 'type' = 'email'
                and inbox.key = entries.data ->> 'id'
           where $3::text is null or (moment, place) > ($3, $4)
           order by moment, place limit $5"#,
        booking_id,
        reference(booking_id),
        after.map(|after| after.at.as_str()),
        after.map(|after| after.position),
        limit + 1
    )
    .fetch_all(&mut **reader)
    .await?;
    let page = Page::cut(found, limit, |last| {
        Place { at: last.moment.clone(), position: last.place }.cursor()
    });
    page.try_map(|found| {
        let row: TimelineRow = serde_json::from_value(found.data).map_err(|source| Error::Row {
            table: BookingTimeline::NAME,
            key: found.key,
            source,
        })?;
        Ok(BookingEntry {
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
        })
    })
}
