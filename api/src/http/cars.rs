//! The fleet for the public: cars, calendars, quotes.

use super::problem::{ApiError, Problem};
use super::{
    Api, App,
    auth::extract::{Requester, Role},
    bookings::{car_id, choices},
    command::{Command, days},
    conditional::{tag_of_content, tag_of_version},
    given::{self, Day},
    read_answer::{
        MIN_POSITION, add_blocked_header, answer_of, begin_read, cursor, json_body, limit,
        parse_query, reach_the_end, text, view_answer,
    },
    refusals::{no_such_car, rental_problem},
};
use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use bytes::Bytes;
use chrono::{NaiveDate, TimeDelta};
use exodrive_commands::rental::RentalError;
use exodrive_domain::{
    booking::BookingRejection,
    days::Days,
    fleet::today,
    price::{Quote, quote},
    value::{DEFAULT_CURRENCY, check_currency},
};
use exodrive_projections::{
    Identity, Projection,
    views::{
        bookings::read::{LineDetail, Money},
        calendar::{Entry, read as calendar},
        cars::{
            Cars,
            read::{self as cars, CarDetail, CarSummary, Filter, Sort},
        },
    },
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::{IntoParams, ToSchema};

/// The longest calendar, in days.
const LONGEST_CALENDAR: u32 = 731;
/// Days of a calendar if no last day is given.
const CALENDAR_DAYS: i64 = 90;

/// Filter of cars, and the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct CarQuery {
    /// Only of these categories, with commas between, in any case.
    #[param(example = "supercar,suv")]
    category: Option<String>,
    /// Only cars whose prices are in this currency (ISO 4217). `USD` if a price is given without it:
    /// amounts of two currencies do not compare.
    #[param(value_type = Option<given::Currency>, example = "USD")]
    currency: Option<String>,
    /// Costing at least this a day, in minor units of the currency (cents of USD).
    #[param(value_type = Option<i64>, minimum = 0)]
    price_min: Option<String>,
    /// Costing at most this a day, in minor units of the currency (cents of USD).
    #[param(value_type = Option<i64>, minimum = 0)]
    price_max: Option<String>,
    /// With all of these features, with commas between, in any case.
    features: Option<String>,
    /// With each of these words, or words that begin with them, in name, slug, category, short text
    /// or features: in any order and case, with or without accents. If there is no such car, a word
    /// of the name may have one letter wrong, missing or too many.
    #[param(example = "gt3 porshe")]
    q: Option<String>,
    /// Free from this day …
    available_from: Option<Day>,
    /// … to this day, both included.
    available_to: Option<Day>,
    /// `featured` (then by name), `name`, `price` (by currency, the cheapest of each first) or
    /// `-price`.
    #[param(example = "-price")]
    sort: Option<String>,
    /// Staff: also cars that the public does not see.
    #[param(value_type = Option<bool>)]
    all: Option<String>,
    /// Rows on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// A page of cars.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CarList {
    /// Always `list`.
    object: &'static str,
    /// The page.
    data: Vec<CarSummary>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// Lists the fleet.
#[utoipa::path(
    get, path = "/v1/cars", tag = "cars", security((), ("token" = []), ("service_key" = ["fleet:read"])),
    params(
        CarQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = CarList),
        Problem,
    ),
)]
pub(crate) async fn list_cars(
    State(api): App,
    who: Requester,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let filter = filter(parse_query(query)?, &who)?;
    let mut reader = begin_read(&api, &identity(&who), filter.views(), &headers).await?;
    let page = cars::find_cars(&mut reader, &filter).await?;
    let list = CarList {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows,
    };
    Ok(answer_of(&api, &reader, list))
}

fn identity(who: &Requester) -> Identity {
    who.role().and_then(Role::reads_email_as).unwrap_or(Identity::Public)
}

