//! Bookings: one state machine, and the calendar of a car, on which no day is
//! given twice.

mod decide;
mod event;
mod status;
#[cfg(test)]
mod tests;

pub use decide::{
    BookingAction, BookingCommand, BookingRejection, Import, NewBooking, Taken, TakenDay, decide,
    decide_block, decide_move, decide_unblock,
};
pub use event::{BlockChange, BlockEvent, BookingChange, BookingEvent, Customer, CustomerDetails};
pub use status::{
    Action, ContractStatus, PaymentStatus, Status, StatusError, StatusRejection, allowed, table,
};

use crate::{
    CommandRecord, Event, Payload, Recorded,
    command::remember,
    days::Days,
    id::{BlockId, BookingId, CarId, CustomerId},
    price::{Choices, Quote},
    time::serde_micros,
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// A booking, folded from its events, without personal data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Booking {
    /// Its id.
    pub id: BookingId,
    /// The car.
    pub car_id: CarId,
    /// The booking's customer.
    pub customer_id: CustomerId,
    /// The account that it belongs to, if any.
    pub user_id: Option<String>,
    /// The days rented and charged.
    pub days: Days,
    /// The day on which the car came back; the days after it are free.
    pub returned_on: Option<NaiveDate>,
    /// The status.
    pub status: Status,
    /// The amounts paid.
    pub payment: Payment,
    /// The state of the contract.
    pub contract: Contract,
    /// The chosen extras and locations.
    #[serde(default)]
    pub choices: Choices,
    /// The price agreed.
    pub quote: Quote,
    /// The time zone of the car's place (IANA).
    pub time_zone: String,
    /// The time until which the days are held without payment.
    #[serde(with = "serde_micros::option")]
    pub hold_expires_at: Option<DateTime<Utc>>,
    /// The links by which the customer sees the booking.
    pub links: Vec<AccessLink>,
    /// The time at which it was made.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// The time of its last change.
    #[serde(with = "serde_micros")]
    pub updated_at: DateTime<Utc>,
    /// The position that last changed it.
    pub position: u64,
    /// The executed commands that are remembered.
    pub commands: Vec<CommandRecord>,
}

/// The amounts paid, in cents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The state in one word.
    pub status: PaymentStatus,
    /// Authorized at the provider and not captured.
    pub authorized_cents: i64,
    /// Captured.
    pub captured_cents: i64,
    /// Refunded.
    pub refunded_cents: i64,
}

/// The contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// The state in one word.
    pub status: ContractStatus,
    /// Its id at the signing provider.
    pub document: Option<String>,
}

/// A link by which a customer without an account sees a booking. Only its hash
/// is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLink {
    /// SHA-256 of the token, in hexadecimal.
    pub hash: String,
    /// The time at which it ends.
    #[serde(with = "serde_micros")]
    pub expires_at: DateTime<Utc>,
}

impl Payment {
    /// A payment of 0.
    pub fn none() -> Self {
        let status = PaymentStatus::Pending;
        Self { status, authorized_cents: 0, captured_cents: 0, refunded_cents: 0 }
    }

    fn settle(&mut self, otherwise: PaymentStatus) {
        self.status = if self.kept_cents() > 0 {
            PaymentStatus::Captured
        } else if self.authorized_cents > 0 {
            PaymentStatus::Authorized
        } else if self.captured_cents > 0 {
            PaymentStatus::Refunded
        } else {
            otherwise
        };
    }

    fn kept_cents(&self) -> i64 {
        self.captured_cents - self.refunded_cents
    }
}

impl Booking {
    /// The days that no other booking can take; `None` if it has given them up.
    pub fn occupied(&self) -> Option<Days> {
        match (self.status, self.returned_on) {
            (Status::Cancelled | Status::Expired, _) => None,
            (_, Some(last)) => Some(self.days.cut_after(last)),
            (_, None) => Some(self.days),
        }
    }

    /// The part of the price that is neither captured nor authorized; negative
    /// if too much was paid.
    pub fn open_cents(&self) -> i64 {
        match self.status {
            Status::Cancelled | Status::Expired => 0,
            _ => self.uncaptured_cents() - self.payment.authorized_cents,
        }
    }

    /// The part of the price that is not captured. Zero if no payment is due
    /// any more: the booking is cancelled or expired, or all was refunded after
    /// the rental.
    pub fn uncaptured_cents(&self) -> i64 {
        let given_back = self.payment.status == PaymentStatus::Refunded;
        match self.status {
            // A fee for cancelling late is taken from the authorized amount.
            Status::Cancelled => self.payment.authorized_cents,
            Status::Expired => 0,
            Status::Returned | Status::Completed | Status::Disputed if given_back => 0,
            _ => self.quote.total_cents - self.payment.kept_cents(),
        }
    }

    /// The amount that may be refunded. While the rental can take place, this
    /// is only the amount that was paid too much.
    pub fn refundable_cents(&self) -> i64 {
        let kept = self.payment.kept_cents();
        match self.status {
            status if status.is_before_rental() => kept - self.quote.total_cents,
            Status::Active => kept - self.quote.total_cents,
            _ => kept,
        }
    }

