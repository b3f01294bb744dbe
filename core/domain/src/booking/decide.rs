//! Commands about the bookings and blocks of one car, and the decisions on
//! them: each gives the events of the change, or the reason why it is rejected.

use super::{
    action::{Action, StatusRejection, allowed},
    calendar::{Calendar, Taken, TakenDay},
    event::{BlockChange, BlockEvent, BookingChange, BookingEvent, Customer},
    evolve::changed,
    payment::Payment,
    state::{AccessLink, Booking, Contract},
    status::Status,
};
use crate::{
    command::{Meta, Repeat},
    days::Days,
    fleet::Car,
    id::{BlockId, BookingId, CarId, CustomerId},
    personal::Personal,
    price::{Choices, Quote, QuoteError, quote},
    value::{
        DocumentReference, EmailAddress, Faults, HistoryName, HistorySummary, InvalidField, Note,
        PaymentReference, Reason, Rules, Valid, rules,
    },
};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

/// A request to change a car's bookings.
#[derive(Clone, Debug, PartialEq)]
pub enum BookingCommand {
    /// Hold days for a customer.
    Hold(NewBooking),
    /// Take a booking of the present product over.
    Import(Import),
    /// Change a booking.
    Change(BookingId, BookingAction),
}

/// A request for a new booking.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBooking {
    /// Its id: the same in every retry.
    pub id: BookingId,
    /// The customer that it is for.
    pub customer_id: CustomerId,
    /// The customer's name and address.
    pub customer: Valid<Customer>,
    /// The days of the rental.
    pub days: Days,
    /// The extras and locations.
    pub choices: Valid<Choices>,
    /// The time for which the days are held without payment.
    pub hold_for: TimeDelta,
    /// The link by which the customer will see it.
    pub link: Option<AccessLink>,
    /// A note for staff.
    pub note: Option<Note>,
    /// The total that the customer was shown.
    pub expected_total_cents: Option<i64>,
}

/// A booking of the present product, in our words.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// Its id there.
    pub id: BookingId,
    /// The customer that it is for.
    pub customer_id: CustomerId,
    /// The customer's name and address.
    pub customer: Valid<Customer>,
    /// The days of the rental.
    pub days: Days,
    /// The agreed price.
    pub quote: Valid<Quote>,
    /// The status.
    pub status: Status,
    /// The amounts paid.
    pub payment: Valid<Payment>,
    /// The time at which the captured amount was paid.
    pub paid_at: Option<DateTime<Utc>>,
    /// The state of the contract.
    pub contract: Contract,
    /// The time until which an unpaid one is held.
    pub hold_expires_at: Option<DateTime<Utc>>,
    /// The time at which it was made.
    pub created_at: DateTime<Utc>,
}

/// A change to one booking. An amount that is left out is the open amount.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "see Action")]
pub enum BookingAction {
    AuthorizePayment {
        amount_cents: Option<i64>,
        reference: Option<PaymentReference>,
    },
    CapturePayment {
        amount_cents: Option<i64>,
        reference: Option<PaymentReference>,
    },
    FailPayment {
        reason: Option<Reason>,
    },
    VoidPayment {
        reason: Option<Reason>,
    },
    RefundPayment {
        amount_cents: Option<i64>,
        reason: Option<Reason>,
    },
    SendContract {
        document: Option<DocumentReference>,
    },
    ViewContract,
    SignContract,
    DeclineContract {
        reason: Option<Reason>,
    },
    PickUp,
    Return {
        on: Option<NaiveDate>,
    },
    Complete,
    Cancel {
        reason: Option<Reason>,
    },
    NoShow {
        reason: Option<Reason>,
    },
    Dispute {
        reason: Option<Reason>,
    },
    ResolveDispute {
        status: Status,
        reason: Option<Reason>,
    },
    /// The choices do not change if they are left out.
    Reschedule {
        days: Days,
        choices: Option<Valid<Choices>>,
        expected_total_cents: Option<i64>,
    },
    Extend {
        last: NaiveDate,
        expected_total_cents: Option<i64>,
    },
    /// Expire the booking if its hold has ended by `meta.now`.
    Expire,
    AddNote {
        text: Note,
    },
    ChangeCustomer {
        customer_id: CustomerId,
        customer: Valid<Customer>,
    },
    IssueLink {
        link: AccessLink,
    },
    RevokeLinks,
    /// A line of the present product's history.
    ImportHistory {
        name: HistoryName,
        summary: HistorySummary,
    },
}

