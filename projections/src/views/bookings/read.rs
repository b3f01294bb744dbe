//! Queries and answers about bookings.

pub use super::reference;

use super::{BookingRow, Bookings, Note};
use crate::{
    Error, Page, Projection, ReadTransaction,
    views::{
        query::{RowPlace, kept_counts},
        search::{Plan, Search, Searched, WINDOW},
    },
};
use chrono::{DateTime, NaiveDate, Utc};
use exodrive_domain::{
    booking::{Booking, CustomerDetails, allowed},
    days::Days,
    id::CarId,
    price::{Line, LineKind},
    time::{self, serde_micros},
};
use serde::{Deserialize, Serialize, de::Error as _};
use std::collections::BTreeMap;
use utoipa::ToSchema;

const SEARCHED: Searched<'static> =
    Searched { view: Bookings::NAME, order: "created_at", status: "null::text", rows: None };

/// A booking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BookingDetail {
    /// Always `booking`.
    pub object: String,
    /// A UUID.
    pub id: String,
    /// Short reference, for people.
    #[schema(example = "EXO-0198F3A6")]
    pub reference: String,
    /// The car.
    pub car_id: String,
    /// Id of the customer.
    pub customer_id: String,
    /// The customer; left out of answers to commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer: Option<CustomerDetail>,
    /// The first day of the rental.
    pub start_date: NaiveDate,
    /// The last day of the rental.
    pub end_date: NaiveDate,
    /// Number of days.
    pub days: u32,
    /// Day that the car came back.
    pub returned_on: Option<NaiveDate>,
    /// `pending_payment`, `pending_contract`, `upcoming`, `active`, `returned`, `completed`,
    /// `cancelled`, `expired` or `disputed`.
    #[schema(example = "pending_payment")]
    pub status: String,
    /// State of the payment.
    pub payment: PaymentDetail,
    /// State of the contract.
    pub contract: ContractDetail,
    /// The price agreed.
    pub total: Money,
    /// Lines that add up to the total.
    pub lines: Vec<LineDetail>,
    /// The version of the car's price list that it was made by.
    pub price_list_version: u32,
    /// Held apart from the total while the car is out.
    pub deposit: Money,
    /// Time until which the days are held without payment.
    #[serde(with = "serde_micros::option")]
    pub hold_expires_at: Option<DateTime<Utc>>,
    /// Commands that the caller can send now: each is the last part of a path, `POST
    /// /v1/bookings/{id}/{action}`.
    pub allowed_actions: Vec<String>,
    /// Time that it was made.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// Time that it last changed.
    #[serde(with = "serde_micros")]
    pub updated_at: DateTime<Utc>,
    /// The position in the log that last changed it: its `ETag`.
    pub position: u64,
}

/// A customer's name and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CustomerDetail {
    /// Email address.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Telephone number.
    pub phone: Option<String>,
}

impl From<CustomerDetails> for CustomerDetail {
    fn from(details: CustomerDetails) -> Self {
        let CustomerDetails { email, first_name, last_name, phone } = details;
        Self { email, first_name, last_name, phone }
    }
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Money {
    /// In cents.
    #[schema(example = 441_706)]
    pub amount_cents: i64,
    /// ISO 4217.
    #[schema(example = "USD")]
    pub currency: String,
}

/// State of a payment, in cents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentDetail {
    /// `pending`, `authorized`, `captured`, `refunded`, `voided` or `failed`.
    pub status: String,
    /// Held at the provider and not taken.
    pub authorized_cents: i64,
    /// Taken.
    pub captured_cents: i64,
    /// Refunded.
    pub refunded_cents: i64,
    /// Part of the price that is neither held nor taken; negative if too much was.
    pub open_cents: i64,
}

/// State of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContractDetail {
    /// `not_sent`, `sent`, `viewed`, `signed` or `declined`.
    pub status: String,
    /// The document's id at the signature provider.
    pub document: Option<String>,
}

/// A part of a price: `amount_cents` is `quantity` times `unit_cents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineDetail {
    /// `days`, `mandatory_fee`, `optional_fee`, `pick_up`, `drop_off`,
    /// `one_way`, `discount`, `tax` or `imported`.
    pub kind: String,
    /// Text for people.
    pub label: String,
    /// Number of units.
    pub quantity: u32,
    /// Each, in cents.
    pub unit_cents: i64,
    /// All, in cents; negative for a discount.
    pub amount_cents: i64,
}

