//! Bookings: customers and visitors make them and see their own, staff manage
//! them.

use super::problem::{ApiError, Code, Problem};
use super::{
    Api, App,
    auth::extract::{BookingReader, EmailReader, Requester, Role},
    command::{Answer, Command, days},
    conditional::tag_of_content,
    given::{self, Day, Given, valid},
    read_answer::{
        PageQuery, add_blocked_header, answer_of, begin_read, cursor, json_body, limit, page_of,
        parse_query, reach_the_end, text, view_answer,
    },
    refusals::{no_such_booking, no_such_car, rental_problem, validation},
};
use axum::{
    extract::{Path, RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use exodrive_commands::{
    context::{Actor, CommandContext},
    digest::sha256_hex,
    rental::{Done, customer_by_address},
};
use exodrive_domain::{
    Subject,
    booking::{AccessLink, Booking, BookingCommand, Customer, CustomerDetails, NewBooking, Status},
    id::{BookingId, CarId},
    personal::{ERASED, Personal},
    price::Choices,
    time::{self, serde_micros},
    value::{Faults, Note, Valid},
};
use exodrive_projections::{
    RowPlace,
    views::{
        booking_timeline::read::{self as booking_timeline, BookingEntry},
        bookings::read::{
            self as bookings, BookingDetail, CustomerDetail, Filter, NoteDetail, Viewer,
        },
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use utoipa::{IntoParams, ToSchema};

/// Days for which a guest's link is valid.
const LINK_DAYS: i64 = 7;
/// Days for which the link of a booking that staff made is valid.
pub(super) const STAFF_LINK_DAYS: i64 = 30;
/// The longest hold that staff may give.
const LONGEST_HOLD_MINUTES: i64 = 30 * 24 * 60;

/// Request for a booking.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BookingRequest {
    /// The car's id or slug.
    #[schema(min_length = 1, max_length = 100)]
    car_id: String,
    /// The first day of the rental.
    start_date: Day,
    /// The last day of the rental; the same as the first for one day.
    end_date: Day,
    /// The customer who rents.
    customer: CustomerRequest,
    /// Ids of optional fees.
    #[serde(default)]
    #[schema(value_type = BTreeSet<given::ChoiceId>, max_items = 50)]
    fees: BTreeSet<String>,
    /// Id of the location where the customer picks the car up.
    pick_up: Option<given::OptionalChoiceId>,
    /// Id of the location where the customer leaves the car; the same if not
    /// given.
    drop_off: Option<given::OptionalChoiceId>,
    /// Total that the customer was shown, in cents. If the total is another
    /// one, the booking is rejected (`price_changed`).
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    expected_total_cents: Option<i64>,
    /// A note for staff.
    notes: Option<given::OptionalNote>,
    /// Minutes for which the days are held unpaid. Staff only.
    #[schema(minimum = 1, maximum = 43_200)]
    hold_minutes: Option<u32>,
}

/// The customer of a booking.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustomerRequest {
    /// One email address (RFC 5321), without a display name.
    #[schema(value_type = given::Email)]
    email: given::AddressText,
    /// First name. It or the last name may be empty, not both: one name is a
    /// name.
    #[schema(required = false)]
    first_name: Option<given::PersonName>,
    /// Last name.
    #[schema(required = false)]
    last_name: Option<given::PersonName>,
    /// Telephone number.
    phone: Option<given::OptionalPhone>,
    /// Account of the customer. Staff only: for a signed-in customer it is
    /// their own.
    user_id: Option<given::OptionalUserId>,
}

impl CustomerRequest {
    pub(super) fn customer(&self, actor: &Actor) -> Customer {
        let user_id = match actor {
            Actor::Customer(subject) => Some(subject.clone()),
            actor if actor.is_staff() => self.user_id.as_ref().map(Given::raw),
            _ => None,
        };
        let name = |name: &Option<Given<_>>| name.as_ref().map_or_else(String::new, Given::raw);
        let details = CustomerDetails {
            email: self.email.raw(),
            first_name: name(&self.first_name),
            last_name: name(&self.last_name),
            phone: self.phone.as_ref().map(Given::raw),
        };
        Customer { user_id, details: Personal(details) }
    }
}

/// A new booking.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewBookingDetail {
    #[serde(flatten)]
    booking: BookingDetail,
    /// Link by which the customer sees it without an account.
    access_link: LinkDetail,
}

/// Link by which a customer without an account sees a booking.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LinkDetail {
    /// Send it as `ExoDrive-Booking-Token`, or as `?token=`.
    pub(super) token: String,
    /// Time at which it expires.
    #[serde(with = "serde_micros")]
    pub(super) expires_at: DateTime<Utc>,
}

