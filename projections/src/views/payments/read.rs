//! The dashboard: figures over bookings, payments and calendars.

use super::Payments;
use crate::{
    Error, Projection, ReadTransaction,
    views::{
        bookings::{Bookings, read::Money},
        calendar::{CalendarView, day_number},
        cars::Cars,
        customers::Customers,
    },
};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, TimeDelta, Utc};
use exodrive_domain::time::{self, serde_micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Days ahead that occupancy counts.
const AHEAD: i32 = 30;
/// Days back that popularity counts.
const BACK: i64 = 90;

/// The views that the figures are counted from.
pub const DASHBOARD_VIEWS: [&str; 5] =
    [Payments::NAME, Bookings::NAME, Cars::NAME, CalendarView::NAME, Customers::NAME];

/// Figures of the business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Dashboard {
    /// Always `dashboard`.
    pub object: String,
    /// Time that they were counted.
    #[serde(with = "serde_micros")]
    pub as_of: DateTime<Utc>,
    /// Payments less refunds in this calendar month (UTC), by the time of payment.
    pub revenue_this_month: Vec<Money>,
    /// The same of the month before.
    pub revenue_last_month: Vec<Money>,
    /// Number of bookings of each status.
    pub bookings: BTreeMap<String, i64>,
    /// Cars that customers have now.
    pub active: i64,
    /// Rentals that have not begun.
    pub upcoming: i64,
    /// Cars that the public sees.
    pub cars: i64,
    /// Customers.
    pub customers: i64,
    /// Share of the days of those cars in the next 30 days that is taken, today included: 10,000 is
    /// all of it.
    pub occupancy_basis_points: i64,
    /// Cars booked most often in the last 90 days, four at most.
    pub popular_cars: Vec<PopularCar>,
}

/// A car, and its number of bookings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PopularCar {
    /// A UUID.
    pub car_id: String,
    /// Its name.
    pub name: Option<String>,
    /// Number of bookings, without cancelled and unpaid ones.
    pub bookings: i64,
}

/// The figures at `now`.
///
/// # Errors
/// When the database fails.
pub async fn dashboard(
    reader: &mut ReadTransaction,
    now: DateTime<Utc>,
) -> Result<Dashboard, Error> {
    let month = month(now.date_naive());
    let before = month.checked_sub_months(Months::new(1)).unwrap_or(month);
    let revenue_this_month = revenue(reader, month, now.date_naive() + TimeDelta::days(1)).await?;
    let revenue_last_month = revenue(reader, before, month).await?;
    let bookings = crate::views::bookings::read::count_bookings(reader).await?;
    let today = day_number(now.date_naive());
    let reader = reader.over(&DASHBOARD_VIEWS)?;
    let counted = sqlx::query!(
        r#"select (select count(*) from cars where shown) as "cars!",
                  (select count(*) from customers) as "customers!",
                  (select coalesce(sum(upper(part) - lower(part)), 0)
                   from cars join calendar on calendar.key = cars.key,
                        unnest(calendar.taken * int4multirange(int4range($1, $2))) as part
                   where shown) as "taken!""#,
        today,
        today + AHEAD
    )
    .fetch_one(&mut **reader)
    .await?;
    let popular = sqlx::query_as!(
        PopularCar,
        r#"select car_id as "car_id!", min(cars.data -> 'car' -> 'profile' ->> 'name') as name,
                  count(*) as "bookings!"
           from bookings left join cars on cars.key = car_id
           where created_at >= $1 and status not in ('cancelled', 'expired', 'pending_payment')
           group by car_id order by count(*) desc, car_id limit 4"#,
        time::format(&(now - TimeDelta::days(BACK)))
    );
    let popular_cars = popular.fetch_all(&mut **reader).await?;
    let count = |status: &str| bookings.get(status).copied().unwrap_or(0);
    Ok(Dashboard {
        object: "dashboard".to_owned(),
        as_of: now,
        revenue_this_month,
        revenue_last_month,
        active: count("active"),
        upcoming: count("upcoming"),
        cars: counted.cars,
        customers: counted.customers,
        occupancy_basis_points: counted.taken * 10_000 / (counted.cars * i64::from(AHEAD)).max(1),
        popular_cars,
        bookings,
    })
}

fn month(day: NaiveDate) -> NaiveDate {
    day.with_day(1).unwrap_or(day)
}

async fn revenue(
    reader: &mut ReadTransaction,
    from: NaiveDate,
    until: NaiveDate,
) -> Result<Vec<Money>, Error> {
    let reader = reader.over(&[Payments::NAME])?;
    let midnight = |day: NaiveDate| time::format(&day.and_time(NaiveTime::MIN).and_utc());
    let found = sqlx::query_as!(
        Money,
        r#"select currency as "currency!", sum(amount_cents)::bigint as "amount_cents!"
           from payments where at >= $1 and at < $2 group by currency order by currency"#,
        midnight(from),
        midnight(until)
    );
    Ok(found.fetch_all(&mut **reader).await?)
}