impl From<&Line> for LineDetail {
    fn from(line: &Line) -> Self {
        let kind = match line.kind {
            LineKind::Days => "days",
            LineKind::MandatoryFee => "mandatory_fee",
            LineKind::OptionalFee => "optional_fee",
            LineKind::PickUp => "pick_up",
            LineKind::DropOff => "drop_off",
            LineKind::OneWay => "one_way",
            LineKind::Discount => "discount",
            LineKind::Tax => "tax",
            LineKind::Imported => "imported",
        };
        Self {
            kind: kind.to_owned(),
            label: line.label.clone(),
            quantity: line.quantity,
            unit_cents: line.unit_cents,
            amount_cents: line.amount_cents,
        }
    }
}

/// The reader of a booking: staff are offered more actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// Admins.
    Staff,
    /// The customer.
    Customer,
    /// A reader who may change nothing.
    Onlooker,
}

impl BookingDetail {
    /// The booking as this reader sees it at `now`.
    pub fn of(booking: &Booking, viewer: Viewer, now: DateTime<Utc>) -> Self {
        let quote = &booking.quote;
        let money = |amount_cents| Money { amount_cents, currency: quote.currency.clone() };
        let allowed =
            allowed(booking, booking.today(now)).into_iter().filter(|action| match viewer {
                Viewer::Staff => true,
                Viewer::Customer => action.is_customers(),
                Viewer::Onlooker => false,
            });
        Self {
            object: "booking".to_owned(),
            id: booking.id.to_string(),
            reference: reference(&booking.id.to_string()),
            car_id: booking.car_id.to_string(),
            customer_id: booking.customer_id.to_string(),
            customer: None,
            start_date: booking.days.first(),
            end_date: booking.days.last(),
            days: booking.days.count(),
            returned_on: booking.returned_on,
            status: booking.status.name().to_owned(),
            payment: PaymentDetail {
                status: booking.payment.status.name().to_owned(),
                authorized_cents: booking.payment.authorized_cents,
                captured_cents: booking.payment.captured_cents,
                refunded_cents: booking.payment.refunded_cents,
                open_cents: booking.open_cents(),
            },
            contract: ContractDetail {
                status: booking.contract.status.name().to_owned(),
                document: booking.contract.document.clone(),
            },
            total: money(quote.total_cents),
            lines: quote.lines.iter().map(LineDetail::from).collect(),
            price_list_version: quote.price_list_version,
            deposit: money(quote.deposit_cents),
            hold_expires_at: booking.hold_expires_at,
            allowed_actions: allowed.map(|action| action.name().to_owned()).collect(),
            created_at: booking.created_at,
            updated_at: booking.updated_at,
            position: booking.position,
        }
    }
}

/// Filter and page of a list of bookings.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these statuses; any if empty.
    pub statuses: Vec<String>,
    /// Only of this car.
    pub car_id: Option<String>,
    /// Only of this customer.
    pub customer_id: Option<String>,
    /// Only those that have a day in this range.
    pub days: Option<Days>,
    /// Only made at this time or later.
    pub created_from: Option<DateTime<Utc>>,
    /// Only made before this time.
    pub created_until: Option<DateTime<Utc>>,
    /// With words that begin with the words of this text, in id, reference, name, email or telephone
    /// number. A text without a letter or digit looks for nothing.
    pub text: Option<String>,
    /// End of the previous page.
    pub after: Option<RowPlace>,
    /// Most rows to return.
    pub limit: i64,
}