fn filter(query: CarQuery, who: &Requester) -> Result<Filter, ApiError> {
    let words = |words: Option<String>| -> Vec<String> {
        let words = words.map(|words| words.to_lowercase());
        let words = words
            .iter()
            .flat_map(|words| words.split(','))
            .map(str::trim)
            .filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let cents = |name: &str, text: Option<String>| {
        let parse = |text: String| {
            let cents = text.parse().ok().filter(|cents: &i64| *cents >= 0);
            let detail = "it must be a number of minor units, not negative";
            cents.ok_or_else(|| ApiError::parameter(name, detail))
        };
        text.map(parse).transpose()
    };
    let price_min = cents("price_min", query.price_min)?;
    let price_max = cents("price_max", query.price_max)?;
    if let Some(currency) = &query.currency {
        check_currency(currency)
            .map_err(|it| ApiError::parameter("currency", format!("it {it}")))?;
    }
    let priced = price_min.or(price_max).map(|_| DEFAULT_CURRENCY.to_owned());
    let free = match (query.available_from.map(|day| day.0), query.available_to.map(|day| day.0)) {
        (None, None) => None,
        (Some(first), Some(last)) => Some(
            Days::inclusive(first, last)
                .map_err(|error| ApiError::parameter("available_to", error.to_string()))?,
        ),
        (Some(_), None) => {
            return Err(ApiError::parameter("available_to", "it must be given as well"));
        }
        (None, Some(_)) => {
            return Err(ApiError::parameter("available_from", "it must be given as well"));
        }
    };
    let sort = match query.sort {
        None => Sort::default(),
        Some(name) => Sort::ALL.into_iter().find(|sort| sort.name() == name).ok_or_else(|| {
            let names = Sort::ALL.map(Sort::name).join(", ");
            ApiError::parameter("sort", format!("{name:?} is not one of {names}"))
        })?,
    };
    let all = match query.all.as_deref() {
        None | Some("false") => false,
        Some("true") if who.role().is_some_and(|role| role.reads_email_as().is_some()) => true,
        Some("true") => return Err(ApiError::parameter("all", "it is for staff")),
        Some(_) => return Err(ApiError::parameter("all", "it must be true or false")),
    };
    Ok(Filter {
        categories: words(query.category),
        currency: query.currency.or(priced),
        price_min,
        price_max,
        features: words(query.features),
        text: text(query.q),
        free,
        all,
        sort,
        after: cursor(query.after, |after| cars::parse_cursor(after, sort))?,
        limit: limit(query.limit)?,
    })
}

/// Gives a car, by its id or its slug.
#[utoipa::path(
    get, path = "/v1/cars/{id}", tag = "cars", security((), ("token" = []), ("service_key" = ["fleet:read"])),
    params(
        ("id" = String, Path, description = "The car's id or slug"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that you hold: answered 304 while it is current"),
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "The car", body = CarDetail, headers(
            ("X-Cache" = String, description = "`L1` from this process, `L2` from Redis, `MISS` from Postgres"),
            ("ETag" = String, description = "For `If-Match` and `If-None-Match`"),
        )),
        (status = 304, description = "Unchanged"),
        Problem,
    ),
)]
pub(crate) async fn get_car(
    State(api): App,
    who: Requester,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (position, json, cache) = car_json(&api, &who, &headers, &id).await?;
    let mut answer = view_answer(&headers, &car_tag(position), position, json, cache)?;
    add_blocked_header(&api, "cars", &[&id, &format!("exo.fleet.{id}")], &mut answer);
    Ok(answer)
}

/// The tag of a car whose last event is at this position. The car looks the same to everybody.
pub(super) fn car_tag(position: u64) -> String {
    tag_of_version(position, Cars::VERSION)
}

/// A car as JSON, from the nearest cache that has it. Staff also see cars that
/// the public does not see.
async fn car_json(
    api: &Api,
    who: &Requester,
    headers: &HeaderMap,
    id: &str,
) -> Result<(u64, Bytes, &'static str), ApiError> {
    if !headers.contains_key(MIN_POSITION)
        && let Some((position, json, level)) = api.cars.get(id).await
        && json != "null"
    {
        return Ok((position, json, level.name()));
    }
    // Postgres stores no NUL.
    if id.contains('\0') {
        return Err(no_such_car());
    }
    let find = async || {
        let mut reader = begin_read(api, &identity(who), &["cars"], headers).await?;
        Ok::<_, ApiError>(cars::find_car(&mut reader, id).await?)
    };
    let (car, _) = match find().await? {
        Some(car) => car,
        // The car may have been added a moment ago.
        None => {
            reach_the_end(api, "cars").await?;
            find().await?.ok_or_else(no_such_car)?
        }
    };
    Ok((car.position, json_body(&car)?, "MISS"))
}

