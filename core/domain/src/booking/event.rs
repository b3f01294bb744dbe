//! The events of a car's calendar: changes of its bookings and of its blocks.

use super::{
    payment::Share,
    state::{AccessLink, Booking},
    status::{ContractStatus, PaymentStatus, Status},
};
use crate::{
    days::Days,
    id::{BlockId, BookingId, CarId, CustomerId},
    personal::{Erasable, Personal, marked},
    price::{Choices, Quote},
    time::serde_micros,
    value::{DEFAULT_CURRENCY, format_amount},
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

/// Every subject of the calendars of cars.
pub const BOOKING_SUBJECTS: &str = "exo.booking.>";

/// A change of a booking, on `exo.booking.<car id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BookingEvent {
    /// The booking that changed.
    pub booking_id: BookingId,
    /// The car whose calendar it changes.
    pub car_id: CarId,
    /// The booking's customer, after the event.
    pub customer_id: CustomerId,
    /// The booking's status, after the event.
    pub status: Status,
    /// The days of that car that it has, once the event has happened.
    pub occupies: Option<Days>,
    /// Hash of the command's request. It tells a retry from another request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
    /// The change.
    #[serde(flatten)]
    pub change: BookingChange,
}

impl BookingEvent {
    /// The amounts, in cents, that customers have paid by this event, or got
    /// back if negative; and the currency (ISO 4217). `None` if no money moved.
    pub fn paid(&self) -> Option<(Vec<Share>, &str)> {
        let (shares, amount_cents, currency, sign) = match &self.change {
            BookingChange::PaymentCaptured { payers, amount_cents, currency, .. } => {
                (payers.as_slice(), *amount_cents, currency, 1)
            }
            BookingChange::PaymentRefunded { payers, amount_cents, currency, .. } => {
                (payers.as_slice(), *amount_cents, currency, -1)
            }
            BookingChange::Imported { booking, .. } => {
                (&[][..], booking.payment.kept_cents(), &booking.quote.currency, 1)
            }
            _ => return None,
        };
        let whole = [Share { customer_id: self.customer_id, amount_cents }];
        let shares = if shares.is_empty() { &whole[..] } else { shares };
        let signed = |share: &Share| Share { amount_cents: sign * share.amount_cents, ..*share };
        let moved = shares.iter().map(signed).filter(|share| share.amount_cents != 0);
        let moved: Vec<_> = moved.collect();
        (!moved.is_empty()).then_some((moved, currency))
    }
}

/// A change of a booking. Each variant holds the complete new values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.booking.")]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
#[expect(clippy::large_enum_variant, reason = "one is held for a moment, never many")]
pub enum BookingChange {
    Held {
        customer: Customer,
        days: Days,
        #[serde(default)]
        choices: Choices,
        quote: Quote,
        time_zone: String,
        #[serde(with = "serde_micros::option", default)]
        hold_expires_at: Option<DateTime<Utc>>,
        link: Option<AccessLink>,
        #[serde(with = "marked")]
        note: Personal<Option<String>>,
    },
    Expired {},
    Cancelled {
        reason: Option<String>,
    },
    NotShown {
        reason: Option<String>,
    },
    Rescheduled {
        days: Days,
        #[serde(default)]
        choices: Choices,
        quote: Quote,
    },
    Extended {
        days: Days,
        quote: Quote,
    },
    /// With [`BookingChange::MovedIn`] on the other car's subject, as one.
    MovedOut {
        to_car_id: CarId,
    },
    MovedIn {
        from_car_id: CarId,
        booking: Box<Booking>,
        reason: Option<String>,
    },
    PaymentAuthorized {
        amount_cents: i64,
        /// Not in older events, whose amounts had two digits after the point.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        currency: Option<String>,
        reference: Option<String>,
    },
    PaymentCaptured {
        amount_cents: i64,
        currency: String,
        reference: Option<String>,
        /// The customers who paid. None are named in older events: the
        /// booking's customer paid.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        payers: Vec<Share>,
    },
    PaymentFailed {
        reason: Option<String>,
    },
    PaymentVoided {
        amount_cents: i64,
        /// As in [`BookingChange::PaymentAuthorized`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        currency: Option<String>,
        reason: Option<String>,
    },
    PaymentRefunded {
        amount_cents: i64,
        currency: String,
        reason: Option<String>,
        /// The customers who got it back. None are named in older events: the
        /// booking's customer got it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        payers: Vec<Share>,
    },
    ContractSent {
        document: Option<String>,
    },
    ContractViewed {},
    ContractSigned {},
    ContractDeclined {
        reason: Option<String>,
    },
    PickedUp {},
    Returned {
        on: NaiveDate,
    },
    Completed {},
    Disputed {
        reason: Option<String>,
    },
    DisputeResolved {
        outcome: Status,
        reason: Option<String>,
    },
    NoteAdded {
        #[serde(with = "marked")]
        text: Personal<String>,
    },
    CustomerChanged {
        from_customer_id: CustomerId,
        customer: Customer,
    },
    LinkIssued {
        link: AccessLink,
    },
    /// No link that was made before shows the booking any more.
    LinksRevoked {},
    /// Imported from the present product in the state that it had there.
    Imported {
        booking: Box<Booking>,
        customer: Customer,
        /// The time at which the captured amount was paid.
        #[serde(with = "serde_micros::option", default)]
        paid_at: Option<DateTime<Utc>>,
    },
    /// A line of the present product's own history of the booking.
    HistoryImported {
        name: String,
        #[serde(with = "marked")]
        summary: Personal<String>,
    },
}

