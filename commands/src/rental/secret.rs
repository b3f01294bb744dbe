//! The secret from which customers' ids and link tokens are derived.

use crate::digest::uuid_from_digest;
use exodrive_domain::{
    booking::Customer,
    id::{BookingId, CustomerId},
    value::address_key,
};
use ring::hmac;

/// Derives customers' ids and the tokens of bookings' links. They cannot be
/// guessed without the secret.
#[derive(Clone, Debug)]
pub struct BookingSecret(hmac::Key);

/// The secret is empty: anyone could make every link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret for links of bookings is empty")]
pub struct EmptySecret;

impl BookingSecret {
    /// Makes a secret from the text of a setting.
    ///
    /// # Errors
    /// When it is empty, or blank.
    pub fn new(secret: &str) -> Result<Self, EmptySecret> {
        if secret.trim().is_empty() {
            return Err(EmptySecret);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())))
    }

    /// Id of the customer with this email address. The address cannot be
    /// derived from it without the secret. Spellings of one address
    /// ([`address_key`]) are one customer.
    pub fn customer_id(&self, customer: &Customer) -> CustomerId {
        let email = address_key(&customer.details.0.email);
        let tag = self.sign(&format!("customer\n{email}"));
        let mut first = [0; 16];
        first.copy_from_slice(&tag.as_ref()[..16]);
        uuid_from_digest(first).into()
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
    fn an_empty_secret_is_refused() {
        for empty in ["", " \n"] {
            assert_eq!(BookingSecret::new(empty).err(), Some(EmptySecret));
        }
    }

    #[test]
    fn tokens_follow_from_the_secret_the_booking_and_the_number() {
        let [one, other] = ["one", "other"].map(|it| BookingSecret::new(it).unwrap());
        let id: BookingId = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4".parse().unwrap();
        assert_eq!(one.link_token(id, 0), one.clone().link_token(id, 0));
        assert_ne!(one.link_token(id, 0), one.link_token(id, 1));
        assert_ne!(one.link_token(id, 0), other.link_token(id, 0));
    }
}
