//! Commands of staff about the fleet: cars, prices, pictures, blocked days.

use super::problem::{ApiError, DateRange, Problem};
use super::{
    Api, App,
    auth::extract::{EmailReader, Manages},
    bookings::car_id,
    cars::car_tag,
    command::{Answer, Command, EmptyBody, days},
    given::{self, Day, Given, optional, valid, value},
    read_answer::{json_body, view_answer},
    refusals::{range, rental_problem, validation},
};
use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use exodrive_commands::{
    context::CommandContext,
    rental::{Done, RentalError},
};
use exodrive_domain::{
    booking::{Block, BookingRejection},
    days::Days,
    fleet::{Car, FleetCommand, FleetRejection, Image, NamedText, Profile},
    id::{BlockId, CarId},
    price::{Fee, Location, LocationFee, Peak, PriceList},
    value::{DEFAULT_CURRENCY, InvalidField},
};
use exodrive_projections::views::cars::read::{
    CarDetail, FeeDetail, ImageDetail, LocationDetail, NamedTextDetail,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Description of a car, new or changed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CarRequest {
    /// Name in URLs: a-z, 0-9 and `-`, unique. Given when the car is added, and
    /// never changed.
    #[schema(min_length = 1, max_length = 100, pattern = "^[a-z0-9-]+$")]
    slug: Option<String>,
    /// Name for people, 1 to 100 characters.
    name: given::Label,
    /// Category, for example `Supercar`.
    category: given::Category,
    /// The long text.
    #[schema(required = false)]
    description: Option<given::Description>,
    /// The short text.
    #[schema(required = false)]
    short_description: Option<given::ShortDescription>,
    /// Specifications, in the order to be shown.
    #[serde(default)]
    #[schema(max_items = 100)]
    specifications: Vec<NamedTextDetail>,
    /// Features, in the order to be shown.
    #[serde(default)]
    #[schema(max_items = 50)]
    features: Vec<NamedTextDetail>,
    /// Time zone of the car (IANA); `America/New_York` if not given.
    #[schema(max_length = 50)]
    time_zone: Option<String>,
}

/// Time zone of a car if none is given.
pub(crate) const TIME_ZONE: &str = "America/New_York";

impl CarRequest {
    fn profile(&self) -> Profile {
        Profile {
            name: self.name.raw(),
            category: self.category.raw(),
            description: self.description.as_ref().map_or_else(String::new, Given::raw),
            short_description: self.short_description.as_ref().map_or_else(String::new, Given::raw),
            specifications: self.specifications.iter().map(named_text).collect(),
            features: self.features.iter().map(named_text).collect(),
            time_zone: self.time_zone.clone().unwrap_or_else(|| TIME_ZONE.to_owned()),
        }
    }
}

fn fault(pointer: &str, detail: &str) -> ApiError {
    validation(vec![InvalidField::new(pointer, detail)])
}

fn named_text(it: &NamedTextDetail) -> NamedText {
    NamedText { name: it.name.clone(), text: it.text.clone(), highlighted: it.highlighted }
}

/// Price list of a car. Shares are in basis points: 10,000 are 100 %.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceRequest {
    /// Currency (ISO 4217); `USD` if not given. Every amount is in its minor
    /// unit: cents of USD, whole JPY, thousandths of KWD.
    #[schema(value_type = Option<given::Currency>)]
    currency: Option<String>,
    /// Price of a day, in cents.
    #[schema(minimum = 1, maximum = 99_999_999)]
    base_per_day_cents: i64,
    /// Discount on days and fees.
    #[serde(default)]
    #[schema(maximum = 10_000)]
    discount_basis_points: u32,
    /// Text about the discount for customers.
    offer_text: Option<given::OfferText>,
    /// Deposit held while the car is out, apart from the price; 30 % of the
    /// total if not given.
    #[schema(minimum = 0, maximum = 99_999_999)]
    deposit_cents: Option<i64>,
    /// Shortest rental in days; 1 if not given.
    #[schema(minimum = 1, maximum = 365)]
    minimum_days: Option<u32>,
    /// Fees for a whole rental.
    #[serde(default)]
    #[schema(max_items = 50)]
    fees: Vec<FeeDetail>,
    /// Days that cost more.
    #[serde(default)]
    #[schema(max_items = 50)]
    peaks: Vec<PeakRequest>,
    /// Locations where the car can be picked up and left.
    #[serde(default)]
    #[schema(max_items = 50)]
    locations: Vec<LocationDetail>,
    /// Fee for leaving the car elsewhere than where it was picked up.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 10_000_000)]
    one_way_fee_cents: i64,
    /// Tax on everything, after the discount.
    #[serde(default)]
    #[schema(maximum = 10_000)]
    tax_basis_points: u32,
}