impl BookingAction {
    /// Returns the action that the request asks for.
    pub fn action(&self) -> Action {
        match self {
            Self::AuthorizePayment { .. } => Action::AuthorizePayment,
            Self::CapturePayment { .. } => Action::CapturePayment,
            Self::FailPayment { .. } => Action::FailPayment,
            Self::VoidPayment { .. } => Action::VoidPayment,
            Self::RefundPayment { .. } => Action::RefundPayment,
            Self::SendContract { .. } => Action::SendContract,
            Self::ViewContract => Action::ViewContract,
            Self::SignContract => Action::SignContract,
            Self::DeclineContract { .. } => Action::DeclineContract,
            Self::PickUp => Action::PickUp,
            Self::Return { .. } => Action::Return,
            Self::Complete => Action::Complete,
            Self::Cancel { .. } => Action::Cancel,
            Self::NoShow { .. } => Action::NoShow,
            Self::Dispute { .. } => Action::Dispute,
            Self::ResolveDispute { .. } => Action::ResolveDispute,
            Self::Reschedule { .. } => Action::Reschedule,
            Self::Extend { .. } => Action::Extend,
            Self::Expire => Action::Expire,
            Self::AddNote { .. } | Self::ImportHistory { .. } => Action::AddNote,
            Self::ChangeCustomer { .. } => Action::ChangeCustomer,
            Self::IssueLink { .. } => Action::IssueLink,
            Self::RevokeLinks => Action::RevokeLinks,
        }
    }
}

/// Reason why a command is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BookingRejection {
    /// The event at this position already executed this command.
    AlreadyDone(u64),
    /// Another command was executed under its id.
    KeyReused,
    /// There is no such car.
    NoSuchCar,
    /// The car cannot be booked, for this reason.
    NotBookable(&'static str),
    /// There is no such booking on this car.
    NoSuchBooking,
    /// The booking is on this car now.
    MovedTo(CarId),
    /// There is no such block.
    NoSuchBlock,
    /// The booking changed meanwhile: its last change is at this position.
    Stale(u64),
    /// The booking's status does not allow the action.
    WrongStatus {
        /// The requested action.
        action: Action,
        /// The booking's status.
        status: Status,
        /// A further reason, if the status alone does not explain it.
        because: Option<&'static str>,
        /// The actions that are allowed now.
        allowed: Vec<Action>,
    },
    /// The action is not allowed before the first day.
    TooEarly(NaiveDate),
    /// Another booking or a block takes the days.
    DaysTaken {
        /// The days that are taken.
        taken: Vec<TakenDay>,
        /// The next free range of the same length, on or after the first day.
        next_free: Option<Days>,
    },
    /// The first day is over, in the car's time zone.
    InThePast(NaiveDate),
    /// No price can be computed.
    NoQuote(QuoteError),
    /// The total differs from the one that the customer saw.
    PriceChanged {
        /// The total that the client expected.
        expected_cents: i64,
        /// The total now.
        total_cents: i64,
    },
    /// The command would change nothing.
    Unchanged,
    /// Parts of the command are invalid.
    Faulty(Vec<InvalidField>),
}

use BookingRejection as No;

