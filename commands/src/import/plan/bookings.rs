//! Plan for bookings, their customers, and their later events.

use super::{
    BOOKINGS, CellError, HISTORY, ImportCommand, Parents, Plan, Step, amount, cars::PlannedCar,
    currency, day, moment, optional, parent_refused, parents, parse, row_ref, valid, word,
};
use crate::{
    digest::derived_uuid,
    import::tables::{BookingColumns, CustomerColumns, EventColumns, Row, Tables, key},
};
use chrono::{DateTime, TimeDelta, Utc};
use exodrive_domain::{
    booking::{
        BookingAction, BookingCommand, Contract, ContractStatus, Customer, CustomerDetails, Import,
        Payment, PaymentStatus, Status,
    },
    days::Days,
    id::{BookingId, CarId},
    personal::Personal,
    price::{Line, LineKind, Quote},
    value::{InvalidValue, Valid},
};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// A booking that is planned.
pub(super) struct PlannedBooking {
    pub id: BookingId,
    pub car_id: CarId,
    pub days: Days,
    /// The step that makes it, and its place among those about its car.
    pub made_by: String,
    pub place: usize,
}

/// A customer, and the row that they are in.
struct KnownCustomer<'a> {
    row: &'a Row<CustomerColumns>,
    customer: Valid<Customer>,
}

/// Plans the bookings with their customers. Returns what became of each booking.
pub(super) fn plan_bookings(
    tables: &Tables,
    cars: &Parents<PlannedCar>,
    now: DateTime<Utc>,
    plan: &mut Plan,
) -> Parents<PlannedBooking> {
    let mut customers = parents(tables, "customers", "customer");
    for row in &tables.customers {
        let customer = read_customer(&row.columns).map_err(|why| {
            plan.refuse("customers", row, &row.columns.id, &why);
            parent_refused("customer", "customers", row.line, &why)
        });
        customers.insert(row.key.clone(), customer.map(|customer| KnownCustomer { row, customer }));
    }
    let mut paid: HashMap<String, &str> = HashMap::new();
    for event in &tables.booking_events {
        if event.columns.event_type == "payment_captured" {
            paid.insert(key(&event.columns.booking_id), &event.columns.timestamp);
        }
    }
    let mut bookings = parents(tables, "bookings", "booking");
    let mut with_booking: HashSet<u64> = HashSet::new();
    for row in &tables.bookings {
        let paid_at = paid.get(&row.key).copied();
        let planned = plan_booking(row, &customers, cars, paid_at, now, plan);
        let planned = planned.map(|(booking, customer_line)| {
            with_booking.insert(customer_line);
            booking
        });
        let planned = planned.map_err(|why| {
            plan.refuse("bookings", row, &row.columns.id, &why);
            parent_refused("booking", "bookings", row.line, &why)
        });
        bookings.insert(row.key.clone(), planned);
    }
    for row in &tables.customers {
        if !with_booking.contains(&row.line) && customers.get(&row.key).is_some_and(Result::is_ok) {
            let why = "has no booking that was taken: a customer is known by their bookings";
            plan.refuse("customers", row, &row.columns.id, why);
        }
    }
    bookings
}

fn read_customer(it: &CustomerColumns) -> Result<Valid<Customer>, CellError> {
    let name = |cell: &Option<String>| cell.clone().unwrap_or_default();
    valid(Customer {
        user_id: it.user_id.clone(),
        details: Personal(CustomerDetails {
            email: it.email.clone(),
            first_name: name(&it.first_name),
            last_name: name(&it.last_name),
            phone: it.phone.clone(),
        }),
    })
}