/// Rule for days that cost more.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeakRequest {
    /// Name for people.
    name: given::Label,
    /// Only these weekdays, 0 is Sunday; any if empty.
    #[serde(default)]
    #[schema(value_type = Vec<given::Weekday>)]
    weekdays: Vec<u8>,
    /// The first day; any if not given.
    start_date: Option<Day>,
    /// The last day; required if the first is given.
    end_date: Option<Day>,
    /// Share of its price that such a day costs: 11,500 is 15 % more.
    #[schema(minimum = 10_000, maximum = 50_000)]
    multiplier_basis_points: u32,
}

impl PriceRequest {
    fn prices(&self) -> Result<PriceList, ApiError> {
        let mut peaks = Vec::with_capacity(self.peaks.len());
        for (index, peak) in self.peaks.iter().enumerate() {
            let fault = |detail: &str| {
                validation(vec![InvalidField::new(format!("/peaks/{index}/end_date"), detail)])
            };
            let days = match (peak.start_date.map(|day| day.0), peak.end_date.map(|day| day.0)) {
                (None, None) => None,
                (Some(first), Some(last)) => {
                    Some(Days::inclusive(first, last).map_err(|it| fault(&it.to_string()))?)
                }
                _ => return Err(fault("must be given together with start_date")),
            };
            peaks.push(Peak {
                name: peak.name.raw(),
                weekdays: peak.weekdays.iter().copied().collect(),
                days,
                multiplier_basis_points: peak.multiplier_basis_points,
            });
        }
        let fee = |fee: &FeeDetail| Fee {
            id: fee.id.clone(),
            name: fee.name.clone(),
            amount_cents: fee.amount_cents,
            mandatory: fee.mandatory,
        };
        let location = |it: &LocationDetail| Location {
            id: it.id.clone(),
            name: it.name.clone(),
            pick_up: LocationFee {
                fixed_cents: it.pick_up_cents,
                basis_points: it.pick_up_basis_points,
            },
            drop_off: LocationFee {
                fixed_cents: it.drop_off_cents,
                basis_points: it.drop_off_basis_points,
            },
        };
        Ok(PriceList {
            version: 0,
            currency: self.currency.clone().unwrap_or_else(|| DEFAULT_CURRENCY.to_owned()),
            base_per_day_cents: self.base_per_day_cents,
            discount_basis_points: self.discount_basis_points,
            offer_text: self.offer_text.as_ref().map(Given::raw),
            deposit_cents: self.deposit_cents,
            minimum_days: self.minimum_days.unwrap_or(1),
            fees: self.fees.iter().map(fee).collect(),
            peaks,
            locations: self.locations.iter().map(location).collect(),
            one_way_fee_cents: self.one_way_fee_cents,
            tax_basis_points: self.tax_basis_points,
        })
    }
}

/// Pictures.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImagesRequest {
    /// Pictures in the order to be shown; exactly one is primary, unless there
    /// are none.
    #[schema(max_items = 20)]
    images: Vec<ImageDetail>,
}

/// A reason.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArchiveRequest {
    /// Reason, for the record.
    reason: Option<given::OptionalReason>,
}

async fn change(
    api: &Api,
    car_id: CarId,
    command: &FleetCommand,
    context: &CommandContext,
) -> Result<Done<Car>, ApiError> {
    match api.rental.change_car(car_id, command, context).await {
        Ok(done) => Ok(done),
        Err(error) => {
            let stale = matches!(error, RentalError::Fleet(FleetRejection::Stale(_)));
            let mut problem = rental_problem(error, true);
            if stale && let Ok(Some(car)) = api.rental.car(car_id).await {
                let current = CarDetail::of(&car, car.position);
                problem.more.current = serde_json::to_value(current).ok();
            }
            Err(problem)
        }
    }
}

async fn change_by_name<T>(
    api: &Api,
    id: &str,
    command: Command<T>,
    request: impl FnOnce(&T) -> Result<FleetCommand, ApiError>,
) -> Result<Response, ApiError> {
    let context = &command.context;
    let request = request(&command.body)?;
    let run = async {
        let car_id = car_id(api, id).await?;
        let done = change(api, car_id, &request, context).await?;
        let car = CarDetail::of(&done.value, done.value.position);
        let answer = Answer::of(&car, done.position)?.tagged(car_tag(done.value.position));
        Ok(answer.replayed(done.replayed))
    };
    Ok(command.once(api, run).await?.into_response())
}