/// Decides a command about a car's bookings: gives the event that it results
/// in. `car` is the car of the calendar; only a command that makes or changes a
/// price needs it.
///
/// # Errors
/// [`BookingRejection`].
pub fn decide(
    calendar: &Calendar,
    car: Option<&Car>,
    car_id: CarId,
    command: &BookingCommand,
    meta: &Meta,
) -> Result<BookingEvent, BookingRejection> {
    match command {
        BookingCommand::Hold(new) => {
            ensure_absent(calendar, new.id, meta)?;
            let car = bookable(car, meta)?;
            let quote = price(car, new.days, &new.choices, new.expected_total_cents, meta)?;
            free(calendar, new.days, None)?;
            let change = BookingChange::Held {
                customer: new.customer.clone().into_inner(),
                days: new.days,
                choices: new.choices.clone().into_inner(),
                quote,
                time_zone: car.profile.time_zone.clone(),
                hold_expires_at: Some(meta.now + new.hold_for),
                link: new.link.clone(),
                note: Personal(new.note.clone().map(String::from)),
            };
            event(None, (new.id, car_id, new.customer_id), change, meta)
        }
        BookingCommand::Import(import) => {
            ensure_absent(calendar, import.id, meta)?;
            let car = car.ok_or(No::NoSuchCar)?;
            let booking = imported(import, car);
            if let Some(days) = booking.occupied() {
                free(calendar, days, None)?;
            }
            let (booking, customer) = (Box::new(booking), import.customer.clone().into_inner());
            let change = BookingChange::Imported { booking, customer, paid_at: import.paid_at };
            event(None, (import.id, car_id, import.customer_id), change, meta)
        }
        BookingCommand::Change(id, act) => {
            let booking = find_booking(calendar, *id, meta)?;
            check(booking, act.action(), meta)?;
            let change = change(calendar, car, booking, act, meta)?;
            let customer_id = match act {
                BookingAction::ChangeCustomer { customer_id, .. } => *customer_id,
                _ => booking.customer_id,
            };
            event(Some(booking), (*id, car_id, customer_id), change, meta)
        }
    }
}

/// The event of a change, with the customer and status that result from it.
fn event(
    before: Option<&Booking>,
    (booking_id, car_id, customer_id): (BookingId, CarId, CustomerId),
    change: BookingChange,
    meta: &Meta,
) -> Result<BookingEvent, BookingRejection> {
    let mut event = BookingEvent {
        booking_id,
        car_id,
        customer_id,
        status: Status::PendingPayment,
        occupies: None,
        request_hash: Some(meta.request_hash.clone()),
        change,
    };
    let mut after =
        changed(before.cloned(), &event, meta.now).ok_or(BookingRejection::NoSuchBooking)?;
    after.status = after.status_after(&event.change);
    event.status = after.status;
    event.occupies = after.occupied();
    Ok(event)
}