/// Days of a calendar.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct CalendarQuery {
    /// The first day; today in the car's time zone if not given.
    from: Option<Day>,
    /// The last day. At most 731 days in all, 90 if not given.
    to: Option<Day>,
}

/// The days of a car.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CarCalendar {
    /// Always `calendar`.
    object: &'static str,
    /// The car.
    car_id: String,
    /// Time zone of the car (IANA): the days are calendar days there.
    time_zone: String,
    /// The first day.
    from: NaiveDate,
    /// The last day.
    to: NaiveDate,
    /// Each day, in order.
    days: Vec<CalendarDay>,
}

/// A day of a car.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CalendarDay {
    /// The day.
    date: NaiveDate,
    /// `available`, `held` (booked, not paid yet), `booked` or `maintenance`.
    status: String,
    /// Id of the booking or block that takes it; only staff see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

/// Gives each day of a car, and whether it is available.
#[utoipa::path(
    get, path = "/v1/cars/{id}/calendar", tag = "cars", security((), ("token" = []), ("service_key" = ["fleet:read"])),
    params(
        ("id" = String, Path, description = "The car's id or slug"),
        CalendarQuery,
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that you hold: answered 304 while it is current"),
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "The days", body = CarCalendar, headers(
            ("X-Cache" = String, description = "`L1` from this process, `L2` from Redis, `MISS` from Postgres"),
            ("ETag" = String, description = "Changes with the days"),
        )),
        (status = 304, description = "Unchanged"),
        Problem,
    ),
)]
pub(crate) async fn get_calendar(
    State(api): App,
    who: Requester,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Known {
        id: String,
        time_zone: String,
    }
    let query: CalendarQuery = parse_query(query)?;
    let (_, json, _) = car_json(&api, &who, &headers, &id).await?;
    let car: Known = serde_json::from_slice(&json)?;
    let from =
        query.from.map(|day| day.0).unwrap_or_else(|| today(&car.time_zone, api.rental.now()));
    let last = || from.checked_add_signed(TimeDelta::days(CALENDAR_DAYS - 1)).unwrap_or(from);
    let to = query.to.map_or_else(last, |day| day.0);
    let days =
        Days::inclusive(from, to).map_err(|error| ApiError::parameter("to", error.to_string()))?;
    if days.count() > LONGEST_CALENDAR {
        let detail = format!("it must be at most {LONGEST_CALENDAR} days after `from`");
        return Err(ApiError::parameter("to", detail));
    }
    let (entries, position, cache) = entries(&api, &headers, &car.id).await?;
    let staff = identity(&who) != Identity::Public;
    let day = |date: NaiveDate| {
        // A block may be forced over a booking. Then the block is why the day
        // is not available.
        let mut by = entries.iter().filter(|entry| entry.days.contains(date));
        let first = by.next();
        let entry = by.find(|entry| entry.status == "maintenance").or(first);
        CalendarDay {
            date,
            status: entry.map_or("available", |entry| &entry.status).to_owned(),
            by: entry.filter(|_| staff).map(|entry| entry.id.clone()),
        }
    };
    let calendar = CarCalendar {
        object: "calendar",
        car_id: car.id,
        time_zone: car.time_zone,
        from,
        to,
        days: days.iter().map(day).collect(),
    };
    let json = json_body(&calendar)?;
    // The answer depends on the car's time zone and on the caller, and not only on its position.
    let etag = tag_of_content(position, &json);
    let mut answer = view_answer(&headers, &etag, position, json, cache)?;
    let keys = [&calendar.car_id, &format!("exo.booking.{}", calendar.car_id)];
    add_blocked_header(&api, "calendar", &keys.map(String::as_str), &mut answer);
    Ok(answer)
}

