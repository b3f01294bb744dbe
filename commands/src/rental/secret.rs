//! The secret from which link tokens are derived, and were the ids of customers.

use crate::digest::uuid_from_digest;
use exodrive_domain::id::{BookingId, CustomerId};
use exodrive_runtime::secret::Secret;
use ring::hmac;

/// Derives the tokens of bookings' links. They cannot be guessed without the secret.
#[derive(Clone, Debug)]
pub struct BookingSecret(hmac::Key);

impl BookingSecret {
    /// Derives from the secret of a setting.
    pub fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()))
    }

    /// The ids that earlier releases have derived from an address, which is an
    /// [`address_key`](exodrive_domain::value::address_key).
    pub(crate) fn earlier_customer_ids(&self, address: &str) -> Vec<CustomerId> {
        let tag = self.sign(&format!("customer\n{address}"));
        let mut first = [0; 16];
        first.copy_from_slice(&tag.as_ref()[..16]);
        vec![uuid_from_digest(first).into()]
    }

    /// Token of a booking's n-th link. It is derived, so it need not be stored.
    pub fn link_token(&self, booking_id: BookingId, n: usize) -> String {
        hex::encode(self.sign(&format!("link\n{booking_id}\n{n}")))
    }

    fn sign(&self, text: &str) -> hmac::Tag {
        hmac::sign(&self.0, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_from_the_secret_the_booking_and_the_number() {
        let [one, other] =
            ["one", "two"].map(|it| BookingSecret::new(&Secret::new(it.repeat(11)).unwrap()));
        let id: BookingId = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4".parse().unwrap();
        assert_eq!(one.link_token(id, 0), one.clone().link_token(id, 0));
        assert_ne!(one.link_token(id, 0), one.link_token(id, 1));
        assert_ne!(one.link_token(id, 0), other.link_token(id, 0));
    }
}
