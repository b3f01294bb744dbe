//! A world of two cars, and stories about it: given, when, then. Every event
//! goes through JSON and [`decode`] before it is folded. Each event is searched
//! for personal data outside of the marked fields.

mod calendar;
mod holds;
mod moves;
mod pages;
mod payments;
mod price;
mod refused;
mod stories;

use super::{
    action::*, calendar::*, decide::*, event::*, hold::*, payment::*, state::*, status::*,
};
use crate::{
    Envelope, Event, Meta, Payload, Recorded,
    days::Days,
    decode,
    fleet::{Car, Profile},
    id::{BlockId, BookingId, CarId},
    personal::{MARK, Personal},
    price::{Choices, PriceList, Quote},
    value::{Reason, Rules, Text, TextRule, Valid},
};
use chrono::TimeDelta;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A name in every personal value of the stories, and in no other value.
const SECRET: &str = "Dana";
/// Ids of the two cars.
const CARS: [u128; 2] = [1, 2];
const DAY_CENTS: i64 = 100_000;

fn uuid(name: &str) -> Uuid {
    Uuid::from_u128(name.bytes().fold(0, |number, byte| number << 8 | u128::from(byte)))
}

fn booking_id(name: &str) -> BookingId {
    uuid(name).into()
}

fn block_id(name: &str) -> BlockId {
    uuid(name).into()
}

fn car_id(number: u128) -> CarId {
    Uuid::from_u128(number).into()
}

fn time(text: &str) -> DateTime<Utc> {
    crate::time::parse(text).unwrap()
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn days(first: &str, last: &str) -> Days {
    Days::inclusive(day(first), day(last)).unwrap()
}

fn customer(first_name: &str) -> Valid<Customer> {
    let details = CustomerDetails {
        email: format!("{SECRET}@example.com"),
        first_name: first_name.into(),
        last_name: SECRET.into(),
        phone: Some(format!("+1 555 {SECRET}")),
    };
    valid(Customer { user_id: None, details: Personal(details) })
}

fn valid<T: Rules + std::fmt::Debug>(value: T) -> Valid<T> {
    Valid::new(value).unwrap()
}

fn text<R: TextRule>(text: &str) -> Text<R> {
    text.parse().unwrap()
}

fn prices() -> PriceList {
    PriceList {
        version: 1,
        currency: "USD".into(),
        base_per_day_cents: DAY_CENTS,
        minimum_days: 1,
        ..PriceList::default()
    }
}

fn car(number: u128) -> Car {
    let profile = Profile {
        name: "Huracán".into(),
        category: "Supercar".into(),
        description: String::new(),
        short_description: String::new(),
        specifications: Vec::new(),
        features: Vec::new(),
        time_zone: "America/New_York".into(),
    };
    Car {
        id: car_id(number),
        slug: format!("huracan-{number}"),
        profile,
        prices: Some(prices()),
        images: Vec::new(),
        listed: true,
        featured: false,
        archived: false,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
        position: 0,
        commands: Vec::new(),
    }
}

/// A command, or an outside event in the world.
#[derive(Clone, Debug)]
struct Step {
    command: Command,
    car: u128,
    at: Option<DateTime<Utc>>,
    key: Option<(String, String)>,
    if_position: Option<u64>,
    by_staff: bool,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "almost every command is about a booking")]
enum Command {
    Booking(BookingCommand),
    Move { booking: BookingId, to: u128, keep_price: bool, expected_total_cents: Option<i64> },
    Block { block: BlockId, days: Days, reason: Reason, force: bool },
    Unblock(BlockId),
}

impl Step {
    fn new(command: Command) -> Self {
        Self { command, car: 1, at: None, key: None, if_position: None, by_staff: true }
    }

    fn on_car(self, car: u128) -> Self {
        Self { car, ..self }
    }

    fn at(self, text: &str) -> Self {
        Self { at: Some(time(text)), ..self }
    }

    /// The same step under a command id, with the hash of its request.
    fn under(self, id: &str, hash: &str) -> Self {
        Self { key: Some((id.into(), hash.into())), ..self }
    }

    fn if_position(self, position: u64) -> Self {
        Self { if_position: Some(position), ..self }
    }

    fn by_customer(self) -> Self {
        Self { by_staff: false, ..self }
    }

    fn forced(mut self) -> Self {
        if let Command::Block { force, .. } = &mut self.command {
            *force = true;
        }
        self
    }