fn change(
    calendar: &Calendar,
    car: Option<&Car>,
    booking: &Booking,
    act: &BookingAction,
    meta: &Meta,
) -> Result<BookingChange, BookingRejection> {
    Ok(match act {
        BookingAction::AuthorizePayment { amount_cents, reference } => {
            let open = booking.open_cents();
            let amount_cents = amount_cents.unwrap_or(open);
            within(amount_cents, open, open, "must be what is open")?;
            let currency = Some(booking.quote.currency.clone());
            let reference = reference.clone().map(String::from);
            BookingChange::PaymentAuthorized { amount_cents, currency, reference }
        }
        BookingAction::CapturePayment { amount_cents, reference } => {
            let most = booking.uncaptured_cents();
            let amount_cents = amount_cents.unwrap_or(most);
            within(amount_cents, 1, most, "must be at most what is not captured yet")?;
            let currency = booking.quote.currency.clone();
            let reference = reference.clone().map(String::from);
            let payers = booking.payment.captured_from(amount_cents, booking.customer_id);
            BookingChange::PaymentCaptured { amount_cents, currency, reference, payers }
        }
        BookingAction::FailPayment { reason } => {
            BookingChange::PaymentFailed { reason: reason.clone().map(String::from) }
        }
        BookingAction::VoidPayment { reason } => {
            let amount_cents = booking.payment.authorized_cents;
            let currency = Some(booking.quote.currency.clone());
            let reason = reason.clone().map(String::from);
            BookingChange::PaymentVoided { amount_cents, currency, reason }
        }
        BookingAction::RefundPayment { amount_cents, reason } => {
            let most = booking.refundable_cents();
            let amount_cents = amount_cents.unwrap_or(most);
            within(amount_cents, 1, most, "must be at most what can be refunded")?;
            let currency = booking.quote.currency.clone();
            let payers = booking.payment.refunded_to(amount_cents);
            let reason = reason.clone().map(String::from);
            BookingChange::PaymentRefunded { amount_cents, currency, reason, payers }
        }
        BookingAction::SendContract { document } => {
            BookingChange::ContractSent { document: document.clone().map(String::from) }
        }
        BookingAction::ViewContract => BookingChange::ContractViewed {},
        BookingAction::SignContract => BookingChange::ContractSigned {},
        BookingAction::DeclineContract { reason } => {
            BookingChange::ContractDeclined { reason: reason.clone().map(String::from) }
        }
        BookingAction::PickUp => BookingChange::PickedUp {},
        BookingAction::Return { on } => {
            let today = booking.today(meta.now).max(booking.days.first());
            let on = on.unwrap_or(today);
            if on < booking.days.first() || on > today {
                let detail = format!("must be from {} to {today}", booking.days.first());
                return Err(No::Faulty(vec![InvalidField::new("/returned_on", detail)]));
            }
            BookingChange::Returned { on }
        }
        BookingAction::Complete => BookingChange::Completed {},
        BookingAction::Cancel { reason } => {
            BookingChange::Cancelled { reason: reason.clone().map(String::from) }
        }
        BookingAction::NoShow { reason } => {
            BookingChange::NotShown { reason: reason.clone().map(String::from) }
        }
        BookingAction::Dispute { reason } => {
            BookingChange::Disputed { reason: reason.clone().map(String::from) }
        }
        BookingAction::ResolveDispute { status, reason } => {
            if !matches!(status, Status::Completed | Status::Cancelled) {
                let detail = "must be completed or cancelled";
                return Err(No::Faulty(vec![InvalidField::new("/status", detail)]));
            }
            BookingChange::DisputeResolved {
                outcome: *status,
                reason: reason.clone().map(String::from),
            }
        }
        BookingAction::Reschedule { days, choices, expected_total_cents } => {
            let choices = choices.as_deref().unwrap_or(&booking.choices);
            if *days == booking.days && *choices == booking.choices {
                return Err(unchanged(booking, *expected_total_cents));
            }
            let requested = (*days, choices);
            let quote = requote(calendar, car, booking, requested, *expected_total_cents, meta)?;
            BookingChange::Rescheduled { days: *days, choices: choices.clone(), quote }
        }
        BookingAction::Extend { last, expected_total_cents } => {
            let days = Days::inclusive(booking.days.first(), *last);
            let days = days.ok().filter(|_| *last > booking.days.last()).ok_or_else(|| {
                let detail = format!("must be after {}, the last day now", booking.days.last());
                No::Faulty(vec![InvalidField::new("/end_date", detail)])
            })?;
            let staff = Meta { by_staff: true, ..meta.clone() };
            let requested = (days, &booking.choices);
            let quote = requote(calendar, car, booking, requested, *expected_total_cents, &staff)?;
            BookingChange::Extended { days, quote }
        }
        BookingAction::Expire => {
            if booking.hold_expires_at.is_none_or(|at| meta.now < at) {
                return Err(wrong_status(
                    booking,
                    Action::Expire,
                    Some("the hold has not ended"),
                    meta,
                ));
            }
            BookingChange::Expired {}
        }
        BookingAction::AddNote { text } => {
            BookingChange::NoteAdded { text: Personal(text.to_string()) }
        }
        BookingAction::ChangeCustomer { customer, .. } => {
            let from_customer_id = booking.customer_id;
            let customer = customer.clone().into_inner();
            BookingChange::CustomerChanged { from_customer_id, customer }
        }
        BookingAction::IssueLink { link } => BookingChange::LinkIssued { link: link.clone() },
        BookingAction::RevokeLinks if booking.links.is_empty() => {
            return Err(BookingRejection::Unchanged);
        }
        BookingAction::RevokeLinks => BookingChange::LinksRevoked {},
        BookingAction::ImportHistory { name, summary } => BookingChange::HistoryImported {
            name: name.to_string(),
            summary: Personal(summary.to_string()),
        },
    })
}

