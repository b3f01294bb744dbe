//! Queries and answers of an email's timeline.

use super::{EmailTimeline, TimelineRow};
use crate::{Error, Page, Projection, ReadTransaction, views::query::Place};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event of an email.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEntry {
    /// Always `email_event`.
    pub object: String,
    /// The provider's message id.
    pub id: String,
    /// The provider's type.
    #[serde(rename = "type")]
    #[schema(example = "email.delivered")]
    pub kind: String,
    /// Its position in the log.
    pub position: u64,
    /// Time that it happened, by the provider. Null if it named none, or one that
    /// cannot be read; the body of the delivery has it as it was sent.
    #[serde(with = "serde_micros::option")]
    pub happened_at: Option<DateTime<Utc>>,
    /// Time that it reached us.
    #[serde(with = "serde_micros")]
    pub received_at: DateTime<Utc>,
    /// The status it reports; null for a type that this release does not know.
    pub status: Option<String>,
    /// Addresses that it is about.
    pub recipients: Vec<String>,
    /// Detail that the provider adds: `bounce`, `failure`, `suppression` or `click`.
    pub detail: Option<serde_json::Value>,
    /// Positions at which the same event was stored again; repeats are not counted.
    pub repeats: Vec<u64>,
}

impl From<TimelineRow> for TimelineEntry {
    fn from(row: TimelineRow) -> Self {
        let detail = [
            row.bounce.and_then(|detail| serde_json::to_value(detail).ok()),
            row.failure.and_then(|detail| serde_json::to_value(detail).ok()),
            row.suppression.and_then(|detail| serde_json::to_value(detail).ok()),
            row.click.and_then(|detail| serde_json::to_value(detail).ok()),
        ]
        .into_iter()
        .flatten()
        .next();
        Self {
            object: "email_event".to_owned(),
            id: row.event_id,
            kind: row.kind,
            position: row.position,
            happened_at: row.happened_at,
            received_at: row.received_at,
            status: row.status,
            recipients: row.recipients,
            detail,
            repeats: row.repeats,
        }
    }
}

/// Order of a timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By the provider's time of the event.
    #[default]
    Happened,
    /// By position in the log: the order in which the events reached us.
    Received,
}

/// A page of the events of an email.
///
/// # Errors
/// When the database fails.
pub async fn timeline_of_email(
    reader: &mut ReadTransaction,
    email_id: &str,
    order: Order,
    (limit, after): (i64, Option<&Place>),
) -> Result<Page<TimelineEntry>, Error> {
    let reader = reader.over(&[EmailTimeline::NAME])?;
    let found = sqlx::query!(
        r#"select key as "key!", data as "data!", moment as "moment!", place as "place!"
           from (select key, data, (data ->> 'position')::bigint as place,
                        case when $2 then coalesce(data ->> 'happened_at', data ->> 'received_at')
                             else '' end collate "C" as moment
                 from email_timeline where key >= $1 || '/' and key < $1 || '0') entries
           where $3::text is null or (moment, place) > ($3, $4)
           order by moment, place limit $5"#,
        email_id,
        order == Order::Happened,
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
            table: EmailTimeline::NAME,
            key: found.key,
            source,
        })?;
        Ok(TimelineEntry::from(row))
    })
}