    /// The current day in the car's time zone.
    pub fn today(&self, now: DateTime<Utc>) -> NaiveDate {
        crate::fleet::today(&self.time_zone, now)
    }

    /// The link that has this hash and has not ended.
    pub fn link(&self, hash: &str, now: DateTime<Utc>) -> Option<&AccessLink> {
        self.links.iter().find(|link| link.hash == hash && now < link.expires_at)
    }

    /// The status after a change. The booking already has every other effect of
    /// the change.
    fn status_after(&self, change: &BookingChange) -> Status {
        let nothing_captured = self.payment.captured_cents == 0;
        match change {
            BookingChange::Expired {} => Status::Expired,
            BookingChange::Cancelled { .. } | BookingChange::NotShown { .. } => Status::Cancelled,
            BookingChange::PaymentVoided { .. }
                if self.status.is_before_rental() && nothing_captured =>
            {
                Status::Cancelled
            }
            BookingChange::PickedUp {} => Status::Active,
            BookingChange::Returned { .. } if self.status == Status::Disputed => self.status,
            BookingChange::Returned { .. } => Status::Returned,
            BookingChange::Completed {} => Status::Completed,
            BookingChange::Disputed { .. } => Status::Disputed,
            BookingChange::DisputeResolved { outcome, .. } => *outcome,
            _ if self.status.is_before_rental() => self.status_before_rental(),
            _ => self.status,
        }
    }

    /// The status before the rental; payment and contract together determine it.
    fn status_before_rental(&self) -> Status {
        let paid =
            matches!(self.payment.status, PaymentStatus::Authorized | PaymentStatus::Captured)
                || self.quote.total_cents == 0;
        match (paid, self.contract.status) {
            (false, _) => Status::PendingPayment,
            (true, ContractStatus::Signed) => Status::Upcoming,
            (true, _) => Status::PendingContract,
        }
    }
}

/// The booking after an event of its.
pub fn evolve(
    booking: Option<Booking>,
    event: &BookingEvent,
    recorded: &Recorded,
) -> Option<Booking> {
    let at = recorded.envelope.time;
    let mut booking = changed(booking, event, at)?;
    booking.status = event.status;
    if event.status != Status::PendingPayment {
        booking.hold_expires_at = None;
    }
    booking.customer_id = event.customer_id;
    booking.updated_at = booking.updated_at.max(at);
    booking.position = recorded.position;
    remember(&mut booking.commands, event.request_hash.as_deref(), recorded);
    Some(booking)
}

/// The booking with every change of an event except its status.
fn changed(booking: Option<Booking>, event: &BookingEvent, at: DateTime<Utc>) -> Option<Booking> {
    let mut booking = match &event.change {
        BookingChange::Held {
            customer,
            days,
            choices,
            quote,
            time_zone,
            hold_expires_at,
            link,
            ..
        } => Booking {
            id: event.booking_id,
            car_id: event.car_id,
            customer_id: event.customer_id,
            user_id: customer.user_id.clone(),
            days: *days,
            returned_on: None,
            status: Status::PendingPayment,
            payment: Payment::none(),
            contract: Contract::default(),
            choices: choices.clone(),
            quote: quote.clone(),
            time_zone: time_zone.clone(),
            hold_expires_at: *hold_expires_at,
            links: link.iter().cloned().collect(),
            created_at: at,
            updated_at: at,
            position: 0,
            commands: Vec::new(),
        },
        BookingChange::Imported { booking, .. } | BookingChange::MovedIn { booking, .. } => {
            Booking::clone(booking)
        }
        _ => booking?,
    };
    booking.apply(&event.change);
    Some(booking)
}

impl Booking {
    fn apply(&mut self, change: &BookingChange) {
        match change {
            BookingChange::Held { .. }
            | BookingChange::Imported { .. }
            | BookingChange::MovedIn { .. }
            | BookingChange::MovedOut { .. }
            | BookingChange::Expired {}
            | BookingChange::Cancelled { .. }
            | BookingChange::NotShown { .. }
            | BookingChange::PickedUp {}
            | BookingChange::Completed {}
            | BookingChange::Disputed { .. }
            | BookingChange::DisputeResolved { .. }
            | BookingChange::NoteAdded { .. }
            | BookingChange::HistoryImported { .. } => {}
            BookingChange::Rescheduled { days, choices, quote } => {
                self.days = *days;
                self.choices.clone_from(choices);
                self.quote.clone_from(quote);
            }
            BookingChange::Extended { days, quote } => {
                self.days = *days;
                self.quote.clone_from(quote);
            }
            BookingChange::PaymentAuthorized { amount_cents, .. } => {
                self.payment.authorized_cents += amount_cents;
                self.payment.settle(PaymentStatus::Pending);
            }
            BookingChange::PaymentCaptured { amount_cents, .. } => {
                self.payment.captured_cents += amount_cents;
                let left = self.payment.authorized_cents - amount_cents;
                self.payment.authorized_cents = left.max(0);
                self.payment.settle(PaymentStatus::Pending);
            }
            BookingChange::PaymentFailed { .. } => self.payment.settle(PaymentStatus::Failed),
            BookingChange::PaymentVoided { .. } => {
                self.payment.authorized_cents = 0;
                self.payment.settle(PaymentStatus::Voided);
            }
            BookingChange::PaymentRefunded { amount_cents, .. } => {
                self.payment.refunded_cents += amount_cents;
                self.payment.settle(PaymentStatus::Pending);
            }
            BookingChange::ContractSent { document } => {
                self.contract.status = ContractStatus::Sent;
                self.contract.document.clone_from(document);
            }
            BookingChange::ContractViewed {} => self.contract.status = ContractStatus::Viewed,
            BookingChange::ContractSigned {} => self.contract.status = ContractStatus::Signed,
            BookingChange::ContractDeclined { .. } => {
                self.contract.status = ContractStatus::Declined;
            }
            BookingChange::Returned { on } => self.returned_on = Some(*on),
            BookingChange::CustomerChanged { customer, .. } => {
                self.user_id.clone_from(&customer.user_id);
            }
            BookingChange::LinkIssued { link } => self.links.push(link.clone()),
        }
    }
}