/// Makes a booking: holds the days until it is paid, or until the hold expires.
///
/// Send an `Idempotency-Key`, so that a repeat cannot book twice: it gets the
/// same answer.
#[utoipa::path(
    post, path = "/v1/bookings", tag = "bookings", security((), ("token" = []), ("service_key" = ["bookings:write"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters, new for each new booking")),
    request_body = BookingRequest,
    responses(
        (status = 201, description = "Held", body = NewBookingDetail, headers(
            ("Location" = String, description = "Path of the booking"),
            ("ETag" = String, description = "For `If-Match`"),
            ("ExoDrive-Position" = u64, description = "Read with `ExoDrive-Min-Position` to see it in every view"),
            ("Idempotent-Replayed" = bool, description = "`true`: the first answer to this key"),
        )),
        (status = 409, description = "`dates_unavailable` with `conflicts` and `next_free`; `price_changed`; `car_not_bookable`; `request_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`, `idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn create_booking(
    State(api): App,
    command: Command<BookingRequest>,
) -> Result<Response, ApiError> {
    if let Some(role @ (Role::Auditor | Role::Operator)) = command.who.role() {
        let detail = format!("The role {} may not book.", role.name());
        return Err(ApiError::new(Code::Forbidden, detail));
    }
    let context = &command.context;
    let staff = context.actor.is_staff();
    let body = &command.body;
    let id = BookingId::from(context.derived_id("booking"));
    let answer = command
        .once(&api, async {
            let new = new_booking(&api, body, id, context)?;
            let car_id = car_id(&api, &body.car_id).await?;
            command.who.count_booking(&api).await?;
            let done = api.rental.book(car_id, &BookingCommand::Hold(new), context).await;
            if done.as_ref().map_or(true, |done| done.replayed) {
                command.who.count_no_booking(&api).await;
            }
            let done = done.map_err(|error| rental_problem(error, staff))?;
            Ok(shown(&done, context)?.made(format!("/v1/bookings/{id}")))
        })
        .await?;
    // The token is not part of the stored answer, because it opens the booking.
    let created_at = answer.body.get("created_at").and_then(|it| it.as_str()).and_then(time::parse);
    let mut answer = answer;
    if let (Some(body), Some(created_at)) = (answer.body.as_object_mut(), created_at) {
        let link = LinkDetail {
            token: api.booking_secret.link_token(id, 0),
            expires_at: created_at + TimeDelta::days(link_days(staff)),
        };
        body.insert("access_link".to_owned(), serde_json::to_value(link)?);
    }
    Ok(answer.into_response())
}

fn link_days(staff: bool) -> i64 {
    if staff { STAFF_LINK_DAYS } else { LINK_DAYS }
}

fn new_booking(
    api: &Api,
    body: &BookingRequest,
    id: BookingId,
    context: &CommandContext,
) -> Result<NewBooking, ApiError> {
    let staff = context.actor.is_staff();
    let mut faults = Faults::default();
    let minutes = body.hold_minutes.map(i64::from);
    let allowed = staff && minutes.is_some_and(|it| (1..=LONGEST_HOLD_MINUTES).contains(&it));
    let detail = format!("is for staff, and from 1 to {LONGEST_HOLD_MINUTES}");
    faults.check(minutes.is_none() || allowed, "/hold_minutes", detail);
    let customer = faults.within("/customer", Valid::new(body.customer.customer(&context.actor)));
    let note = body.notes.as_ref().map(Given::raw);
    let note = faults.take("/notes", Note::optional(note.as_deref()));
    let chosen = choices(body.fees.clone(), body.pick_up.as_ref(), body.drop_off.as_ref());
    let days = days(body.start_date, body.end_date);
    let (customer, note) = faults.or((customer, note)).map_err(validation)?;
    let (Some(customer), Some(note)) = (customer, note) else {
        return Err(validation(Vec::new()));
    };
    Ok(NewBooking {
        id,
        customer_id: customer_by_address(),
        customer,
        days: days?,
        choices: chosen?,
        hold_for: minutes.map_or(api.hold_period, TimeDelta::minutes),
        link: Some(AccessLink {
            hash: sha256_hex(api.booking_secret.link_token(id, 0).as_bytes()),
            expires_at: api.rental.now() + TimeDelta::days(link_days(staff)),
        }),
        note,
        expected_total_cents: body.expected_total_cents,
    })
}

/// The chosen extras and locations of a request.
pub(super) fn choices(
    fees: BTreeSet<String>,
    pick_up: Option<&given::OptionalChoiceId>,
    drop_off: Option<&given::OptionalChoiceId>,
) -> Result<Valid<Choices>, ApiError> {
    let (pick_up, drop_off) = (pick_up.map(Given::raw), drop_off.map(Given::raw));
    valid("", Choices { fees, pick_up, drop_off })
}

/// Finds the car with an id or a slug. A decision is made on it, so the log says
/// it and no view.
pub(crate) async fn car_id(api: &Api, id_or_slug: &str) -> Result<CarId, ApiError> {
    if let Ok(id) = id_or_slug.parse() {
        return Ok(id);
    }
    let found = api.rental.car_by_slug(id_or_slug).await;
    found.map_err(|error| rental_problem(error, false))?.ok_or_else(no_such_car)
}

pub(super) fn viewer(actor: &Actor) -> Viewer {
    match actor {
        Actor::Staff(_) | Actor::Key(_) | Actor::System(_) => Viewer::Staff,
        Actor::Customer(_) | Actor::Guest(_) | Actor::Visitor | Actor::Operator(_) => {
            Viewer::Customer
        }
    }
}

pub(super) fn shown(
    done: &Done<Arc<Booking>>,
    context: &CommandContext,
) -> Result<Answer, ApiError> {
    let booking = BookingDetail::of(&done.value, viewer(&context.actor), done.at);
    let etag = booking_tag(&booking, 0)?;
    Ok(Answer::of(&booking, done.position)?.tagged(etag).replayed(done.replayed))
}

/// The tag of a booking as one kind of viewer sees it on one day: its possible actions depend on
/// both, and not only on its position. Notes and customer change with the position, until some of
/// their texts are `erased`.
///
/// A command does not have those texts, and its answer must have the tag with which the booking is
/// read: so they are counted, and not hashed.
fn booking_tag(booking: &BookingDetail, erased: usize) -> Result<String, ApiError> {
    let shown = BookingDetail { customer: None, ..booking.clone() };
    Ok(tag_of_content(booking.position, &serde_json::to_vec(&(shown, erased))?))
}

/// Number of the texts of a booking that were erased.
fn erased_texts(row: &exodrive_projections::views::bookings::BookingRow) -> usize {
    let texts = row.notes.iter().map(|note| &note.text).chain([&row.customer.email]);
    texts.filter(|text| *text == ERASED).count()
}

pub(super) fn known_form(id: &str) -> Result<BookingId, ApiError> {
    id.parse().map_err(|_| no_such_booking())
}

/// A booking with everything that the caller may see of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FullBooking {
    #[serde(flatten)]
    booking: BookingDetail,
    /// Notes of staff; only staff see them.
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<NoteDetail>>,
}

fn full(
    row: exodrive_projections::views::bookings::BookingRow,
    who: &Requester,
    now: DateTime<Utc>,
) -> FullBooking {
    let viewer = match who.role() {
        Some(Role::Admin) => Viewer::Staff,
        Some(Role::Auditor) => Viewer::Onlooker,
        _ => Viewer::Customer,
    };
    let mut booking = BookingDetail::of(&row.booking, viewer, now);
    booking.customer = Some(CustomerDetail::from(row.customer));
    let staff = viewer != Viewer::Customer;
    let notes = staff.then(|| row.notes.into_iter().map(NoteDetail::from).collect());
    FullBooking { booking, notes }
}

/// Gives a booking to its customer, and to staff.
#[utoipa::path(
    get, path = "/v1/bookings/{id}", tag = "bookings", security((), ("token" = []), ("service_key" = ["bookings:read"])),
    params(
        ("id" = String, Path, description = "The booking's id"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that you hold: answered 304 while it is current"),
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "The booking", body = FullBooking, headers(
            ("ETag" = String, description = "For `If-Match` and `If-None-Match`"),
        )),
        (status = 304, description = "Unchanged"),
        Problem,
    ),
)]
pub(crate) async fn get_booking(
    State(api): App,
    who: Requester,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = known_form(&id)?;
    let row = visible(&api, &who, "bookings", &headers, id).await?;
    let position = row.booking.position;
    let subject = Subject::Booking(row.booking.car_id).to_string();
    let erased = erased_texts(&row);
    let full = full(row, &who, api.rental.now());
    let etag = booking_tag(&full.booking, erased)?;
    let mut answer = view_answer(&headers, &etag, position, json_body(&full)?, "MISS")?;
    add_blocked_header(&api, "bookings", &[&id.to_string(), &subject], &mut answer);
    Ok(answer)
}

/// Returns a booking that the caller may see. If that depends on a link, the
/// link must not have expired.
async fn visible(
    api: &Api,
    who: &Requester,
    view: &'static str,
    headers: &HeaderMap,
    id: BookingId,
) -> Result<exodrive_projections::views::bookings::BookingRow, ApiError> {
    let find = async || {
        let mut reader = begin_read(api, &who.reads_bookings_as(), &[view], headers).await?;
        Ok::<_, ApiError>(bookings::find_booking(&mut reader, &id.to_string()).await?)
    };
    let row = match find().await? {
        Some(row) => row,
        // The booking may have been made a moment ago.
        None => {
            reach_the_end(api, view).await?;
            find().await?.ok_or_else(no_such_booking)?
        }
    };
    match who.actor() {
        Actor::Guest(hash) if row.booking.link(&hash, api.rental.now()).is_none() => {
            Err(no_such_booking())
        }
        _ => Ok(row),
    }
}

/// Filter of bookings, and the page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct BookingQuery {
    /// Only these statuses, with commas between.
    #[param(inline, value_type = Option<given::BookingStatuses>, example = "upcoming,active")]
    status: Option<String>,
    /// Only of this car.
    car_id: Option<String>,
    /// Only of this customer.
    customer_id: Option<String>,
    /// Only those that have this day or a later one.
    from: Option<Day>,
    /// Only those that have this day or an earlier one.
    to: Option<Day>,
    /// Only made at this time or later (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    created_gte: Option<String>,
    /// Only made before this time (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    created_lt: Option<String>,
    /// Only with each of these words, or words that begin with them, in id, reference, name, email
    /// or telephone number: in any order and case, with or without accents. A telephone number is
    /// found from any of its digits on.
    q: Option<String>,
    /// Rows on the page, 1 to 100. 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// `next_cursor` of the previous page.
    after: Option<String>,
}