    /// The total that the customer was shown.
    fn shown(mut self, cents: i64) -> Self {
        match &mut self.command {
            Command::Booking(BookingCommand::Hold(NewBooking { expected_total_cents, .. }))
            | Command::Booking(BookingCommand::Change(
                _,
                BookingAction::Reschedule { expected_total_cents, .. }
                | BookingAction::Extend { expected_total_cents, .. },
            ))
            | Command::Move { expected_total_cents, .. } => *expected_total_cents = Some(cents),
            _ => panic!("nothing is shown for {self:?}"),
        }
        self
    }
}

fn new_booking(name: &str, days: Days) -> NewBooking {
    NewBooking {
        id: booking_id(name),
        customer_id: uuid("customer").into(),
        customer: customer(SECRET),
        days,
        choices: valid(Choices::default()),
        hold_for: TimeDelta::hours(1),
        link: Some(link("first")),
        note: Some(text(&format!("{SECRET} comes late"))),
        expected_total_cents: None,
    }
}

fn link(hash: &str) -> AccessLink {
    AccessLink { hash: hash.into(), expires_at: time("2027-06-01T00:00:00Z") }
}

fn hold(name: &str, first: &str, last: &str) -> Step {
    Step::new(Command::Booking(BookingCommand::Hold(new_booking(name, days(first, last)))))
}

fn import(import: Import) -> Step {
    Step::new(Command::Booking(BookingCommand::Import(import)))
}

fn act(name: &str, act: BookingAction) -> Step {
    Step::new(Command::Booking(BookingCommand::Change(booking_id(name), act)))
}

fn authorize(name: &str) -> Step {
    act(name, BookingAction::AuthorizePayment { amount_cents: None, reference: Some(text("auth")) })
}

fn capture(name: &str, amount_cents: Option<i64>) -> Step {
    act(name, BookingAction::CapturePayment { amount_cents, reference: None })
}

fn refund(name: &str, amount_cents: Option<i64>) -> Step {
    act(name, BookingAction::RefundPayment { amount_cents, reason: None })
}

fn void(name: &str) -> Step {
    act(name, BookingAction::VoidPayment { reason: None })
}

fn send(name: &str) -> Step {
    act(name, BookingAction::SendContract { document: Some(text("document")) })
}

fn sign(name: &str) -> Step {
    act(name, BookingAction::SignContract)
}

fn pick_up(name: &str) -> Step {
    act(name, BookingAction::PickUp)
}

fn give_back(name: &str, on: Option<&str>) -> Step {
    act(name, BookingAction::Return { on: on.map(day) })
}

fn complete(name: &str) -> Step {
    act(name, BookingAction::Complete)
}

fn cancel(name: &str) -> Step {
    act(name, BookingAction::Cancel { reason: None })
}

fn expire(name: &str) -> Step {
    act(name, BookingAction::Expire)
}

fn dispute(name: &str) -> Step {
    act(name, BookingAction::Dispute { reason: None })
}

fn resolve(name: &str, status: Status) -> Step {
    act(name, BookingAction::ResolveDispute { status, reason: None })
}

fn reschedule(name: &str, first: &str, last: &str) -> Step {
    act(
        name,
        BookingAction::Reschedule {
            days: days(first, last),
            choices: None,
            expected_total_cents: None,
        },
    )
}

fn extend(name: &str, last: &str) -> Step {
    act(name, BookingAction::Extend { last: day(last), expected_total_cents: None })
}

fn move_to(to: u128, name: &str, keep_price: bool) -> Step {
    let booking = booking_id(name);
    Step::new(Command::Move { booking, to, keep_price, expected_total_cents: None })
}

fn block(name: &str, first: &str, last: &str) -> Step {
    let (block, days, reason) = (block_id(name), days(first, last), text("maintenance"));
    Step::new(Command::Block { block, days, reason, force: false })
}

fn unblock(name: &str) -> Step {
    Step::new(Command::Unblock(block_id(name)))
}

/// Two cars, their calendars, and everything that was recorded.
#[derive(Clone, Debug)]
struct World {
    cars: [Option<Car>; 2],
    calendars: [Calendar; 2],
    /// The open holds, folded from what each event says about them alone.
    holds: BTreeMap<BookingId, (CarId, DateTime<Utc>)>,
    now: DateTime<Utc>,
    position: u64,
    /// The types of all events so far.
    kinds: Vec<String>,
    /// The newest events, two for a move.
    newest: Vec<Payload>,
}

