//! A booking as decisions and views see it.

use super::{
    payment::Payment,
    status::{ContractStatus, PaymentStatus, Status},
};
use crate::{
    CommandRecord,
    days::Days,
    id::{BookingId, CarId, CustomerId},
    price::{Choices, Quote},
    time::serde_micros,
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

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

    /// The status before the rental; payment and contract together determine it.
    pub(super) fn status_before_rental(&self) -> Status {
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