/// A page of bookings, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BookingList {
    /// Always `list`.
    object: &'static str,
    /// The page.
    data: Vec<FullBooking>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
    /// Number of bookings of each status, whatever the filter.
    counts: BTreeMap<String, i64>,
}

/// Lists bookings, newest first: staff see all of them, a customer their own.
#[utoipa::path(
    get, path = "/v1/bookings", tag = "bookings", security(("token" = []), ("service_key" = ["bookings:read"])),
    params(
        BookingQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = BookingList),
        Problem,
    ),
)]
pub(crate) async fn list_bookings(
    State(api): App,
    BookingReader(who): BookingReader,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let filter = filter(parse_query(query)?)?;
    let mut reader = begin_read(&api, &who.reads_bookings_as(), &["bookings"], &headers).await?;
    let page = bookings::find_bookings(&mut reader, &filter).await?;
    let counts = bookings::count_bookings(&mut reader).await?;
    let now = api.rental.now();
    let list = BookingList {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows.into_iter().map(|row| full(row, &who, now)).collect(),
        counts,
    };
    Ok(answer_of(&api, &reader, list))
}

fn filter(query: BookingQuery) -> Result<Filter, ApiError> {
    let statuses = query.status.iter().flat_map(|statuses| statuses.split(','));
    let statuses: Vec<_> = statuses.map(str::trim).filter(|it| !it.is_empty()).collect();
    if let Some(unknown) = statuses.iter().find(|status| status.parse::<Status>().is_err()) {
        let names = Status::NAMES.join(", ");
        return Err(ApiError::parameter("status", format!("{unknown:?} is not one of {names}")));
    }
    let (from, to) = (query.from.map(|day| day.0), query.to.map(|day| day.0));
    let first = from.unwrap_or(NaiveDate::MIN);
    let range = match (from, to) {
        (None, None) => None,
        (from, to) => {
            let first = from.or(NaiveDate::from_ymd_opt(2000, 1, 1)).unwrap_or(first);
            let last = to.or(NaiveDate::from_ymd_opt(2199, 12, 31)).unwrap_or(first);
            let valid = exodrive_domain::days::Days::inclusive(first, last);
            Some(valid.map_err(|error| ApiError::parameter("to", error.to_string()))?)
        }
    };
    Ok(Filter {
        statuses: statuses.into_iter().map(str::to_owned).collect(),
        car_id: query.car_id,
        customer_id: query.customer_id,
        days: range,
        created_from: super::read_answer::time("created_gte", query.created_gte)?,
        created_until: super::read_answer::time("created_lt", query.created_lt)?,
        text: text(query.q),
        after: cursor(query.after, RowPlace::parse)?,
        limit: limit(query.limit)?,
    })
}

