//! Queries and answers about customers.

use super::{CustomerRow, Customers};
use crate::{
    Error, Page, Projection, ReadTransaction,
    views::{
        bookings::read::{CustomerDetail, Money},
        query::RowPlace,
        search::{Plan, Search, Searched, WINDOW},
    },
};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const SEARCHED: Searched<'static> =
    Searched { view: Customers::NAME, order: "last_at", status: "null::text", rows: None };

/// A customer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CustomerSummary {
    /// Always `customer`.
    pub object: String,
    /// A UUID, always the same for an email address.
    pub id: String,
    /// Name, email address and telephone number, as last given.
    #[serde(flatten)]
    pub details: CustomerDetail,
    /// The account, if there is one.
    pub user_id: Option<String>,
    /// Number of bookings.
    pub bookings: usize,
    /// Payments less refunds, by currency.
    pub paid: Vec<Money>,
    /// The first booking.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// Time that a booking of theirs last changed.
    #[serde(with = "serde_micros")]
    pub last_at: DateTime<Utc>,
    /// The position in the log that last changed this.
    pub position: u64,
}

/// A page of the customers, last active first; of those with words that begin with the words of
/// the text, in name, email or telephone number. A text without a letter or digit looks for nothing.
///
/// # Errors
/// When the database fails.
pub async fn find_customers(
    reader: &mut ReadTransaction,
    text: Option<&str>,
    after: Option<RowPlace>,
    limit: i64,
) -> Result<Page<CustomerSummary>, Error> {
    let reader = reader.over(&[Customers::NAME])?;
    let (after_time, after_key) =
        after.map_or_else(|| ("~".to_owned(), String::new()), |it| (it.at, it.key));
    struct Found {
        key: String,
        last_at: String,
        position: i64,
        data: serde_json::Value,
    }
    macro_rules! rows {
        ($query:expr, $from:literal $(, $parameter:expr)*) => {
            sqlx::query_as!(
                Found,
                r#"select key as "key!", last_at as "last_at!", position as "position!",
                          data as "data!" from "#
                    + $from
                    + r#" where ($1::text is null or words @@ $1::text::tsquery)
                     and (last_at, key) < ($2, $3)
                   order by last_at desc, key desc limit $4"#,
                $query,
                after_time,
                after_key,
                limit + 1
                $(, $parameter)*
            )
            .fetch_all(&mut **reader)
            .await?
        };
    }
    let found = match text.and_then(Search::of) {
        None => rows!(None::<String>, "customers"),
        Some(search) => match search.plan(reader, SEARCHED).await?.0 {
            Plan::Rare { rare, .. } => rows!(
                Some(search.query()),
                "(select * from customers where words @@ $5::text::tsquery offset 0) as customers",
                rare
            ),
            Plan::Common => {
                let newest = rows!(
                    Some(search.query()),
                    "(select * from customers where (last_at, key) < ($2, $3)
                  order by last_at desc, key desc limit $5) as customers",
                    WINDOW
                );
                let enough = newest.len() > usize::try_from(limit).unwrap_or(0);
                if enough { newest } else { rows!(Some(search.query()), "customers") }
            }
        },
    };
    let page = Page::cut(found, limit, |last| {
        RowPlace { at: last.last_at.clone(), key: last.key.clone() }.cursor()
    });
    page.try_map(|found| summary(found.key, found.data, u64::try_from(found.position).unwrap_or(0)))
}

/// One customer.
///
/// # Errors
/// When the database fails.
pub async fn find_customer(
    reader: &mut ReadTransaction,
    customer_id: &str,
) -> Result<Option<CustomerSummary>, Error> {
    let reader = reader.over(&[Customers::NAME])?;
    let found = sqlx::query!(
        r#"select position as "position!", data as "data!" from customers where key = $1"#,
        customer_id
    )
    .fetch_optional(&mut **reader)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let position = u64::try_from(found.position).unwrap_or(0);
    summary(customer_id.to_owned(), found.data, position).map(Some)
}

fn summary(key: String, data: serde_json::Value, position: u64) -> Result<CustomerSummary, Error> {
    let id = key.clone();
    let row: CustomerRow = serde_json::from_value(data).map_err(|source| Error::Row {
        table: Customers::NAME,
        key,
        source,
    })?;
    let paid = row.paid_cents.into_iter();
    Ok(CustomerSummary {
        object: "customer".to_owned(),
        id,
        details: row.details.into(),
        user_id: row.user_id,
        bookings: row.bookings.len(),
        paid: paid.map(|(currency, amount_cents)| Money { amount_cents, currency }).collect(),
        created_at: row.first_at,
        last_at: row.last_at,
        position,
    })
}