/// Gives the two events that move a booking from the source's car to `car`,
/// whose calendar is the target. The log appends both or none. `keep_price`
/// keeps the agreed price.
///
/// # Errors
/// [`BookingRejection`].
pub fn decide_move(
    [source, target]: [&Calendar; 2],
    booking_id: BookingId,
    car: &Car,
    keep_price: bool,
    reason: Option<&Reason>,
    expected_total_cents: Option<i64>,
    meta: &Meta,
) -> Result<[BookingEvent; 2], BookingRejection> {
    let booking = find_booking(source, booking_id, meta)?;
    check(booking, Action::Move, meta)?;
    if booking.car_id == car.id {
        return Err(unchanged(booking, expected_total_cents));
    }
    bookable(Some(car), meta)?;
    let staff = Meta { by_staff: true, ..meta.clone() };
    let quote = if keep_price {
        as_expected(&booking.quote, expected_total_cents)?;
        booking.quote.clone()
    } else {
        price(car, booking.days, &booking.choices, expected_total_cents, &staff)?
    };
    in_paid_currency(booking, &quote)?;
    free(target, booking.days, None)?;
    let from_car_id = booking.car_id;
    let time_zone = car.profile.time_zone.clone();
    let moved = Booking { car_id: car.id, quote, time_zone, ..booking.clone() };
    let out = BookingChange::MovedOut { to_car_id: car.id };
    let reason = reason.map(Reason::to_string);
    let into = BookingChange::MovedIn { from_car_id, booking: Box::new(moved), reason };
    let customer_id = booking.customer_id;
    let out = event(Some(booking), (booking_id, from_car_id, customer_id), out, meta)?;
    let into = event(Some(booking), (booking_id, car.id, customer_id), into, meta)?;
    Ok([BookingEvent { occupies: None, ..out }, into])
}

/// Decides to move a booking to the car that it is on: this never changes
/// anything.
///
/// # Errors
/// Always: [`BookingRejection::Unchanged`], or the reason why it could not move.
pub fn decide_move_to_own_car(
    calendar: &Calendar,
    booking_id: BookingId,
    expected_total_cents: Option<i64>,
    meta: &Meta,
) -> BookingRejection {
    let booking = find_booking(calendar, booking_id, meta)
        .and_then(|booking| check(booking, Action::Move, meta).map(|()| booking));
    match booking {
        Ok(booking) => unchanged(booking, expected_total_cents),
        Err(rejection) => rejection,
    }
}

/// Decides a block: gives its event. It may cover a booking only with `force`.
///
/// # Errors
/// [`BookingRejection`].
pub fn decide_block(
    calendar: &Calendar,
    (car_id, block_id): (CarId, BlockId),
    days: Days,
    reason: &Reason,
    force: bool,
    meta: &Meta,
) -> Result<BlockEvent, BookingRejection> {
    ensure_not_repeated(calendar, meta)?;
    if let Some(block) = calendar.blocks.get(&block_id) {
        let same = block.days == days && block.reason == **reason;
        return Err(if same { No::AlreadyDone(block.position) } else { No::KeyReused });
    }
    if days.count() > LONGEST_BLOCK {
        let detail = format!("must be at most {LONGEST_BLOCK} days after start_date");
        return Err(No::Faulty(vec![InvalidField::new("/end_date", detail)]));
    }
    let taken = calendar.taken(days, None);
    let mut forced_over: Vec<_> = taken
        .iter()
        .filter_map(|day| match day.by {
            Taken::Held(id) | Taken::Booked(id) => Some(id),
            Taken::Blocked(_) => None,
        })
        .collect();
    forced_over.sort_unstable();
    forced_over.dedup();
    let blocked = taken.iter().any(|day| matches!(day.by, Taken::Blocked(_)));
    if blocked || !(force || taken.is_empty()) {
        return Err(No::DaysTaken { taken, next_free: None });
    }
    let change = BlockChange::Blocked { days, reason: reason.to_string(), forced_over };
    Ok(BlockEvent { car_id, block_id, request_hash: Some(meta.request_hash.clone()), change })
}

/// The longest block: three years.
const LONGEST_BLOCK: u32 = 1_096;

