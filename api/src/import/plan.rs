//! What the rows come to: the steps of an import, in our words.

use super::tables::{
    BookingColumns, CarColumns, CustomerColumns, DayColumns, EmailColumns, PricingColumns, Problem,
    Row, Tables,
};
use crate::desk::derived_uuid;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use exodrive_domain::{
    booking::{
        Act, BookingCommand, Contract, ContractStatus, Customer, CustomerDetails, Import, Payment,
        PaymentStatus, Status,
    },
    days::Days,
    email::EmailId,
    fleet::{FleetCommand, Image, NamedText, Profile},
    id::{BlockId, BookingId, CarId},
    personal::Personal,
    price::{Fee, Line, LineKind, PriceList, Quote},
    time,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
};

/// The steps of an import: what may be worked on at the same time by car,
/// stage after stage.
#[derive(Debug, Default)]
pub struct Plan {
    /// Each stage's steps, in order, by what they are about.
    pub stages: [BTreeMap<String, Vec<Step>>; 4],
    /// Rows that come to nothing.
    pub problems: Vec<Problem>,
    /// Rows that come to something else than they say.
    pub remarks: Vec<Problem>,
}

/// One command or fact.
#[derive(Clone, Debug)]
pub struct Step {
    /// Names it for ever.
    pub id: String,
    /// The rows that it is made of: table, line, id.
    pub rows: Vec<(&'static str, u64, String)>,
    /// The rows' content, to tell when they have changed.
    pub source: Value,
    /// When it happened, if the rows say.
    pub happened_at: Option<DateTime<Utc>>,
    /// Who did it, if the rows say.
    pub actor: Option<String>,
    /// What it does.
    pub command: StepCommand,
}

/// What a step does.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum StepCommand {
    Car(CarId, FleetCommand),
    Booking(CarId, BookingCommand),
    Block(CarId, BlockId, Days, String),
    Email(EmailId, Value),
}

const CARS: usize = 0;
const BOOKINGS: usize = 1;
const BLOCKS: usize = 2;
const HISTORY: usize = 3;

impl Plan {
    /// How many steps.
    pub fn len(&self) -> usize {
        self.stages.iter().flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&mut self, stage: usize, about: String, step: Step) {
        self.stages[stage].entry(about).or_default().push(step);
    }
}

/// What is wrong with a row.
type Fault = String;

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T, Fault> {
    text.trim().parse().map_err(|_| format!("{what} cannot be read: {text:?}"))
}

fn moment(what: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Fault> {
    let parse = |text: &str| {
        // Postgres writes a space, and offsets without minutes.
        let text = text.trim().replacen(' ', "T", 1);
        let with_minutes = format!("{text}:00");
        time::parse(&text)
            .or_else(|| time::parse(&with_minutes))
            .ok_or_else(|| format!("{what} is no time: {text:?}"))
    };
    text.map(parse).transpose()
}

fn flag(what: &str, text: Option<&str>, otherwise: bool) -> Result<bool, Fault> {
    match text.map(|text| text.trim().to_lowercase()).as_deref() {
        None => Ok(otherwise),
        Some("true" | "t" | "1") => Ok(true),
        Some("false" | "f" | "0") => Ok(false),
        Some(other) => Err(format!("{what} is neither true nor false: {other:?}")),
    }
}

/// Major units with at most two digits after the point, as cents.
fn cents(what: &str, text: &str) -> Result<i64, Fault> {
    let unsound = || format!("{what} is no amount: {text:?}");
    let (negative, digits) = match text.trim().strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.trim()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let part = part.trim_end_matches('0');
    let sound = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !sound(whole) || !sound(part) {
        return Err(unsound());
    }
    let cents: i64 = format!("{whole}{part:0<2}").parse().map_err(|_| unsound())?;
    Ok(if negative { -cents } else { cents })
}

/// A percentage, as basis points.
fn basis_points(what: &str, text: Option<&str>) -> Result<u32, Fault> {
    let points = text.map_or(Ok(0), |text| cents(what, text))?;
    u32::try_from(points).map_err(|_| format!("{what} is negative"))
}

/// The rows of a table by the car that they are of; a car's own order is kept.
fn by_car<'a, T>(
    rows: &'a [Row<T>],
    car_id: impl Fn(&T) -> &str,
) -> HashMap<String, Vec<&'a Row<T>>> {
    let mut found: HashMap<String, Vec<&Row<T>>> = HashMap::new();
    for row in rows {
        found.entry(car_id(&row.columns).to_owned()).or_default().push(row);
    }
    found
}