/// Adds a car. It is shown once it has a price and is listed. Staff.
#[utoipa::path(
    post, path = "/v1/cars", tag = "fleet", security(("token" = []), ("service_key" = ["fleet:write"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer")),
    request_body = CarRequest,
    responses(
        (status = 201, description = "Added", body = CarDetail),
        (status = 409, description = "`slug_taken`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn create_car(
    State(api): App,
    _: Manages,
    command: Command<CarRequest>,
) -> Result<Response, ApiError> {
    let context = &command.context;
    let car_id = CarId::from(context.derived_id("car"));
    let slug = command.body.slug.clone().ok_or_else(|| fault("/slug", "must be given"))?;
    let slug = value("/slug", slug.parse())?;
    let profile = valid("", command.body.profile())?;
    let request = FleetCommand::Add { car_id, slug, profile };
    let run = async {
        let done = change(&api, car_id, &request, context).await?;
        let answer = Answer::of(&CarDetail::of(&done.value, done.value.position), done.position)?;
        let answer = answer.tagged(car_tag(done.value.position));
        Ok(answer.made(format!("/v1/cars/{car_id}")).replayed(done.replayed))
    };
    Ok(command.once(&api, run).await?.into_response())
}

macro_rules! fleet_change_routes {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $method:ident $path:literal $body:ty : |$input:ident| $request:expr;
    )*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(
            $method, path = $path, tag = "fleet", security(("token" = []), ("service_key" = ["fleet:write"])),
            params(
                ("id" = String, Path, description = "The car's id or slug"),
                ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
                ("If-Match" = Option<String>, Header, description = "Only if the car still has this `ETag`; else 412 with `current`"),
            ),
            request_body = $body,
            responses(
                (status = 200, description = "The car after the command", body = CarDetail),
                (status = 409, description = "`car_conflict`", body = Problem, content_type = "application/problem+json"),
                (status = 412, description = "`stale`, with `current`", body = Problem, content_type = "application/problem+json"),
                Problem,
            ),
        )]
        pub(crate) async fn $name(
            State(api): App,
            _: Manages,
            Path(id): Path<String>,
            command: Command<$body>,
        ) -> Result<Response, ApiError> {
            change_by_name(&api, &id, command, |$input| Ok($request)).await
        }
    )*};
}

fleet_change_routes! {
    /// Changes the description of a car. Its slug stays. Staff.
    describe_car put "/v1/cars/{id}/profile" CarRequest: |body| {
        if body.slug.is_some() {
            return Err(fault("/slug", "never changes: leave it out"));
        }
        FleetCommand::Describe(valid("", body.profile())?)
    };
    /// Sets the price list of a car from now on. Bookings keep the price that
    /// was agreed. Staff.
    price_car put "/v1/cars/{id}/price" PriceRequest: |body| FleetCommand::Price(valid("", body.prices()?)?);
    /// Sets a car's pictures, in order. Staff.
    set_car_images put "/v1/cars/{id}/images" ImagesRequest: |body| {
        let image = |it: &ImageDetail| Image {
            url: it.url.clone(),
            alt: it.alt.clone(),
            primary: it.primary,
        };
        FleetCommand::SetImages(valid("", body.images.iter().map(image).collect::<Vec<_>>())?)
    };
    /// Shows a car to the public, who can then book it. Staff.
    list_car post "/v1/cars/{id}/list" EmptyBody: |_body| FleetCommand::List;
    /// Hides a car from the public. Bookings do not change. Staff.
    hide_car post "/v1/cars/{id}/hide" EmptyBody: |_body| FleetCommand::Hide;
    /// Shows a car before others. Staff.
    feature_car post "/v1/cars/{id}/feature" EmptyBody: |_body| FleetCommand::Feature;
    /// Shows a car among the others. Staff.
    unfeature_car post "/v1/cars/{id}/unfeature" EmptyBody: |_body| FleetCommand::Unfeature;
    /// Takes a car out of the fleet, so that it cannot be booked. Bookings do
    /// not change. Staff.
    archive_car post "/v1/cars/{id}/archive" ArchiveRequest: |body|
        FleetCommand::Archive { reason: optional("/reason", body.reason.as_ref())? };
    /// Takes an archived car into the fleet again. Staff.
    restore_car post "/v1/cars/{id}/restore" EmptyBody: |_body| FleetCommand::Restore;
}

/// Request to block days.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BlockRequest {
    /// The first day.
    start_date: Day,
    /// The last day.
    end_date: Day,
    /// Reason, for the calendar of staff.
    reason: given::Reason,
    /// True to block days over bookings, too. The bookings stay, and staff have
    /// to move them.
    #[serde(default)]
    force: bool,
}

/// Blocked days.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BlockDetail {
    /// Always `block`.
    object: &'static str,
    /// A UUID.
    id: String,
    /// The car.
    car_id: String,
    #[serde(flatten)]
    days: DateRange,
    /// Reason, for staff.
    reason: String,
    /// Position of its event.
    position: u64,
}

impl BlockDetail {
    fn of((car_id, id): (CarId, BlockId), block: &Block) -> Self {
        Self {
            object: "block",
            id: id.to_string(),
            car_id: car_id.to_string(),
            days: range(block.days),
            reason: block.reason.clone(),
            position: block.position,
        }
    }