/// A page of the bookings that the reader may see, newest first.
///
/// # Errors
/// When the database fails.
pub async fn find_bookings(
    reader: &mut ReadTransaction,
    filter: &Filter,
) -> Result<Page<BookingRow>, Error> {
    let reader = reader.over(&[Bookings::NAME])?;
    let after = filter.after.clone();
    let (after_time, after_key) =
        after.map_or_else(|| ("~".to_owned(), String::new()), |it| (it.at, it.key));
    struct Found {
        key: String,
        created_at: String,
        data: serde_json::Value,
    }
    macro_rules! rows {
        ($query:expr, $from:literal $(, $parameter:expr)*) => {
            sqlx::query_as!(
                Found,
                r#"select key as "key!", created_at as "created_at!", data as "data!" from "#
                    + $from
                    + r#" where (cardinality($1::text[]) = 0 or status = any($1))
                     and ($2::text is null or car_id = $2)
                     and ($3::text is null or customer_id = $3)
                     and ($4::text is null or until_day > $4)
                     and ($5::text is null or first_day < $5)
                     and ($6::text is null or created_at >= $6)
                     and ($7::text is null or created_at < $7)
                     and ($8::text is null or words @@ $8::text::tsquery)
                     and (created_at, key) < ($9, $10)
                   order by created_at desc, key desc limit $11"#,
                &filter.statuses,
                filter.car_id,
                filter.customer_id,
                filter.days.map(|days| days.first().to_string()),
                filter.days.map(|days| days.until().to_string()),
                filter.created_from.as_ref().map(time::format),
                filter.created_until.as_ref().map(time::format),
                $query,
                after_time,
                after_key,
                filter.limit + 1
                $(, $parameter)*
            )
            .fetch_all(&mut **reader)
            .await?
        };
    }
    let search = filter.text.as_deref().and_then(Search::of);
    let found = match search {
        None => rows!(None::<String>, "bookings"),
        Some(search) => match search.plan(reader, SEARCHED).await?.0 {
            Plan::Rare { rare, .. } => rows!(
                Some(search.query()),
                "(select * from bookings where words @@ $12::text::tsquery offset 0) as bookings",
                rare
            ),
            Plan::Common => {
                let newest = rows!(
                    Some(search.query()),
                    "(select * from bookings where (created_at, key) < ($9, $10)
                  order by created_at desc, key desc limit $12) as bookings",
                    WINDOW
                );
                let enough = newest.len() > usize::try_from(filter.limit).unwrap_or(0);
                if enough { newest } else { rows!(Some(search.query()), "bookings") }
            }
        },
    };
    let page = Page::cut(found, filter.limit, |last| {
        RowPlace { at: last.created_at.clone(), key: last.key.clone() }.cursor()
    });
    page.try_map(|found| row(&found.key, found.data))
}

/// Number of bookings of each status, of those that the reader may see.
///
/// # Errors
/// When the database fails.
pub async fn count_bookings(reader: &mut ReadTransaction) -> Result<BTreeMap<String, i64>, Error> {
    let reader = reader.over(&[Bookings::NAME])?;
    if let Some(counts) = kept_counts(reader, Bookings::NAME).await? {
        return Ok(counts);
    }
    let found = sqlx::query!(
        r#"select status as "status!", count(*) as "count!" from bookings group by status"#
    );
    let found = found.fetch_all(&mut **reader).await?;
    Ok(found.into_iter().map(|found| (found.status, found.count)).collect())
}

/// One booking, if the reader may see it.
///
/// # Errors
/// When the database fails.
pub async fn find_booking(
    reader: &mut ReadTransaction,
    booking_id: &str,
) -> Result<Option<BookingRow>, Error> {
    let reader = reader.over(&[Bookings::NAME])?;
    let found =
        sqlx::query_scalar!(r#"select data as "data!" from bookings where key = $1"#, booking_id)
            .fetch_optional(&mut **reader)
            .await?;
    found.map(|data| row(booking_id, data)).transpose()
}

/// The car that a booking is of.
///
/// # Errors
/// When the database fails, or the row names no car.
pub async fn car_of(
    reader: &mut ReadTransaction,
    booking_id: &str,
) -> Result<Option<CarId>, Error> {
    let reader = reader.over(&[Bookings::NAME])?;
    let found = sqlx::query_scalar!(
        r#"select car_id as "car_id!" from bookings where key = $1"#,
        booking_id
    );
    let found = found.fetch_optional(&mut **reader).await?;
    found.map(|car_id| read_car_id(booking_id, &car_id)).transpose()
}

fn read_car_id(booking_id: &str, car_id: &str) -> Result<CarId, Error> {
    car_id.parse().map_err(|error| Error::Row {
        table: "bookings",
        key: booking_id.to_owned(),
        source: serde_json::Error::custom(error),
    })
}

fn row(key: &str, data: serde_json::Value) -> Result<BookingRow, Error> {
    serde_json::from_value(data).map_err(|source| Error::Row {
        table: Bookings::NAME,
        key: key.to_owned(),
        source,
    })
}

/// A note of the staff.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoteDetail {
    /// The text.
    pub text: String,
    /// Its author.
    pub actor: Option<String>,
    /// Time that it was written.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
}

impl From<Note> for NoteDetail {
    fn from(note: Note) -> Self {
        Self { text: note.text, actor: note.actor, at: note.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_names_no_car_is_not_a_missing_booking() {
        assert!(matches!(read_car_id("b", "garbage"), Err(Error::Row { table: "bookings", .. })));
    }
}