/// Makes the plan. `time_zone` is where the cars are; `now` decides what became
/// of unpaid bookings.
pub fn plan(tables: &Tables, time_zone: &str, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    plan_cars(tables, time_zone, &mut plan);
    let cars_of = plan_bookings(tables, now, &mut plan);
    plan_blocks(tables, &cars_of, &mut plan);
    plan_history(tables, &cars_of, &mut plan);
    plan_emails(tables, &mut plan);
    plan
}

fn plan_cars(tables: &Tables, time_zone: &str, plan: &mut Plan) {
    let specifications = by_car(&tables.car_specifications, |it| &it.car_id);
    let features = by_car(&tables.car_features, |it| &it.car_id);
    let images = by_car(&tables.car_images, |it| &it.car_id);
    let fees = by_car(&tables.car_additional_fees, |it| &it.car_id);
    let pricing = by_car(&tables.car_pricing, |it| &it.car_id);
    let known: HashMap<&str, ()> =
        tables.cars.iter().map(|car| (car.columns.id.as_str(), ())).collect();
    for row in &tables.cars {
        let id = &row.columns.id;
        let parts = CarParts {
            specifications: specifications.get(id).map_or(&[], Vec::as_slice),
            features: features.get(id).map_or(&[], Vec::as_slice),
            images: images.get(id).map_or(&[], Vec::as_slice),
            fees: fees.get(id).map_or(&[], Vec::as_slice),
            pricing: pricing.get(id).map_or(&[], Vec::as_slice),
        };
        if let Err(why) = plan_car(row, &parts, time_zone, plan) {
            plan.problems.push(problem("cars", row.line, id, why));
        }
    }
    macro_rules! orphans {
        ($($table:ident)*) => {$(
            for row in &tables.$table {
                if !known.contains_key(row.columns.car_id.as_str()) {
                    let why = format!("cars.csv has no car {}", row.columns.car_id);
                    let table = stringify!($table);
                    plan.problems.push(problem(table, row.line, &row.columns.id, why));
                }
            }
        )*};
    }
    orphans!(car_specifications car_features car_images car_additional_fees car_pricing);
}

struct CarParts<'a> {
    specifications: &'a [&'a Row<super::tables::SpecificationColumns>],
    features: &'a [&'a Row<super::tables::FeatureColumns>],
    images: &'a [&'a Row<super::tables::ImageColumns>],
    fees: &'a [&'a Row<super::tables::FeeColumns>],
    pricing: &'a [&'a Row<PricingColumns>],
}

fn problem(table: &str, line: u64, id: &str, why: impl Into<String>) -> Problem {
    Problem { table: table.to_owned(), line, id: id.to_owned(), why: why.into() }
}