impl BookingChange {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }

    /// A text for people, and the reason that the event names.
    pub fn describe(&self) -> (String, Option<String>) {
        let mut because = None;
        let mut because_of = |reason: &Option<String>| because.clone_from(reason);
        let summary = match self {
            Self::Held { days, quote, hold_expires_at, .. } => {
                let until = hold_expires_at.map_or_else(String::new, |at| {
                    format!(", held until {} UTC", at.format("%d %b %H:%M"))
                });
                let total = format_amount(quote.total_cents, &quote.currency);
                format!("Booked {days} for {total}{until}")
            }
            Self::Expired {} => "Hold ended unpaid; the days are free".to_owned(),
            Self::Cancelled { reason } => {
                because_of(reason);
                "Cancelled; the days are free".to_owned()
            }
            Self::NotShown { reason } => {
                because_of(reason);
                "Nobody came for the car; the days are free".to_owned()
            }
            Self::Rescheduled { days, quote, .. } => {
                let total = format_amount(quote.total_cents, &quote.currency);
                format!("Rescheduled to {days} for {total}")
            }
            Self::Extended { days, quote } => {
                let total = format_amount(quote.total_cents, &quote.currency);
                format!("Extended to {days} for {total}")
            }
            Self::MovedOut { to_car_id } => format!("Left this car for {to_car_id}"),
            Self::MovedIn { from_car_id, booking, reason } => {
                because_of(reason);
                let quote = &booking.quote;
                let total = format_amount(quote.total_cents, &quote.currency);
                format!("Moved here from car {from_car_id} for {total}")
            }
            Self::PaymentAuthorized { amount_cents, currency, .. } => {
                format!("Payment of {} authorized", maybe_in(*amount_cents, currency.as_deref()))
            }
            Self::PaymentCaptured { amount_cents, currency, .. } => {
                format!("Payment of {} captured", format_amount(*amount_cents, currency))
            }
            Self::PaymentFailed { reason } => {
                because_of(reason);
                "Payment failed".to_owned()
            }
            Self::PaymentVoided { amount_cents, currency, reason } => {
                because_of(reason);
                format!("Authorization of {} voided", maybe_in(*amount_cents, currency.as_deref()))
            }
            Self::PaymentRefunded { amount_cents, currency, reason, .. } => {
                because_of(reason);
                format!("{} refunded", format_amount(*amount_cents, currency))
            }
            Self::ContractSent { .. } => "Contract sent".to_owned(),
            Self::ContractViewed {} => "Contract viewed".to_owned(),
            Self::ContractSigned {} => "Contract signed".to_owned(),
            Self::ContractDeclined { reason } => {
                because_of(reason);
                "Contract declined".to_owned()
            }
            Self::PickedUp {} => "Car picked up".to_owned(),
            Self::Returned { on } => format!("Car returned on {on}"),
            Self::Completed {} => "Completed".to_owned(),
            Self::Disputed { reason } => {
                because_of(reason);
                "Disputed".to_owned()
            }
            Self::DisputeResolved { outcome, reason } => {
                because_of(reason);
                format!("Dispute resolved: {outcome}")
            }
            Self::NoteAdded { text } => format!("Note: {}", text.0),
            Self::CustomerChanged { .. } => "Customer details changed".to_owned(),
            Self::LinkIssued { .. } => "Access link issued".to_owned(),
            Self::LinksRevoked {} => "Access links revoked".to_owned(),
            Self::Imported { booking, .. } => {
                let total = format_amount(booking.quote.total_cents, &booking.quote.currency);
                format!("Imported: {} for {total}", booking.days)
            }
            Self::HistoryImported { name, summary } => format!("{name}: {}", summary.0),
        };
        (summary, because)
    }
}

