//! Plan for bookings, their customers, and their later events.

use super::{
    BOOKINGS, CellError, HISTORY, ImportCommand, Plan, Step, cents, moment, parse, problem, text,
};
use crate::{
    digest::derived_uuid,
    import::tables::{BookingColumns, CustomerColumns, Row, Tables},
};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use exodrive_domain::{
    booking::{
        BookingAction, BookingCommand, Contract, ContractStatus, Customer, CustomerDetails, Import,
        Payment, PaymentStatus, Status,
    },
    days::Days,
    id::{BookingId, CarId},
    personal::Personal,
    price::{Line, LineKind, Quote},
};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Plans the bookings. Returns the car of each booking.
pub(super) fn plan_bookings(
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
    let mut counted = HashSet::new();
    let mut with_booking: HashSet<&str> = HashSet::new();
    for row in &tables.bookings {
        let it = &row.columns;
        let paid_at = paid.get(it.id.as_str()).copied();
        let customer = customers.get(it.customer_id.as_str());
        let planned = plan_booking(row, customer, paid_at, now, &mut counted, plan);
        match planned {
            Ok((car_id, days)) => {
                cars_of.insert(it.id.clone(), (car_id, days));
                with_booking.insert(&it.customer_id);
            }
            Err(why) => plan.problems.push(problem("bookings", row.line, &it.id, why)),
        }
    }
    for row in &tables.customers {
        if !with_booking.contains(row.columns.id.as_str()) {
            let why = "has no booking that was taken: a customer is known by their bookings";
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
    counted: &mut HashSet<String>,
    plan: &mut Plan,
) -> Result<(CarId, Days), CellError> {
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
            first_name: text(known.first_name.as_ref()),
            last_name: text(known.last_name.as_ref()),
            phone: known.phone.clone(),
        }),
    };
    let import = Import {
        id,
        // The real id is derived from the link secret.
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
        // Staff have a day to decide about unpaid bookings.
        hold_expires_at: (status == Status::PendingPayment).then(|| now + TimeDelta::days(1)),
        created_at,
    };
    remark(row, said, &import, plan);
    let about = it.car_id.clone();
    let mut rows = vec![("bookings", row.line, it.id.clone())];
    // A customer is counted with their first booking.
    if counted.insert(known.id.clone()) {
        rows.push(("customers", customer_row.line, known.id.clone()));
    }
    let step = Step {
        id: format!("bookings-{}", it.id),
        rows,
        source: json!([it, known]),
        happened_at: Some(created_at),
        actor: None,
        command: ImportCommand::Booking(car_id, BookingCommand::Import(import)),
    };
    plan.push(BOOKINGS, about.clone(), step);
    if let Some(notes) = &it.notes {
        let act = BookingAction::AddNote { text: notes.clone() };
        let step = Step {
            id: format!("bookings-{}-notes", it.id),
            rows: Vec::new(),
            source: json!(notes),
            happened_at: Some(created_at),
            actor: None,
            command: ImportCommand::Booking(car_id, BookingCommand::Change(id, act)),
        };
        plan.push(BOOKINGS, about, step);
    }
    Ok((car_id, days))
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
    plan.remarks.push(problem("bookings", row.line, &row.columns.id, why));
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

pub(super) fn plan_history(
    tables: &Tables,
    cars_of: &HashMap<String, (CarId, Days)>,
    plan: &mut Plan,
) {
    for row in &tables.booking_events {
        let it = &row.columns;
        let step = || {
            let (car_id, _) = cars_of
                .get(&it.booking_id)
                .ok_or_else(|| format!("its booking {} was not taken", it.booking_id))?;
            let happened_at = moment("timestamp", Some(&it.timestamp))?;
            let kind = it.actor_type.as_deref().unwrap_or("system");
            // The booking already says who the customer is. A name here would
            // be one more place to erase.
            let actor = match (kind, &it.actor_id) {
                ("customer", _) | (_, None) => kind.to_owned(),
                (_, Some(id)) => format!("{kind}:{id}"),
            };
            let summary = text(it.summary_text.as_ref());
            let act = BookingAction::ImportHistory { name: it.event_type.clone(), summary };
            let booking_id = parse("booking_id", &it.booking_id)?;
            Ok::<_, CellError>(Step {
                id: format!("booking_events-{}", it.id),
                rows: vec![("booking_events", row.line, it.id.clone())],
                source: json!(it),
                happened_at,
                actor: Some(actor),
                command: ImportCommand::Booking(*car_id, BookingCommand::Change(booking_id, act)),
            })
        };
        match step() {
            Ok(step) => plan.push(HISTORY, cars_of[&it.booking_id].0.to_string(), step),
            Err(why) => plan.problems.push(problem("booking_events", row.line, &it.id, why)),
        }
    }
}
