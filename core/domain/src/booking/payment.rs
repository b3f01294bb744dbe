//! The amounts paid for a booking, and the customers whose they are. An amount
//! stays with the customer who paid it, whoever the booking's customer is later,
//! and so does what is given back of it.

use super::status::PaymentStatus;
use crate::{
    id::CustomerId,
    value::{Faults, Rules},
};
use serde::{Deserialize, Serialize};

/// The amounts paid, in cents of the booking's currency.
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
    /// The customers who paid, in the order of their first payments. Their
    /// amounts add up to those above. Events before payments had payers name
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payers: Vec<Payer>,
}

/// The amounts of one customer, in cents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payer {
    /// The customer.
    pub customer_id: CustomerId,
    /// Authorized and not captured.
    pub authorized_cents: i64,
    /// Captured.
    pub captured_cents: i64,
    /// Refunded.
    pub refunded_cents: i64,
}

/// A part of an amount, and the customer whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The customer.
    pub customer_id: CustomerId,
    /// In cents. In an event more than 0.
    pub amount_cents: i64,
}

impl Rules for Payment {
    fn apply(&mut self, faults: &mut Faults) {
        faults.amount("/authorized_cents", self.authorized_cents);
        faults.amount("/captured_cents", self.captured_cents);
        faults.amount("/refunded_cents", self.refunded_cents);
        let kept = self.refunded_cents <= self.captured_cents;
        faults.check(kept, "/refunded_cents", "must be at most what was captured");
    }
}

impl Payment {
    /// A payment of 0.
    pub fn none() -> Self {
        let status = PaymentStatus::Pending;
        let payers = Vec::new();
        Self { status, authorized_cents: 0, captured_cents: 0, refunded_cents: 0, payers }
    }

    /// True once anything was authorized that still is, or captured: then the
    /// booking's currency stays.
    pub fn has_amounts(&self) -> bool {
        self.authorized_cents != 0 || self.captured_cents != 0
    }

    /// Captured and not refunded.
    pub fn kept_cents(&self) -> i64 {
        self.captured_cents - self.refunded_cents
    }

    /// Gives amounts of which no payer is known to a customer.
    pub(super) fn attribute(&mut self, customer_id: CustomerId) {
        if self.payers.is_empty() && self.has_amounts() {
            self.payers.push(Payer {
                customer_id,
                authorized_cents: self.authorized_cents,
                captured_cents: self.captured_cents,
                refunded_cents: self.refunded_cents,
            });
        }
    }

    /// The payers of an amount that `customer_id` pays now: those who authorized
    /// it, in the order of their payments, and the customer for the rest.
    pub(super) fn captured_from(&self, amount_cents: i64, customer_id: CustomerId) -> Vec<Share> {
        let authorized =
            self.payers.iter().map(|payer| (payer.customer_id, payer.authorized_cents));
        share(amount_cents, authorized.chain([(customer_id, i64::MAX)]))
    }

    /// The payers who get an amount back: who paid last first.
    pub(super) fn refunded_to(&self, amount_cents: i64) -> Vec<Share> {
        let kept = self.payers.iter().rev();
        let kept =
            kept.map(|payer| (payer.customer_id, payer.captured_cents - payer.refunded_cents));
        share(amount_cents, kept)
    }

    pub(super) fn authorize(&mut self, share: Share) {
        self.authorized_cents += share.amount_cents;
        self.payer(share.customer_id).authorized_cents += share.amount_cents;
        self.settle(PaymentStatus::Pending);
    }

    pub(super) fn capture(&mut self, shares: &[Share]) {
        for share in shares {
            let payer = self.payer(share.customer_id);
            payer.captured_cents += share.amount_cents;
            payer.authorized_cents = (payer.authorized_cents - share.amount_cents).max(0);
            self.captured_cents += share.amount_cents;
        }
        self.authorized_cents = self.payers.iter().map(|payer| payer.authorized_cents).sum();
        self.settle(PaymentStatus::Pending);
    }

    pub(super) fn refund(&mut self, shares: &[Share]) {
        for share in shares {
            self.payer(share.customer_id).refunded_cents += share.amount_cents;
            self.refunded_cents += share.amount_cents;
        }
        self.settle(PaymentStatus::Pending);
    }

    pub(super) fn void(&mut self) {
        self.authorized_cents = 0;
        self.payers.iter_mut().for_each(|payer| payer.authorized_cents = 0);
        self.settle(PaymentStatus::Voided);
    }

    pub(super) fn settle(&mut self, otherwise: PaymentStatus) {
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

    fn payer(&mut self, customer_id: CustomerId) -> &mut Payer {
        let known = self.payers.iter().position(|payer| payer.customer_id == customer_id);
        let place = known.unwrap_or_else(|| {
            self.payers.push(Payer {
                customer_id,
                authorized_cents: 0,
                captured_cents: 0,
                refunded_cents: 0,
            });
            self.payers.len() - 1
        });
        &mut self.payers[place]
    }
}

/// Divides an amount among customers, each up to a limit, in their order.
fn share(mut amount_cents: i64, limits: impl IntoIterator<Item = (CustomerId, i64)>) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for (customer_id, limit) in limits {
        let part = amount_cents.min(limit);
        if part <= 0 {
            continue;
        }
        amount_cents -= part;
        match shares.iter_mut().find(|share| share.customer_id == customer_id) {
            Some(share) => share.amount_cents += part,
            None => shares.push(Share { customer_id, amount_cents: part }),
        }
    }
    shares
}