fn plan_car(
    row: &Row<CarColumns>,
    parts: &CarParts<'_>,
    time_zone: &str,
    plan: &mut Plan,
) -> Result<(), Fault> {
    let car = &row.columns;
    let car_id: CarId = parse("id", &car.id)?;
    let happened_at = moment("created_at", car.created_at.as_deref())?;
    let available = flag("available", car.available.as_deref(), true)?;
    let featured = flag("featured", car.featured.as_deref(), false)?;
    let hidden = flag("hidden", car.hidden.as_deref(), false)?;
    let highlighted = |text: &Option<String>| flag("is_highlighted", text.as_deref(), false);
    let (mut rows, mut source) = (vec![("cars", row.line, car.id.clone())], vec![json!(car)]);
    let mut specifications = Vec::new();
    for row in parts.specifications {
        let it = &row.columns;
        let text = it.value.clone().unwrap_or_default();
        let name = it.name.clone();
        specifications.push(NamedText {
            name,
            text,
            highlighted: highlighted(&it.is_highlighted)?,
        });
        rows.push(("car_specifications", row.line, it.id.clone()));
        source.push(json!(it));
    }
    let mut features = Vec::new();
    for row in parts.features {
        let it = &row.columns;
        let text = it.description.clone().unwrap_or_default();
        let name = it.name.clone();
        features.push(NamedText { name, text, highlighted: highlighted(&it.is_highlighted)? });
        rows.push(("car_features", row.line, it.id.clone()));
        source.push(json!(it));
    }
    let profile = Profile {
        name: car.name.clone(),
        category: car.category.clone(),
        description: car.description.clone().unwrap_or_default(),
        short_description: car.short_description.clone().unwrap_or_default(),
        specifications,
        features,
        time_zone: time_zone.to_owned(),
    };
    let mut step = |what: &str, rows, source: Value, command| {
        let id = format!("cars-{}-{what}", car.id);
        let command = StepCommand::Car(car_id, command);
        let step = Step { id, rows, source, happened_at, actor: None, command };
        plan.push(CARS, car.id.clone(), step);
    };
    let add = FleetCommand::Add { car_id, slug: car.slug.clone(), profile };
    step("add", rows, json!(source), add);
    if let Some((prices, rows, source)) = prices(parts)? {
        step("price", rows, source, FleetCommand::Price(prices));
    }
    if let Some((images, rows, source)) = pictures(parts)? {
        step("images", rows, source, FleetCommand::SetImages(images));
    }
    // What these are made of is counted with the car.
    let priced = !parts.pricing.is_empty();
    if available && !hidden && priced {
        step("list", Vec::new(), json!("list"), FleetCommand::List);
    }
    if featured {
        step("feature", Vec::new(), json!("feature"), FleetCommand::Feature);
    }
    if hidden {
        let reason = Some("hidden in the product it came from".to_owned());
        step("archive", Vec::new(), json!("archive"), FleetCommand::Archive { reason });
    }
    if available && !hidden && !priced {
        let why = "has no price: it is not listed until it has one";
        plan.remarks.push(problem("cars", row.line, &car.id, why));
    }
    Ok(())
}