    /// The tag of a block, which never changes.
    fn tag(&self) -> String {
        format!("\"{}\"", self.position)
    }
}

/// A block that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedBlock {
    /// Always `block`.
    object: &'static str,
    /// A UUID.
    id: String,
    /// The car.
    car_id: String,
    /// Always true.
    deleted: bool,
    /// Position of the event that unblocked the days.
    position: u64,
}

fn no_such_block() -> ApiError {
    rental_problem(RentalError::Booking(BookingRejection::NoSuchBlock), true)
}

/// Blocks days of a car for maintenance and the like. Days of a booking are
/// blocked only with `force`; the answer names the bookings either way. Staff.
#[utoipa::path(
    post, path = "/v1/cars/{id}/blocks", tag = "fleet", security(("token" = []), ("service_key" = ["fleet:write"])),
    params(
        ("id" = String, Path, description = "The car's id or slug"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key gets the first answer"),
    ),
    request_body = BlockRequest,
    responses(
        (status = 201, description = "Blocked", body = BlockDetail),
        (status = 409, description = "`dates_unavailable`, with the bookings in `conflicts`", body = Problem, content_type = "application/problem+json"),
        Problem,
    ),
)]
pub(crate) async fn create_block(
    State(api): App,
    _: Manages,
    Path(id): Path<String>,
    command: Command<BlockRequest>,
) -> Result<Response, ApiError> {
    let context = &command.context;
    let body = &command.body;
    let block_id = BlockId::from(context.derived_id("block"));
    let reason = body.reason.read("/reason")?;
    let run = async {
        let ids = (car_id(&api, &id).await?, block_id);
        let days = days(body.start_date, body.end_date)?;
        let done = api.rental.block(ids, days, &reason, body.force, context).await;
        let done = done.map_err(|error| rental_problem(error, true))?;
        let block = BlockDetail::of(ids, done.value.as_ref().ok_or_else(no_such_block)?);
        let answer = Answer::of(&block, done.position)?.tagged(block.tag());
        let answer = answer.made(format!("/v1/cars/{}/blocks/{block_id}", ids.0));
        Ok(answer.replayed(done.replayed))
    };
    Ok(command.once(&api, run).await?.into_response())
}

/// Gives a block. For admins and auditors.
#[utoipa::path(
    get, path = "/v1/cars/{id}/blocks/{block_id}", tag = "fleet", security(("token" = []), ("service_key" = ["fleet:read"])),
    params(
        ("id" = String, Path, description = "The car's id or slug"),
        ("block_id" = String, Path, description = "The block's id"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that you hold: answered 304 while it is current"),
    ),
    responses(
        (status = 200, description = "The block", body = BlockDetail, headers(
            ("ETag" = String, description = "For `If-Match` and `If-None-Match`"),
        )),
        (status = 304, description = "Unchanged"),
        Problem,
    ),
)]
pub(crate) async fn get_block(
    State(api): App,
    _: EmailReader,
    headers: HeaderMap,
    Path((id, block_id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let ids = (car_id(&api, &id).await?, block_id.parse().map_err(|_| no_such_block())?);
    // The view of calendars has no reasons, so this is the state that commands are decided on.
    let calendar = api.rental.calendar(ids.0).await.map_err(|error| rental_problem(error, true))?;
    let block = BlockDetail::of(ids, calendar.blocks.get(&ids.1).ok_or_else(no_such_block)?);
    view_answer(&headers, &block.tag(), block.position, json_body(&block)?, "MISS")
}

/// Unblocks days of a car. Staff.
#[utoipa::path(
    delete, path = "/v1/cars/{id}/blocks/{block_id}", tag = "fleet", security(("token" = []), ("service_key" = ["fleet:write"])),
    params(
        ("id" = String, Path, description = "The car's id or slug"),
        ("block_id" = String, Path, description = "The block's id"),
    ),
    responses(
        (status = 200, description = "The days are free", body = DeletedBlock),
        Problem,
    ),
)]
pub(crate) async fn delete_block(
    State(api): App,
    _: Manages,
    Path((id, block_id)): Path<(String, String)>,
    command: Command<EmptyBody>,
) -> Result<Response, ApiError> {
    let context = &command.context;
    let run = async {
        let ids = (car_id(&api, &id).await?, block_id.parse().map_err(|_| no_such_block())?);
        let done =
            api.rental.unblock(ids, context).await.map_err(|error| rental_problem(error, true))?;
        let gone = DeletedBlock {
            object: "block",
            id: ids.1.to_string(),
            car_id: ids.0.to_string(),
            deleted: true,
            position: done.position,
        };
        Ok(Answer::of(&gone, done.position)?.replayed(done.replayed))
    };
    Ok(command.once(&api, run).await?.into_response())
}
