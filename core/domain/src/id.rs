//! Ids of our own entities. The caller passes them as arguments, since this
//! crate has no randomness.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError($what))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    )*};
}

ids! {
    /// A car of the fleet: a UUID.
    CarId "car";
    /// A booking: a UUID.
    BookingId "booking";
    /// Days on which a car is not available: a UUID.
    BlockId "block";
    /// A customer, by email address: a UUID.
    CustomerId "customer";
    /// An erasure of personal data: a UUID.
    ErasureId "erasure";
    /// A hold on personal data, by the person's address: a UUID.
    HoldId "hold";
    /// A service key: a UUID.
    KeyId "service key";
    /// The sign-ins of a user: a UUID that follows from the user's id.
    SignInId "sign-in";
}

/// Text that is no id of the kind that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {0} id is a UUID, for example 0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4")]
pub struct IdError(&'static str);