/// The calendar of one car: all its bookings and blocks. It is the state that
/// decisions about them are made on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calendar {
    /// Every booking that is of this car.
    pub bookings: BTreeMap<BookingId, Arc<Booking>>,
    /// Every block that was not removed.
    pub blocks: BTreeMap<BlockId, Block>,
    /// Bookings that were moved to another car.
    pub moved: BTreeMap<BookingId, CarId>,
    /// The commands that made those, so that none makes another booking here.
    pub made_moved: BTreeMap<BookingId, String>,
    /// Executed commands about blocks.
    pub commands: Vec<CommandRecord>,
}

/// Days on which the car is not available.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The blocked days.
    pub days: Days,
    /// The reason, as it was given.
    pub reason: String,
    /// The position of its event.
    pub position: u64,
}

impl Calendar {
    /// Folds an event of the car's subject.
    pub fn evolve(&mut self, event: &Event<'_>) {
        match event.payload {
            Payload::Booking(booking) => self.apply_booking(booking, event.recorded),
            Payload::Block(block) => {
                match &block.change {
                    BlockChange::Blocked { days, reason, .. } => {
                        let (reason, position) = (reason.clone(), event.recorded.position);
                        self.blocks.insert(block.block_id, Block { days: *days, reason, position });
                    }
                    BlockChange::Unblocked {} => {
                        self.blocks.remove(&block.block_id);
                    }
                }
                remember(&mut self.commands, block.request_hash.as_deref(), event.recorded);
            }
            _ => {}
        }
    }

    fn apply_booking(&mut self, event: &BookingEvent, recorded: &Recorded) {
        let id = event.booking_id;
        if let BookingChange::MovedOut { to_car_id } = event.change {
            let left = self.bookings.remove(&id);
            if let Some(made) = left.as_ref().and_then(|booking| booking.commands.first()) {
                self.made_moved.insert(id, made.id.clone());
            }
            self.moved.insert(id, to_car_id);
            return;
        }
        self.moved.remove(&id);
        self.made_moved.remove(&id);
        let before = self.bookings.remove(&id).map(Arc::unwrap_or_clone);
        if let Some(after) = evolve(before, event, recorded) {
            self.bookings.insert(id, Arc::new(after));
        }
    }

    /// Every day of `days` that is taken, in order. A day that is taken twice
    /// (a block forced over a booking) is listed twice.
    pub fn taken(&self, days: Days, except: Option<BookingId>) -> Vec<TakenDay> {
        let mut taken = Vec::new();
        for booking in self.bookings.values().filter(|booking| Some(booking.id) != except) {
            let shared = booking.occupied().and_then(|occupied| occupied.shared(&days));
            let by = Taken::of(booking);
            taken.extend(shared.iter().flat_map(Days::iter).map(|date| TakenDay { date, by }));
        }
        for (id, block) in &self.blocks {
            let shared = block.days.shared(&days);
            let by = Taken::Blocked(*id);
            taken.extend(shared.iter().flat_map(Days::iter).map(|date| TakenDay { date, by }));
        }
        taken.sort_unstable();
        taken
    }

    /// The first free range with as many days as `days`, on or after its first
    /// day.
    pub fn next_free(&self, days: Days, except: Option<BookingId>) -> Option<Days> {
        let others = self.bookings.values().filter(|booking| Some(booking.id) != except);
        let occupied = others.filter_map(|booking| booking.occupied());
        // Most ranges of a long history are over.
        let mut ranges: Vec<Days> = occupied
            .chain(self.blocks.values().map(|block| block.days))
            .filter(|range| range.until() > days.first())
            .collect();
        ranges.sort_unstable();
        let mut candidate = days;
        for range in ranges {
            if range.overlaps(&candidate) {
                candidate = candidate.beginning(range.until())?;
            }
        }
        Some(candidate)
    }
}