/// A page of the timeline of a booking.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BookingTimeline {
    /// Always `list`.
    object: &'static str,
    /// Entries in the order that they happened.
    data: Vec<BookingEntry>,
    /// True if another page follows.
    has_more: bool,
    /// Value of `after` for it.
    next_cursor: Option<String>,
}

/// Lists the timeline of a booking: events, payments, and the email that was
/// tagged with it. For admins and auditors.
#[utoipa::path(
    get, path = "/v1/bookings/{id}/timeline", tag = "bookings", security(("token" = []), ("service_key" = ["bookings:read"])),
    params(
        ("id" = String, Path, description = "The booking's id"),
        PageQuery,
        ("ExoDrive-Min-Position" = Option<u64>, Header, description = "Wait (at most 2 s) until the view has reached this position"),
    ),
    responses(
        (status = 200, description = "A page", body = BookingTimeline),
        Problem,
    ),
)]
pub(crate) async fn get_booking_timeline(
    State(api): App,
    reader: EmailReader,
    headers: HeaderMap,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (limit, after) = page_of(query)?;
    let id = known_form(&id)?;
    let views = &["booking_timeline", "inbox"];
    let mut transaction = begin_read(&api, &reader.identity, views, &headers).await?;
    let of_page = (limit, after.as_ref());
    let page =
        booking_timeline::timeline_of_booking(&mut transaction, &id.to_string(), of_page).await?;
    if page.rows.is_empty() && after.is_none() {
        return Err(no_such_booking());
    }
    let list = BookingTimeline {
        object: "list",
        has_more: page.next.is_some(),
        next_cursor: page.next,
        data: page.rows,
    };
    Ok(answer_of(&api, &transaction, list))
}