fn given(steps: impl IntoIterator<Item = Step>) -> World {
    let world = World {
        cars: CARS.map(|number| Some(car(number))),
        calendars: [Calendar::default(), Calendar::default()],
        holds: BTreeMap::new(),
        now: time("2026-12-01T17:00:00Z"),
        position: 0,
        kinds: Vec::new(),
        newest: Vec::new(),
    };
    world.and(steps)
}

impl World {
    fn and(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        for step in steps {
            let done = self.take(&step);
            assert_eq!(done, Ok(()), "{step:?}");
        }
        self
    }

    fn when(mut self, step: Step) -> Outcome {
        let result = self.take(&step);
        Outcome { world: self, step, result }
    }

    fn with_car(mut self, number: u128, change: impl FnOnce(&mut Car)) -> Self {
        change(self.cars[place(number)].as_mut().unwrap());
        self
    }

    fn booking(&self, name: &str) -> &Booking {
        let mut calendars = self.calendars.iter();
        calendars.find_map(|calendar| calendar.bookings.get(&booking_id(name))).unwrap()
    }

    fn taken(&self, car: u128, first: &str, last: &str) -> Vec<(String, Taken)> {
        let taken = self.calendars[place(car)].taken(days(first, last), None);
        taken.into_iter().map(|day| (day.date.to_string(), day.by)).collect()
    }

    fn take(&mut self, step: &Step) -> Result<(), BookingRejection> {
        self.now = step.at.unwrap_or(self.now);
        let default = || {
            let id = format!("command {}", self.position + 1);
            (id.clone(), format!("hash of {id}"))
        };
        let (command_id, request_hash) = step.key.clone().unwrap_or_else(default);
        let (now, by_staff) = (self.now, step.by_staff);
        let if_position = step.if_position.map(|position| vec![position]);
        let meta = Meta { command_id, request_hash, now, if_position, by_staff };
        self.newest = self.decide(step, &meta)?;
        for payload in self.newest.clone() {
            self.record(&payload, &meta);
        }
        assert_eq!(self.holds, self.holds_in_calendars(), "{step:?}");
        Ok(())
    }

    fn holds_in_calendars(&self) -> BTreeMap<BookingId, (CarId, DateTime<Utc>)> {
        let bookings = self.calendars.iter().flat_map(|calendar| calendar.bookings.values());
        let hold =
            |booking: &Booking| Some((booking.id, (booking.car_id, booking.hold_expires_at?)));
        bookings.filter_map(|booking| hold(booking)).collect()
    }

    fn decide(&self, step: &Step, meta: &Meta) -> Result<Vec<Payload>, BookingRejection> {
        let (here, id) = (place(step.car), car_id(step.car));
        let calendar = &self.calendars[here];
        Ok(match &step.command {
            Command::Booking(command) => {
                let car = self.cars[here].as_ref();
                vec![Payload::Booking(decide(calendar, car, id, command, meta)?)]
            }
            Command::Move { booking, to, keep_price, expected_total_cents } => {
                let calendars = [calendar, &self.calendars[place(*to)]];
                let car = self.cars[place(*to)].as_ref().unwrap();
                let reason = text("the other one is broken");
                let shown = *expected_total_cents;
                decide_move(calendars, *booking, car, *keep_price, Some(&reason), shown, meta)?
                    .map(Payload::Booking)
                    .into()
            }
            Command::Block { block, days, reason, force } => {
                let ids = (id, *block);
                vec![Payload::Block(decide_block(calendar, ids, *days, reason, *force, meta)?)]
            }
            Command::Unblock(block) => {
                vec![Payload::Block(decide_unblock(calendar, (id, *block), meta)?)]
            }
        })
    }

