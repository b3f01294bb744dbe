//! Queries and answers of the audit trail of webhooks.

use super::{Deliveries, DeliveryRow, Repeat};
use crate::{Error, Page, Projection, ReadTransaction, views::query::Place};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One message of the provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Always `delivery`.
    pub object: String,
    /// The provider's message id (`svix-id`).
    pub id: String,
    /// The provider's type; null when the body is not JSON or has no type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its position in the log; `/v1/deliveries/{position}/raw` has its bytes.
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
    /// The email it is about.
    pub email_id: Option<String>,
    /// Further times the same message was stored.
    pub repeats: Vec<Repeat>,
}

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            object: "delivery".to_owned(),
            id: row.event_id,
            kind: row.kind,
            position: row.position,
            happened_at: row.happened_at,
            received_at: row.received_at,
            size: row.size,
            sha256: row.sha256,
            email_id: row.email_id,
            repeats: row.repeats,
        }
    }
}

/// A page of the messages about an email, in log order.
///
/// # Errors
/// When the database fails.
pub async fn deliveries_of_email(
    reader: &mut ReadTransaction,
    email_id: &str,
    (limit, after): (i64, Option<&Place>),
) -> Result<Page<Delivery>, Error> {
    let reader = reader.over(&[Deliveries::NAME])?;
    let found = sqlx::query!(
        r#"select key as "key!", data as "data!", place as "place!"
           from (select key, data, (data ->> 'position')::bigint as place
                 from deliveries where email_id = $1) entries
           where $2::bigint is null or place > $2
           order by place limit $3"#,
        email_id,
        after.map(|after| after.position),
        limit + 1
    )
    .fetch_all(&mut **reader)
    .await?;
    let page =
        Page::cut(found, limit, |last| Place { at: String::new(), position: last.place }.cursor());
    page.try_map(|found| delivery(found.key, found.data))
}

/// The message of this id, if it is known.
///
/// # Errors
/// When the database fails.
pub async fn find_delivery(
    reader: &mut ReadTransaction,
    id: &str,
) -> Result<Option<Delivery>, Error> {
    let reader = reader.over(&[Deliveries::NAME])?;
    let found = sqlx::query!(r#"select data as "data!" from deliveries where key = $1"#, id)
        .fetch_optional(&mut **reader)
        .await?;
    found.map(|found| delivery(id.to_owned(), found.data)).transpose()
}

fn delivery(key: String, data: serde_json::Value) -> Result<Delivery, Error> {
    let row: DeliveryRow = serde_json::from_value(data).map_err(|source| Error::Row {
        table: Deliveries::NAME,
        key,
        source,
    })?;
    Ok(row.into())
}