/// Decides the removal of a block: gives its event.
///
/// # Errors
/// [`BookingRejection`].
pub fn decide_unblock(
    calendar: &Calendar,
    (car_id, block_id): (CarId, BlockId),
    meta: &Meta,
) -> Result<BlockEvent, BookingRejection> {
    ensure_not_repeated(calendar, meta)?;
    let block = calendar.blocks.get(&block_id).ok_or(No::NoSuchBlock)?;
    if meta.is_stale(block.position) {
        return Err(No::Stale(block.position));
    }
    let request_hash = Some(meta.request_hash.clone());
    Ok(BlockEvent { car_id, block_id, request_hash, change: BlockChange::Unblocked {} })
}

fn ensure_not_repeated(calendar: &Calendar, meta: &Meta) -> Result<(), BookingRejection> {
    match meta.repeats(&calendar.commands) {
        None => Ok(()),
        Some(Repeat::Same(position)) => Err(No::AlreadyDone(position)),
        Some(Repeat::Other) => Err(No::KeyReused),
    }
}

/// Rejects the making of a booking that exists: `AlreadyDone` if this command
/// made it, else another rejection.
fn ensure_absent(calendar: &Calendar, id: BookingId, meta: &Meta) -> Result<(), BookingRejection> {
    if let Some(car_id) = calendar.moved.get(&id) {
        return Err(No::MovedTo(*car_id));
    }
    let made_by = |booking: &Booking| {
        booking.commands.first().is_some_and(|command| command.id == meta.command_id)
    };
    match calendar.bookings.get(&id) {
        Some(booking) => Err(match meta.repeats(&booking.commands) {
            Some(Repeat::Same(position)) => No::AlreadyDone(position),
            Some(Repeat::Other) => No::KeyReused,
            None => No::AlreadyDone(booking.position),
        }),
        None if calendar.bookings.values().any(|booking| made_by(booking))
            || calendar.made_moved.values().any(|made| *made == meta.command_id) =>
        {
            Err(No::KeyReused)
        }
        None => Ok(()),
    }
}

fn find_booking<'a>(
    calendar: &'a Calendar,
    id: BookingId,
    meta: &Meta,
) -> Result<&'a Booking, BookingRejection> {
    if let Some(car_id) = calendar.moved.get(&id) {
        return Err(No::MovedTo(*car_id));
    }
    let booking = calendar.bookings.get(&id).ok_or(No::NoSuchBooking)?;
    match meta.repeats(&booking.commands) {
        Some(Repeat::Same(position)) => Err(No::AlreadyDone(position)),
        Some(Repeat::Other) => Err(No::KeyReused),
        None if meta.is_stale(booking.position) => Err(No::Stale(booking.position)),
        None => Ok(booking),
    }
}

fn check(booking: &Booking, action: Action, meta: &Meta) -> Result<(), BookingRejection> {
    action.check(booking, booking.today(meta.now)).map_err(|refused| match refused {
        StatusRejection::TooEarly => No::TooEarly(booking.days.first()),
        StatusRejection::Status => wrong_status(booking, action, None, meta),
        StatusRejection::Because(because) => wrong_status(booking, action, Some(because), meta),
    })
}

fn wrong_status(
    booking: &Booking,
    action: Action,
    because: Option<&'static str>,
    meta: &Meta,
) -> BookingRejection {
    let allowed = allowed(booking, booking.today(meta.now));
    No::WrongStatus { action, status: booking.status, because, allowed }
}

fn bookable<'a>(car: Option<&'a Car>, meta: &Meta) -> Result<&'a Car, BookingRejection> {
    let car = car.ok_or(No::NoSuchCar)?;
    if car.archived {
        return Err(No::NotBookable("it has left the fleet"));
    }
    if !car.listed && !meta.by_staff {
        return Err(No::NoSuchCar);
    }
    if car.prices.is_none() {
        return Err(No::NotBookable("it has no price yet"));
    }
    Ok(car)
}

