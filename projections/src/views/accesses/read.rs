//! Queries and answers of the log of reads, for auditors.

use super::{AccessRow, Accesses};
use crate::{Error, Page, Projection, ReadTransaction, views::query::RowPlace};
use chrono::{DateTime, Utc};
use exodrive_domain::time::{self, serde_micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One reader's reads of one record in one day (UTC).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Access {
    /// Always `access`.
    pub object: String,
    /// The kind of record that was read: an open set.
    #[schema(example = "email")]
    pub resource: String,
    /// Its id; null for a list.
    pub key: Option<String>,
    /// The reader: a role and the user's id.
    #[schema(example = "auditor:0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4")]
    pub actor: String,
    /// Number of reads.
    pub count: u64,
    /// The first time of the day.
    #[serde(with = "serde_micros")]
    pub first_at: DateTime<Utc>,
    /// The last time of the day.
    #[serde(with = "serde_micros")]
    pub last_at: DateTime<Utc>,
    /// Number of reads by each route or command.
    pub routes: BTreeMap<String, u64>,
    /// Id of the last read's request, as our logs name it.
    pub request_id: Option<String>,
    /// The position in the log that last changed this.
    pub position: u64,
}

/// The accesses that a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of this kind of record.
    pub resource: Option<String>,
    /// Those of the record with this id.
    pub key: Option<String>,
    /// Those of this reader.
    pub actor: Option<String>,
    /// Those at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Those before this time.
    pub until: Option<DateTime<Utc>>,
    /// The previous page's [`Page::next`].
    pub after: Option<RowPlace>,
    /// Most rows to return.
    pub limit: i64,
}

/// A page of the accesses, those that began last first.
///
/// # Errors
/// When the database fails.
pub async fn find_accesses(
    reader: &mut ReadTransaction,
    filter: &Filter,
) -> Result<Page<Access>, Error> {
    let reader = reader.over(&[Accesses::NAME])?;
    let (after_time, after_key) = filter.after.clone().map(|it| (it.at, it.key)).unzip();
    let found = sqlx::query!(
        r#"select key as "key!", first_at as "first_at!", position as "position!",
                  data as "data!"
           from accesses
           where ($1::text is null or resource = $1)
             and ($2::text is null or thing = $2)
             and ($3::text is null or actor = $3)
             and ($4::text is null or last_at >= $4)
             and ($5::text is null or first_at < $5)
             and ($6::text is null or (first_at, key) < ($6, $7))
           order by first_at desc, key desc limit $8"#,
        filter.resource.as_deref(),
        filter.key.as_deref(),
        filter.actor.as_deref(),
        filter.since.as_ref().map(time::format),
        filter.until.as_ref().map(time::format),
        after_time,
        after_key,
        filter.limit + 1
    )
    .fetch_all(&mut **reader)
    .await?;
    let page = Page::cut(found, filter.limit, |last| {
        RowPlace { at: last.first_at.clone(), key: last.key.clone() }.cursor()
    });
    page.try_map(|found| access(found.key, found.data, u64::try_from(found.position).unwrap_or(0)))
}

fn access(key: String, data: serde_json::Value, position: u64) -> Result<Access, Error> {
    let table = Accesses::NAME;
    let row: AccessRow =
        serde_json::from_value(data).map_err(|source| Error::Row { table, key, source })?;
    Ok(Access {
        object: "access".to_owned(),
        resource: row.resource,
        key: row.key,
        actor: row.actor,
        count: row.count,
        first_at: row.first_at,
        last_at: row.last_at,
        routes: row.routes,
        request_id: row.request_id,
        position,
    })
}