    /// Appends an event, reads it back and folds it.
    fn record(&mut self, payload: &Payload, meta: &Meta) {
        let (kind, on, json) = match payload {
            Payload::Booking(event) => {
                let json = serde_json::to_vec(event).unwrap();
                let on = match event.change {
                    BookingChange::MovedOut { to_car_id } if to_car_id == car_id(1) => car_id(2),
                    BookingChange::MovedOut { .. } => car_id(1),
                    _ => event.car_id,
                };
                (event.change.kind(), on, json)
            }
            Payload::Block(event) => {
                (event.change.kind(), event.car_id, serde_json::to_vec(event).unwrap())
            }
            _ => panic!("no event of a calendar"),
        };
        self.position += 1;
        let recorded = Recorded {
            position: self.position,
            subject: crate::Subject::Booking(on).to_string(),
            stored_at: meta.now,
            envelope: Envelope {
                id: meta.command_id.clone(),
                kind: kind.into(),
                version: crate::DECISION_VERSION,
                source: String::new(),
                time: meta.now,
                traceparent: None,
                causation: None,
                correlation: None,
                actor: None,
            },
            provider_headers: Vec::new(),
            body: json.into(),
            protection: None,
        };
        let read = decode(&recorded).unwrap();
        assert_eq!(read, *payload, "{kind} does not survive JSON");
        keeps_secrets(&recorded, &read);
        let calendar = &mut self.calendars[usize::from(on == car_id(2))];
        calendar.evolve(&Event { recorded: &recorded, payload: &read });
        if let Payload::Booking(event) = &read {
            match HoldUpdate::of(event) {
                HoldUpdate::Opened { car_id, ends_at } => {
                    self.holds.insert(event.booking_id, (car_id, ends_at));
                }
                HoldUpdate::Over => {
                    self.holds.remove(&event.booking_id);
                }
                HoldUpdate::Unchanged => {}
            }
        }
        self.kinds.push(kind.into());
    }
}

fn place(car: u128) -> usize {
    CARS.iter().position(|number| *number == car).unwrap()
}

/// Personal data is in no debug output, and in JSON only under its mark.
fn keeps_secrets(recorded: &Recorded, payload: &Payload) {
    fn unmarked(json: Value) -> Value {
        match json {
            Value::Object(object) if object.len() == 1 && object.contains_key(MARK) => Value::Null,
            Value::Object(object) => {
                object.into_iter().map(|(key, value)| (key, unmarked(value))).collect()
            }
            Value::Array(list) => list.into_iter().map(unmarked).collect(),
            other => other,
        }
    }
    let rest = unmarked(serde_json::from_slice(&recorded.body).unwrap()).to_string();
    assert!(!rest.contains(SECRET) && !rest.contains(MARK), "{rest}");
    assert!(!format!("{payload:?}").contains(SECRET));
}

/// The outcome of a step.
#[derive(Debug)]
struct Outcome {
    world: World,
    step: Step,
    result: Result<(), BookingRejection>,
}

impl Outcome {
    /// The command succeeded and its booking has this status.
    fn then(self, status: Status) -> World {
        assert_eq!(self.result, Ok(()), "{:?}", self.step);
        let id = match &self.step.command {
            Command::Booking(BookingCommand::Hold(new)) => new.id,
            Command::Booking(BookingCommand::Import(import)) => import.id,
            Command::Booking(BookingCommand::Change(id, _)) => *id,
            Command::Move { booking, .. } => *booking,
            _ => panic!("a block has no status"),
        };
        let mut calendars = self.world.calendars.iter();
        let booking = calendars.find_map(|calendar| calendar.bookings.get(&id)).unwrap();
        assert_eq!(booking.status, status, "{:?}", self.step);
        self.world
    }

    /// The command succeeded.
    fn then_done(self) -> World {
        assert_eq!(self.result, Ok(()), "{:?}", self.step);
        self.world
    }

    /// The command was rejected for this reason.
    fn then_rejected(self, refusal: BookingRejection) -> World {
        assert_eq!(self.result, Err(refusal), "{:?}", self.step);
        self.world
    }

    /// The command was rejected: not allowed in this status, for this further
    /// reason.
    fn then_wrong(self, because: impl Into<Option<&'static str>>) -> World {
        let Err(BookingRejection::WrongStatus { because: reported, .. }) = self.result else {
            panic!("{:?} came to {:?}", self.step, self.result)
        };
        assert_eq!(reported, because.into());
        self.world
    }

    /// The command was rejected: the field at this pointer is invalid.
    fn then_faulty(self, pointer: &str) -> World {
        let Err(BookingRejection::Faulty(faults)) = self.result else {
            panic!("{:?} came to {:?}", self.step, self.result)
        };
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].pointer, pointer);
        self.world
    }

    /// The command was rejected: these days are taken.
    fn then_taken(self, taken: &[(&str, Taken)], next_free: Option<Days>) -> World {
        let date = |(date, by): &(&str, Taken)| TakenDay { date: day(date), by: *by };
        let taken = taken.iter().map(date).collect();
        self.then_rejected(BookingRejection::DaysTaken { taken, next_free })
    }
}
