//! The statuses of a booking, its payment and its contract.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};

/// The status of a booking.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
    VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = StatusError, parse_err_fn = StatusError::of)]
pub enum Status {
    /// The days are held for a while; nothing is paid.
    PendingPayment,
    /// Paid or authorized; the contract is not signed.
    PendingContract,
    /// Paid and signed; the car has not been had.
    Upcoming,
    /// The customer has the car.
    Active,
    /// The car is back, the rental not settled.
    Returned,
    /// The rental is settled.
    Completed,
    /// Called off, by either side; the days are free.
    Cancelled,
    /// Not paid in time; the days are free.
    Expired,
    /// Disputed with us or the payment provider.
    Disputed,
}

/// The state of the payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum PaymentStatus {
    Pending,
    Authorized,
    Captured,
    Refunded,
    Voided,
    Failed,
}

/// The state of the contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ContractStatus {
    #[default]
    NotSent,
    Sent,
    Viewed,
    Signed,
    Declined,
}

impl Status {
    /// Every status, in the order of a booking's life.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;
    /// The names of them, in the same order.
    pub const NAMES: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The status as JSON spells it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The meaning, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::PendingPayment => "The days are held for a while; nothing is paid.",
            Self::PendingContract => "Paid or authorized; the contract is not signed yet.",
            Self::Upcoming => "Paid and signed; the customer has not had the car yet.",
            Self::Active => "The customer has the car.",
            Self::Returned => "The car is back; the rental is not settled yet.",
            Self::Completed => "Settled.",
            Self::Cancelled => "Called off, or nobody came; the days are free.",
            Self::Expired => "Nobody paid in time; the days are free.",
            Self::Disputed => "Disputed with us or the payment provider.",
        }
    }

    /// True if the rental has not begun and may still take place.
    pub fn is_before_rental(self) -> bool {
        matches!(self, Self::PendingPayment | Self::PendingContract | Self::Upcoming)
    }
}

impl PaymentStatus {
    /// The status as JSON spells it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl ContractStatus {
    /// The status as JSON spells it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Text that names no status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a status of a booking")]
pub struct StatusError(String);

impl StatusError {
    fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}