/// An amount of an event that may not name its currency.
fn maybe_in(amount_cents: i64, currency: Option<&str>) -> String {
    let text = format_amount(amount_cents, currency.unwrap_or(DEFAULT_CURRENCY));
    match currency {
        Some(_) => text,
        None => text.trim_end_matches(DEFAULT_CURRENCY).trim_end().to_owned(),
    }
}

impl Booking {
    /// Applies a change, except to the status.
    pub(super) fn apply(&mut self, change: &BookingChange) {
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
                let (customer_id, amount_cents) = (self.customer_id, *amount_cents);
                self.payment.authorize(Share { customer_id, amount_cents });
            }
            BookingChange::PaymentCaptured { amount_cents, payers, .. } if payers.is_empty() => {
                let payers = self.payment.captured_from(*amount_cents, self.customer_id);
                self.payment.capture(&payers);
            }
            BookingChange::PaymentCaptured { payers, .. } => self.payment.capture(payers),
            BookingChange::PaymentFailed { .. } => self.payment.settle(PaymentStatus::Failed),
            BookingChange::PaymentVoided { .. } => self.payment.void(),
            BookingChange::PaymentRefunded { amount_cents, payers, .. } if payers.is_empty() => {
                let payers = self.payment.refunded_to(*amount_cents);
                self.payment.refund(&payers);
            }
            BookingChange::PaymentRefunded { payers, .. } => self.payment.refund(payers),
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
            BookingChange::LinksRevoked {} => self.links.clear(),
        }
    }

    /// The status after a change. The booking already has every other effect of
    /// the change.
    pub(super) fn status_after(&self, change: &BookingChange) -> Status {
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
}

/// The person who rents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Customer {
    /// The account, if there is one.
    #[serde(default)]
    pub user_id: Option<String>,
    /// The customer's name and contact data.
    #[serde(with = "marked")]
    pub details: Personal<CustomerDetails>,
}

/// A customer's name and contact data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerDetails {
    /// Email address, as given.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Telephone number, as given.
    #[serde(default)]
    pub phone: Option<String>,
}

impl Erasable for CustomerDetails {
    fn erased() -> Self {
        let erased = String::erased;
        Self { email: erased(), first_name: erased(), last_name: erased(), phone: Some(erased()) }
    }
}

/// Days on which a car is not available, on `exo.booking.<car id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockEvent {
    /// The blocked car.
    pub car_id: CarId,
    /// The block that changed.
    pub block_id: BlockId,
    /// Hash of the command's request. It tells a retry from another request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
    /// The change.
    #[serde(flatten)]
    pub change: BlockChange,
}

/// A change of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.calendar.")]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum BlockChange {
    Blocked {
        days: Days,
        reason: String,
        /// The bookings that it was forced over.
        #[serde(default)]
        forced_over: Vec<BookingId>,
    },
    Unblocked {},
}

impl BlockChange {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}