async fn entries(
    api: &Api,
    headers: &HeaderMap,
    car_id: &str,
) -> Result<(Vec<Entry>, u64, &'static str), ApiError> {
    if !headers.contains_key(MIN_POSITION)
        && let Some((position, json, level)) = api.calendars.get(car_id).await
        && let Ok(entries) = serde_json::from_slice(&json)
    {
        return Ok((entries, position, level.name()));
    }
    let mut reader = begin_read(api, &Identity::Public, &["calendar"], headers).await?;
    let (entries, position) = calendar::entries(&mut reader, car_id).await?;
    Ok((entries, position, "MISS"))
}

/// Request for a quote.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuoteRequest {
    /// The car's id or slug.
    #[schema(min_length = 1, max_length = 100)]
    car_id: String,
    /// The first day of the rental.
    start_date: Day,
    /// The last day of the rental; the same as the first for one day.
    end_date: Day,
    /// Ids of optional fees.
    #[serde(default)]
    #[schema(value_type = BTreeSet<given::ChoiceId>, max_items = 50)]
    fees: BTreeSet<String>,
    /// Id of the location where the customer picks the car up.
    pick_up: Option<given::OptionalChoiceId>,
    /// Id of the location where the customer leaves the car; the same if not
    /// given.
    drop_off: Option<given::OptionalChoiceId>,
}

/// The price of a rental. A booking at the same version of the price list is
/// charged exactly this.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuoteDetail {
    /// Always `quote`.
    object: &'static str,
    /// The car.
    car_id: String,
    /// The first day.
    start_date: NaiveDate,
    /// The last day.
    end_date: NaiveDate,
    /// Number of days.
    days: u32,
    /// The price.
    total: Money,
    /// Lines that add up to the total.
    lines: Vec<LineDetail>,
    /// Deposit that is held while the car is out, apart from the total.
    deposit: Money,
    /// The version of the car's price list.
    price_list_version: u32,
    /// True if all of the days are available at the moment.
    available: bool,
}

/// Prices a rental. Changes nothing.
#[utoipa::path(
    post, path = "/v1/quotes", tag = "cars", security((), ("token" = []), ("service_key" = ["fleet:read"])),
    request_body = QuoteRequest,
    responses(
        (status = 200, description = "The price", body = QuoteDetail),
        (status = 422, description = "`validation_failed`: for example fewer days than the car is rented for", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn create_quote(
    State(api): App,
    command: Command<QuoteRequest>,
) -> Result<Json<QuoteDetail>, ApiError> {
    let staff = command.who.role() == Some(Role::Admin);
    let body = command.body;
    let refuse = |refusal| rental_problem(RentalError::Booking(refusal), staff);
    let days = days(body.start_date, body.end_date)?;
    let car_id = car_id(&api, &body.car_id).await?;
    let (car, calendar) = tokio::join!(api.rental.car(car_id), api.rental.calendar(car_id));
    let car = car.map_err(|error| rental_problem(error, staff))?;
    let calendar = calendar.map_err(|error| rental_problem(error, staff))?;
    let car = car.filter(|car| staff || (car.listed && !car.archived)).ok_or_else(no_such_car)?;
    let today = car.today(api.rental.now());
    if days.first() < today && !staff {
        return Err(refuse(BookingRejection::InThePast(today)));
    }
    let prices = car
        .prices
        .as_ref()
        .ok_or_else(|| refuse(BookingRejection::NotBookable("it has no price yet")))?;
    let choices = choices(body.fees, body.pick_up.as_ref(), body.drop_off.as_ref())?;
    let Quote { price_list_version, currency, lines, total_cents, deposit_cents } =
        quote(prices, days, &choices).map_err(|error| refuse(BookingRejection::NoQuote(error)))?;
    let money = |amount_cents| Money { amount_cents, currency: currency.clone() };
    Ok(Json(QuoteDetail {
        object: "quote",
        car_id: car_id.to_string(),
        start_date: days.first(),
        end_date: days.last(),
        days: days.count(),
        total: money(total_cents),
        lines: lines.iter().map(LineDetail::from).collect(),
        deposit: money(deposit_cents),
        price_list_version,
        available: !car.archived && calendar.taken(days, None).is_empty(),
    }))
}
