//! The events of a car's calendar: changes of its bookings and of its blocks.

use super::{AccessLink, Booking, Status};
use crate::{
    days::Days,
    id::{BlockId, BookingId, CarId, CustomerId},
    personal::{Erasable, Personal, marked},
    price::{Choices, Quote},
    time::serde_micros,
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

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
        reference: Option<String>,
    },
    PaymentCaptured {
        amount_cents: i64,
        currency: String,
        reference: Option<String>,
    },
    PaymentFailed {
        reason: Option<String>,
    },
    PaymentVoided {
        amount_cents: i64,
        reason: Option<String>,
    },
    PaymentRefunded {
        amount_cents: i64,
        currency: String,
        reason: Option<String>,
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