/// Plans a booking. Returns it with the line of its customer.
fn plan_booking(
    row: &Row<BookingColumns>,
    customers: &Parents<KnownCustomer<'_>>,
    cars: &Parents<PlannedCar>,
    paid_at: Option<&str>,
    now: DateTime<Utc>,
    plan: &mut Plan,
) -> Result<(PlannedBooking, u64), CellError> {
    let it = &row.columns;
    let id: BookingId = parse("id", &it.id)?;
    let car_id: CarId = parse("car_id", &it.car_id)?;
    // A car that is in no file may be in this system: the decision says so.
    let car = cars.get(&key(&it.car_id)).map(Result::as_ref).transpose()?;
    let known = customers
        .get(&key(&it.customer_id))
        .ok_or_else(|| format!("customers.csv has no customer {}", it.customer_id))?
        .as_ref()?;
    let first = day("start_date", &it.start_date)?;
    let last = day("end_date", &it.end_date)?;
    let days = Days::inclusive(first, last).map_err(|error| error.to_string())?;
    let currency = currency(it.currency.as_ref())?;
    let total_cents = amount("total_price", &it.total_price, &currency)?;
    let deposit = it.security_deposit_amount.as_deref();
    let deposit_cents =
        deposit.map_or(Ok(0), |text| amount("security_deposit_amount", text, &currency))?;
    let payment = payment(it.payment_status.as_deref().unwrap_or("pending"), total_cents)?;
    let contract = contract(it.contract_status.as_deref().unwrap_or("not_sent"))?;
    let said = status(&it.overall_status)?;
    let over = last < now.date_naive();
    let status = if said == Status::PendingPayment && over { Status::Expired } else { said };
    let created_at = moment("created_at", it.created_at.as_deref())?.unwrap_or(now);
    let import = Import {
        id,
        // The real id is found by the address.
        customer_id: derived_uuid(&["customer", &known.row.columns.id]).into(),
        customer: known.customer.clone(),
        days,
        quote: valid(Quote {
            price_list_version: 0,
            currency,
            lines: vec![Line {
                kind: LineKind::Imported,
                label: format!("{} days as agreed", days.count()),
                quantity: 1,
                unit_cents: total_cents,
                amount_cents: total_cents,
            }],
            total_cents,
            deposit_cents,
        })?,
        status,
        payment: valid(payment)?,
        paid_at: moment("timestamp of payment_captured", paid_at)?,
        contract,
        // Staff have a day to decide about unpaid bookings.
        hold_expires_at: (status == Status::PendingPayment).then(|| now + TimeDelta::days(1)),
        created_at,
    };
    let notes = optional("notes", it.notes.as_ref())?;
    remark(row, said, &import, plan);
    let (about, made_by) = (car_id.to_string(), format!("bookings-{}", it.id.trim()));
    let step = Step {
        id: made_by.clone(),
        rows: vec![row_ref("bookings", row), row_ref("customers", known.row)],
        needs: car.map(|car| ("car", car.added_by.clone())),
        part: None,
        source: json!([it, known.row.columns]),
        happened_at: Some(created_at),
        actor: None,
        command: ImportCommand::Booking(car_id, BookingCommand::Import(import)),
    };
    let place = plan.push(BOOKINGS, about.clone(), step);
    if let Some(text) = notes {
        let step = Step {
            id: format!("{made_by}-notes"),
            rows: vec![row_ref("bookings", row)],
            needs: Some(("booking", made_by.clone())),
            part: Some("its note"),
            source: json!(it.notes),
            happened_at: Some(created_at),
            actor: None,
            command: ImportCommand::Booking(
                car_id,
                BookingCommand::Change(id, BookingAction::AddNote { text }),
            ),
        };
        plan.push(BOOKINGS, about, step);
    }
    Ok((PlannedBooking { id, car_id, days, made_by, place }, known.row.line))
}

/// Adds a remark if a booking is taken with another status than the table has.
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
    plan.remark("bookings", row, &row.columns.id, why);
}

fn status(text: &str) -> Result<Status, CellError> {
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

fn payment(text: &str, total_cents: i64) -> Result<Payment, CellError> {
    let (status, authorized_cents, captured_cents, refunded_cents) = match text {
        "pending" | "none" => (PaymentStatus::Pending, 0, 0, 0),
        "authorized" => (PaymentStatus::Authorized, total_cents, 0, 0),
        "captured" | "paid" => (PaymentStatus::Captured, 0, total_cents, 0),
        "refunded" => (PaymentStatus::Refunded, 0, total_cents, total_cents),
        "voided" => (PaymentStatus::Voided, 0, 0, 0),
        "failed" => (PaymentStatus::Failed, 0, 0, 0),
        other => return Err(format!("payment_status is unknown: {other:?}")),
    };
    let payers = Vec::new();
    Ok(Payment { status, authorized_cents, captured_cents, refunded_cents, payers })
}

fn contract(text: &str) -> Result<Contract, CellError> {
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

/// Plans what happened to the bookings later.
pub(super) fn plan_history(tables: &Tables, bookings: &Parents<PlannedBooking>, plan: &mut Plan) {
    for row in &tables.booking_events {
        let booking = match bookings.get(&key(&row.columns.booking_id)) {
            Some(booking) => booking.as_ref().map_err(String::clone),
            None => Err(format!("bookings.csv has no booking {}", row.columns.booking_id)),
        };
        let planned = booking.and_then(|it| Ok((it.car_id, event(row, it)?)));
        match planned {
            Ok((car_id, step)) => {
                plan.push(HISTORY, car_id.to_string(), step);
            }
            Err(why) => plan.refuse("booking_events", row, &row.columns.id, why),
        }
    }
}

fn event(row: &Row<EventColumns>, booking: &PlannedBooking) -> Result<Step, CellError> {
    let it = &row.columns;
    let happened_at = moment("timestamp", Some(&it.timestamp))?;
    let kind = it.actor_type.as_deref().map_or(Ok("system"), |kind| word("actor_type", kind))?;
    // The booking already says who the customer is. A name here would be one
    // more place to erase.
    let actor = match (kind, &it.actor_id) {
        ("customer", _) | (_, None) => kind.to_owned(),
        (_, Some(id)) => format!("{kind}:{}", word("actor_id", id)?),
    };
    let fault = |what: &str, fault: InvalidValue| format!("{what} {fault}");
    let act = BookingAction::ImportHistory {
        name: it.event_type.parse().map_err(|it| fault("event_type", it))?,
        summary: it
            .summary_text
            .as_deref()
            .unwrap_or("")
            .parse()
            .map_err(|it| fault("summary_text", it))?,
    };
    Ok(Step {
        id: format!("booking_events-{}", it.id.trim()),
        rows: vec![row_ref("booking_events", row)],
        needs: Some(("booking", booking.made_by.clone())),
        part: None,
        source: json!(it),
        happened_at,
        actor: Some(actor),
        command: ImportCommand::Booking(booking.car_id, BookingCommand::Change(booking.id, act)),
    })
}