fn price(
    car: &Car,
    days: Days,
    choices: &Choices,
    expected_cents: Option<i64>,
    meta: &Meta,
) -> Result<Quote, BookingRejection> {
    let today = car.today(meta.now);
    if days.first() < today && !meta.by_staff {
        return Err(No::InThePast(today));
    }
    let prices = car.prices.as_ref().ok_or(No::NotBookable("it has no price yet"))?;
    let quote = quote(prices, days, choices).map_err(No::NoQuote)?;
    as_expected(&quote, expected_cents)?;
    Ok(quote)
}

fn as_expected(quote: &Quote, expected_cents: Option<i64>) -> Result<(), BookingRejection> {
    match expected_cents {
        Some(expected_cents) if expected_cents != quote.total_cents => {
            Err(No::PriceChanged { expected_cents, total_cents: quote.total_cents })
        }
        _ => Ok(()),
    }
}

/// The rejection of a command that would change nothing: its total is the one
/// agreed.
fn unchanged(booking: &Booking, expected_cents: Option<i64>) -> BookingRejection {
    as_expected(&booking.quote, expected_cents).err().unwrap_or(No::Unchanged)
}

/// Amounts of two currencies are never added: once something is paid, the
/// booking's currency stays.
fn in_paid_currency(booking: &Booking, quote: &Quote) -> Result<(), BookingRejection> {
    if quote.currency != booking.quote.currency && booking.payment.has_amounts() {
        return Err(No::NotBookable("its price is in another currency than what was paid"));
    }
    Ok(())
}

/// The price of other days of a booking, if those are free.
fn requote(
    calendar: &Calendar,
    car: Option<&Car>,
    booking: &Booking,
    (days, choices): (Days, &Choices),
    expected_cents: Option<i64>,
    meta: &Meta,
) -> Result<Quote, BookingRejection> {
    // A booking stays valid although its car is not offered any more.
    let staff = Meta { by_staff: true, ..meta.clone() };
    let car = bookable(car, &staff)?;
    let quote = price(car, days, choices, expected_cents, meta)?;
    in_paid_currency(booking, &quote)?;
    free(calendar, days, Some(booking.id))?;
    Ok(quote)
}

fn free(
    calendar: &Calendar,
    days: Days,
    except: Option<BookingId>,
) -> Result<(), BookingRejection> {
    let taken = calendar.taken(days, except);
    if taken.is_empty() {
        return Ok(());
    }
    Err(No::DaysTaken { taken, next_free: calendar.next_free(days, except) })
}

fn within(amount: i64, least: i64, most: i64, detail: &str) -> Result<(), BookingRejection> {
    if (least..=most).contains(&amount) {
        return Ok(());
    }
    let detail = format!("{detail}: {most}");
    Err(No::Faulty(vec![InvalidField::new("/amount_cents", detail)]))
}

impl Rules for Customer {
    fn apply(&mut self, faults: &mut Faults) {
        faults.optional_text::<rules::UserId>("/user_id", &mut self.user_id);
        let details = &mut self.details.0;
        if let Some(email) = faults.take("/email", EmailAddress::parse(&details.email)) {
            details.email = email.into();
        }
        faults.text::<rules::PersonName>("/first_name", &mut details.first_name);
        faults.text::<rules::PersonName>("/last_name", &mut details.last_name);
        let named = !(details.first_name.is_empty() && details.last_name.is_empty());
        faults.check(named, "/first_name", "must be given, or last_name");
        faults.optional_text::<rules::Phone>("/phone", &mut details.phone);
    }
}

fn imported(import: &Import, car: &Car) -> Booking {
    Booking {
        id: import.id,
        car_id: car.id,
        customer_id: import.customer_id,
        user_id: import.customer.user_id.clone(),
        days: import.days,
        returned_on: None,
        status: import.status,
        payment: import.payment.clone().into_inner(),
        contract: import.contract.clone(),
        choices: Choices::default(),
        quote: import.quote.clone().into_inner(),
        time_zone: car.profile.time_zone.clone(),
        hold_expires_at: import.hold_expires_at,
        links: Vec::new(),
        created_at: import.created_at,
        updated_at: import.created_at,
        position: 0,
        commands: Vec::new(),
    }
}