type Rows = Vec<(&'static str, u64, String)>;

fn prices(parts: &CarParts<'_>) -> Result<Option<(PriceList, Rows, Value)>, Fault> {
    let Some(row) = parts.pricing.last() else { return Ok(None) };
    let it = &row.columns;
    let mut rows: Rows =
        parts.pricing.iter().map(|row| ("car_pricing", row.line, row.columns.id.clone())).collect();
    let mut source = vec![json!(it)];
    let mut fees = Vec::new();
    for row in parts.fees {
        let fee = &row.columns;
        fees.push(Fee {
            id: fee.id.clone(),
            name: fee.name.clone(),
            amount_cents: cents("amount of a fee", &fee.amount)?,
            mandatory: !flag("is_optional of a fee", fee.is_optional.as_deref(), true)?,
        });
        rows.push(("car_additional_fees", row.line, fee.id.clone()));
        source.push(json!(fee));
    }
    let deposit = it.deposit_amount.as_deref();
    let minimum = it.minimum_days.as_deref();
    let prices = PriceList {
        currency: it.currency.clone().unwrap_or_else(|| "USD".to_owned()),
        base_per_day_cents: cents("base_price", &it.base_price)?,
        discount_basis_points: basis_points(
            "discount_percentage",
            it.discount_percentage.as_deref(),
        )?,
        offer_text: it.special_offer_text.clone(),
        deposit_cents: deposit.map(|text| cents("deposit_amount", text)).transpose()?,
        minimum_days: minimum.map(|text| parse("minimum_days", text)).transpose()?.unwrap_or(1),
        fees,
        ..PriceList::default()
    };
    Ok(Some((prices, rows, json!(source))))
}

fn pictures(parts: &CarParts<'_>) -> Result<Option<(Vec<Image>, Rows, Value)>, Fault> {
    if parts.images.is_empty() {
        return Ok(None);
    }
    let mut ordered = Vec::new();
    let (mut rows, mut source) = (Rows::new(), Vec::new());
    for row in parts.images {
        let it = &row.columns;
        let order: i64 = it.sort_order.as_deref().map_or(Ok(0), |it| parse("sort_order", it))?;
        let primary = flag("is_primary", it.is_primary.as_deref(), false)?;
        let alt = it.alt.clone().unwrap_or_default();
        ordered.push((order, Image { url: it.url.clone(), alt, primary }));
        rows.push(("car_images", row.line, it.id.clone()));
        source.push(json!(it));
    }
    ordered.sort_by_key(|(order, _)| *order);
    let mut images: Vec<_> = ordered.into_iter().map(|(_, image)| image).collect();
    // The present product holds nobody to exactly one.
    let primary = images.iter().position(|image| image.primary).unwrap_or(0);
    for (index, image) in images.iter_mut().enumerate() {
        image.primary = index == primary;
    }
    Ok(Some((images, rows, json!(source))))
}

/// Plans the bookings; gives the car of each.
fn plan_bookings(
    tables: &Tables,
    now: DateTime<Utc>,
    plan: &mut Plan,
) -> HashMap<String, (CarId, Days)> {
    let customers: HashMap<&str, &Row<CustomerColumns>> =
        tables.customers.iter().map(|row| (row.columns.id.as_str(), row)).collect();
    let mut paid: HashMap<&str, &str> = HashMap::new();
    for event in &tables.booking_events {
        if event.columns.event_type == "payment_captured" {
            paid.insert(&event.columns.booking_id, &event.columns.timestamp);
        }
    }
    let mut cars_of = HashMap::new();
    let mut with_booking: HashMap<&str, ()> = HashMap::new();
    for row in &tables.bookings {
        let it = &row.columns;
        let paid_at = paid.get(it.id.as_str()).copied();
        let planned = plan_booking(row, customers.get(it.customer_id.as_str()), paid_at, now, plan);
        match planned {
            Ok((car_id, days)) => {
                cars_of.insert(it.id.clone(), (car_id, days));
                with_booking.insert(&it.customer_id, ());
            }
            Err(why) => plan.problems.push(problem("bookings", row.line, &it.id, why)),
        }
    }
    for row in &tables.customers {
        if !with_booking.contains_key(row.columns.id.as_str()) {
            let why = "has no booking that was taken: a customer is known by his bookings";
            plan.problems.push(problem("customers", row.line, &row.columns.id, why));
        }
    }
    cars_of
}

fn plan_booking(
    row: &Row<BookingColumns>,
    customer: Option<&&Row<CustomerColumns>>,
    paid_at: Option<&str>,
    now: DateTime<Utc>,
    plan: &mut Plan,
) -> Result<(CarId, Days), Fault> {
    let it = &row.columns;
    let id: BookingId = parse("id", &it.id)?;
    let car_id: CarId = parse("car_id", &it.car_id)?;
    let customer_row =
        customer.ok_or_else(|| format!("customers.csv has no customer {}", it.customer_id))?;
    let known = &customer_row.columns;
    let first: NaiveDate = parse("start_date", &it.start_date)?;
    let last: NaiveDate = parse("end_date", &it.end_date)?;
    let days = Days::inclusive(first, last).map_err(|error| error.to_string())?;
    let total_cents = cents("total_price", &it.total_price)?;
    if total_cents < 0 {
        return Err("total_price is negative".to_owned());
    }
    let deposit = it.security_deposit_amount.as_deref();
    let deposit_cents = deposit.map_or(Ok(0), |text| cents("security_deposit_amount", text))?;
    let payment = payment(it.payment_status.as_deref().unwrap_or("pending"), total_cents)?;
    let contract = contract(it.contract_status.as_deref().unwrap_or("not_sent"))?;
    let said = status(&it.overall_status)?;
    let over = last < now.date_naive();
    let status = if said == Status::PendingPayment && over { Status::Expired } else { said };
    let created_at = moment("created_at", it.created_at.as_deref())?.unwrap_or(now);
    let customer = Customer {
        user_id: known.user_id.clone(),
        details: Personal(CustomerDetails {
            email: known.email.trim().to_owned(),
            first_name: known.first_name.clone().unwrap_or_default(),
            last_name: known.last_name.clone().unwrap_or_default(),
            phone: known.phone.clone(),
        }),
    };
    let import = Import {
        id,
        // The desk's secret decides it.
        customer_id: derived_uuid(&["customer", &known.id]).into(),
        customer,
        days,
        quote: Quote {
            price_list_version: 0,
            currency: it.currency.clone().unwrap_or_else(|| "USD".to_owned()),
            lines: vec![Line {
                kind: LineKind::Imported,
                label: format!("{} days as agreed", days.count()),
                quantity: 1,
                unit_cents: total_cents,
                amount_cents: total_cents,
            }],
            total_cents,
            deposit_cents,
        },
        status,
        payment,
        paid_at: moment("timestamp of payment_captured", paid_at)?,
        contract,
        // Staff have a day to see to those that nobody paid.
        hold_expires_at: (status == Status::PendingPayment).then(|| now + TimeDelta::days(1)),
        created_at,
    };
    remark(row, said, &import, plan);
    let about = it.car_id.clone();
    let mut rows = vec![("bookings", row.line, it.id.clone())];
    // A customer counts with the first booking.
    let already = plan.stages[BOOKINGS].values().flatten().any(|step| {
        step.rows.iter().any(|(table, _, id)| *table == "customers" && *id == known.id)
    });
    if !already {
        rows.push(("customers", customer_row.line, known.id.clone()));
    }
    let step = Step {
        id: format!("bookings-{}", it.id),
        rows,
        source: json!([it, known]),
        happened_at: Some(created_at),
        actor: None,
        command: StepCommand::Booking(car_id, BookingCommand::Import(import)),
    };
    plan.push(BOOKINGS, about.clone(), step);
    if let Some(notes) = &it.notes {
        let act = Act::AddNote { text: notes.clone() };
        let step = Step {
            id: format!("bookings-{}-notes", it.id),
            rows: Vec::new(),
            source: json!(notes),
            happened_at: Some(created_at),
            actor: None,
            command: StepCommand::Booking(car_id, BookingCommand::Act(id, act)),
        };
        plan.push(BOOKINGS, about, step);
    }
    Ok((car_id, days))
}

/// Says where a booking is taken as something else than the table says.
fn remark(row: &Row<BookingColumns>, said: Status, import: &Import, plan: &mut Plan) {
    let paid = matches!(import.payment.status, PaymentStatus::Authorized | PaymentStatus::Captured);
    let signed = import.contract.status == ContractStatus::Signed;
    let why = match (said, import.status) {
        (_, Status::Expired) => "was never paid and is over: taken as expired",
        (Status::PendingContract | Status::Upcoming, _) if !paid => {
            "has no payment: taken as pending_payment"
        }
        (Status::Upcoming, _) if !signed => "has no signed contract: taken as pending_contract",
        (Status::PendingPayment | Status::PendingContract, _) if paid && signed => {
            "is paid and signed: taken as upcoming"
        }
        (Status::PendingPayment, _) if paid => "is paid: taken as pending_contract",
        _ => return,
    };
    plan.remarks.push(problem("bookings", row.line, &row.columns.id, why));
}

fn status(text: &str) -> Result<Status, Fault> {
    Ok(match text {
        "pending_customer_action" | "pending_payment" => Status::PendingPayment,
        "pending_contract" | "contract_pending_signature" => Status::PendingContract,
        "upcoming" => Status::Upcoming,
        "active" => Status::Active,
        "post_rental_finalization" | "post_rental" => Status::Returned,
        "completed" => Status::Completed,
        "cancelled" | "failed" => Status::Cancelled,
        "disputed" => Status::Disputed,
        other => return Err(format!("overall_status is unknown: {other:?}")),
    })
}

fn payment(text: &str, total_cents: i64) -> Result<Payment, Fault> {
    let (status, authorized_cents, captured_cents, refunded_cents) = match text {
        "pending" | "none" => (PaymentStatus::Pending, 0, 0, 0),
        "authorized" => (PaymentStatus::Authorized, total_cents, 0, 0),
        "captured" | "paid" => (PaymentStatus::Captured, 0, total_cents, 0),
        "refunded" => (PaymentStatus::Refunded, 0, total_cents, total_cents),
        "voided" => (PaymentStatus::Voided, 0, 0, 0),
        "failed" => (PaymentStatus::Failed, 0, 0, 0),
        other => return Err(format!("payment_status is unknown: {other:?}")),
    };
    Ok(Payment { status, authorized_cents, captured_cents, refunded_cents })
}

fn contract(text: &str) -> Result<Contract, Fault> {
    let status = match text {
        "not_sent" | "pending" | "not_required" => ContractStatus::NotSent,
        "sent" => ContractStatus::Sent,
        "viewed" => ContractStatus::Viewed,
        "signed" => ContractStatus::Signed,
        "declined" | "voided" | "expired" => ContractStatus::Declined,
        other => return Err(format!("contract_status is unknown: {other:?}")),
    };
    Ok(Contract { status, document: None })
}

/// Days of bookings follow from the bookings; what is left is maintenance,
/// blocked day after day in one.
fn plan_blocks(tables: &Tables, cars_of: &HashMap<String, (CarId, Days)>, plan: &mut Plan) {
    let mut maintenance: BTreeMap<&str, BTreeMap<NaiveDate, &Row<DayColumns>>> = BTreeMap::new();
    for row in &tables.car_availability {
        let it = &row.columns;
        let refuse = |plan: &mut Plan, why: String| {
            plan.problems.push(problem("car_availability", row.line, &it.id, why));
        };
        let date: NaiveDate = match parse("date", &it.date) {
            Ok(date) => date,
            Err(why) => {
                refuse(plan, why);
                continue;
            }
        };
        match (it.status.as_str(), &it.booking_id) {
            ("maintenance", _) => {
                maintenance.entry(&it.car_id).or_default().insert(date, row);
            }
            ("available", _) => {
                let why = "a day is available unless something else is said";
                plan.remarks.push(problem("car_availability", row.line, &it.id, why));
            }
            ("booked" | "pending_confirmation", Some(booking_id)) => {
                match cars_of.get(booking_id) {
                    Some((car_id, days))
                        if days.contains(date) && car_id.to_string() == it.car_id =>
                    {
                        // Counted with its booking.
                        let about = it.car_id.clone();
                        let steps = plan.stages[BOOKINGS].get_mut(&about);
                        let id = format!("bookings-{booking_id}");
                        let step = steps.and_then(|it| it.iter_mut().find(|step| step.id == id));
                        if let Some(step) = step {
                            step.rows.push(("car_availability", row.line, it.id.clone()));
                        }
                    }
                    Some(_) => refuse(plan, format!("is no day of its booking {booking_id}")),
                    None => refuse(plan, format!("its booking {booking_id} was not taken")),
                }
            }
            ("booked" | "pending_confirmation", None) => {
                refuse(plan, "is booked by no booking".to_owned());
            }
            (other, _) => refuse(plan, format!("status is unknown: {other:?}")),
        }
    }
    for (car_id, days) in maintenance {
        plan_block(car_id, &days, plan);
    }
}

fn plan_block(car_id: &str, days: &BTreeMap<NaiveDate, &Row<DayColumns>>, plan: &mut Plan) {
    let mut ranges: Vec<Vec<(NaiveDate, &Row<DayColumns>)>> = Vec::new();
    for (date, row) in days {
        match ranges.last_mut() {
            Some(range) if range.last().and_then(|last| last.0.succ_opt()) == Some(*date) => {
                range.push((*date, row));
            }
            _ => ranges.push(vec![(*date, row)]),
        }
    }
    for range in ranges {
        let rows: Rows = range
            .iter()
            .map(|(_, row)| ("car_availability", row.line, row.columns.id.clone()))
            .collect();
        let (Some((first, _)), Some((last, _))) = (range.first(), range.last()) else { continue };
        let (Ok(car), Ok(days)) = (car_id.parse(), Days::inclusive(*first, *last)) else {
            for (table, line, id) in rows {
                plan.problems.push(problem(table, line, &id, "car_id or date cannot be read"));
            }
            continue;
        };
        let first = first.to_string();
        let block_id = BlockId::from(derived_uuid(&["import", "block", car_id, &first]));
        let reason = "Maintenance".to_owned();
        let step = Step {
            id: format!("car_availability-{car_id}-{first}"),
            rows,
            source: json!([car_id, days]),
            happened_at: None,
            actor: None,
            command: StepCommand::Block(car, block_id, days, reason),
        };
        plan.push(BLOCKS, car_id.to_owned(), step);
    }
}

fn plan_history(tables: &Tables, cars_of: &HashMap<String, (CarId, Days)>, plan: &mut Plan) {
    for row in &tables.booking_events {
        let it = &row.columns;
        let step = || {
            let (car_id, _) = cars_of
                .get(&it.booking_id)
                .ok_or_else(|| format!("its booking {} was not taken", it.booking_id))?;
            let happened_at = moment("timestamp", Some(&it.timestamp))?;
            let kind = it.actor_type.as_deref().unwrap_or("system");
            // A customer is told by his booking; a name here would be one more
            // place to forget him in.
            let actor = match (kind, &it.actor_id) {
                ("customer", _) | (_, None) => kind.to_owned(),
                (_, Some(id)) => format!("{kind}:{id}"),
            };
            let summary = it.summary_text.clone().unwrap_or_default();
            let act = Act::ImportHistory { name: it.event_type.clone(), summary };
            let booking_id = parse("booking_id", &it.booking_id)?;
            Ok::<_, Fault>(Step {
                id: format!("booking_events-{}", it.id),
                rows: vec![("booking_events", row.line, it.id.clone())],
                source: json!(it),
                happened_at,
                actor: Some(actor),
                command: StepCommand::Booking(*car_id, BookingCommand::Act(booking_id, act)),
            })
        };
        match step() {
            Ok(step) => plan.push(HISTORY, cars_of[&it.booking_id].0.to_string(), step),
            Err(why) => plan.problems.push(problem("booking_events", row.line, &it.id, why)),
        }
    }
}

fn plan_emails(tables: &Tables, plan: &mut Plan) {
    for row in &tables.inbox_emails {
        match reports(&row.columns) {
            Ok((email_id, reports)) => {
                let rows = vec![("inbox_emails", row.line, row.columns.id.clone())];
                for (n, (name, at, body)) in reports.into_iter().enumerate() {
                    let step = Step {
                        id: format!("inbox_emails-{}-{name}", row.columns.id),
                        rows: if n == 0 { rows.clone() } else { Vec::new() },
                        source: json!(row.columns),
                        happened_at: Some(at),
                        actor: None,
                        command: StepCommand::Email(email_id.clone(), body),
                    };
                    plan.push(HISTORY, email_id.to_string(), step);
                }
            }
            Err(why) => {
                plan.problems.push(problem("inbox_emails", row.line, &row.columns.id, why));
            }
        }
    }
}

/// What is known of an email, each told as its provider would: the last event,
/// and when it was opened and clicked.
fn reports(it: &EmailColumns) -> Result<(EmailId, Vec<(String, DateTime<Utc>, Value)>), Fault> {
    let email_id: EmailId = it
        .resend_email_id
        .parse()
        .map_err(|_| format!("resend_email_id is no id of an email: {:?}", it.resend_email_id))?;
    let created_at = moment("created_at", it.created_at.as_deref())?;
    let last_at = moment("last_event_at", it.last_event_at.as_deref())?
        .or(created_at)
        .ok_or("has neither last_event_at nor created_at")?;
    let kind = it.last_event_type.trim().trim_start_matches("email.").to_owned();
    let kind = if kind == "delivery_failed" { "failed".to_owned() } else { kind };
    let raw = it.raw_payload.as_deref().map(serde_json::from_str::<Value>);
    let raw = raw.transpose().map_err(|error| format!("raw_payload is no JSON: {error}"))?;
    let mut data = raw
        .as_ref()
        .and_then(|raw| raw.get("data").cloned())
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}));
    let mut tags = match it.tags.as_deref().map(serde_json::from_str::<Value>) {
        Some(Ok(tags)) => tags,
        Some(Err(error)) => return Err(format!("tags is no JSON: {error}")),
        None => data.get("tags").cloned().unwrap_or_else(|| json!({})),
    };
    if let (Some(booking_id), Some(tags)) = (&it.booking_id, tags.as_object_mut()) {
        tags.entry("booking_id").or_insert_with(|| booking_id.clone().into());
    }
    data["email_id"] = it.resend_email_id.clone().into();
    data["tags"] = tags;
    for (field, value) in [("from", &it.sender_email), ("subject", &it.subject)] {
        if data.get(field).is_none_or(Value::is_null) {
            data[field] = json!(value);
        }
    }
    if data.get("to").is_none_or(Value::is_null) {
        data["to"] = json!(it.recipient_email.iter().collect::<Vec<_>>());
    }
    if data.get("created_at").is_none_or(Value::is_null) {
        data["created_at"] = json!(created_at.as_ref().map(time::format));
    }
    if kind == "bounced" && data.get("bounce").is_none_or(Value::is_null) {
        let bounce = match it.bounce_type.as_deref() {
            Some("hard") => "Permanent",
            Some("soft") => "Transient",
            _ => "Undetermined",
        };
        data["bounce"] = json!({"type": bounce, "message": it.bounce_description});
    }
    let mut reports = Vec::new();
    let mut report = |kind: &str, at: DateTime<Utc>| {
        let name = format!("email.{kind}");
        let body = json!({"type": name, "created_at": time::format(&at), "data": data});
        reports.push((kind.to_owned(), at, body));
    };
    report(&kind, last_at);
    for (name, at) in [("opened", &it.opened_at), ("clicked", &it.clicked_at)] {
        if let Some(at) = moment(&format!("{name}_at"), at.as_deref())?
            && kind != name
        {
            report(name, at);
        }
    }
    Ok((email_id, reports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        let read = |text| cents("it", text);
        assert_eq!(read("1295.00"), Ok(129_500));
        assert_eq!(read("0.5"), Ok(50));
        assert_eq!(read("7"), Ok(700));
        assert_eq!(read("-0.01"), Ok(-1));
        assert_eq!(read("12.3400"), Ok(1_234));
        for unsound in ["", "1.005", "1,000", "1e3", "abc", ".5"] {
            assert!(read(unsound).is_err(), "{unsound}");
        }
        assert_eq!(basis_points("it", Some("12.5")), Ok(1_250));
    }

    #[test]
    fn times_are_read_as_postgres_writes_them() {
        let read = |text| moment("it", Some(text)).unwrap().unwrap();
        let at = time::parse("2026-05-01T10:00:00Z").unwrap();
        for text in ["2026-05-01T10:00:00Z", "2026-05-01 10:00:00+00", "2026-05-01 12:00:00+02:00"]
        {
            assert_eq!(read(text), at, "{text}");
        }
        assert!(moment("it", Some("yesterday")).is_err());
    }
}
