//! The only place that spells subjects. A subject is the consistency boundary
//! of the events on it. The server holds about 300 bytes for each subject in
//! memory for ever, so there are few: one for each entity that changes.

use crate::{
    email::EmailId,
    fleet::is_slug,
    id::{CarId, ErasureId, HoldId, KeyId, SignInId},
    operation::is_projection,
};
use std::{fmt, str::FromStr};

/// Every subject of the log.
pub const LOG_SUBJECTS: &str = "exo.>";

const EMAIL: &str = "exo.email.";
const PROVIDER: &str = "exo.provider.resend";
const FLEET: &str = "exo.fleet.";
const BOOKING: &str = "exo.booking.";
const SLUG: &str = "exo.slug.";
const PROJECTION: &str = "exo.projection.";
const ACCESS: &str = "exo.access.api";
const ERASURE: &str = "exo.erasure.";
const HOLD: &str = "exo.hold.";
const SERVICE_KEY: &str = "exo.credential.key.";
const SIGN_INS: &str = "exo.credential.user.";

/// The entity that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// One email: the provider's deliveries about it, in or out.
    Email(EmailId),
    /// Deliveries about no email: contacts, domains, topics, and deliveries
    /// that could not be read.
    Provider,
    /// One car: its description and prices.
    Fleet(CarId),
    /// The calendar of one car: every booking and block of it, so that two
    /// decisions about the same days cannot both be appended.
    Booking(CarId),
    /// The owner of a slug. Its first event is valid for ever.
    Slug(String),
    /// One projection by its name: the operators' commands to it.
    Projection(String),
    /// Reads of personal data by staff.
    Access,
    /// One erasure of a person's data, from the request to its completion.
    Erasure(ErasureId),
    /// Holds on one person's data, by an id that follows from the address.
    Hold(HoldId),
    /// One service key.
    ServiceKey(KeyId),
    /// The sign-ins of one user, by an id that follows from the user's.
    SignIns(SignInId),
}

/// A subject that this release does not know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown subject {0:?}")]
pub struct SubjectError(pub String);

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Email(id) => write!(f, "{EMAIL}{id}"),
            Self::Provider => f.write_str(PROVIDER),
            Self::Fleet(id) => write!(f, "{FLEET}{id}"),
            Self::Booking(id) => write!(f, "{BOOKING}{id}"),
            Self::Slug(slug) => write!(f, "{SLUG}{slug}"),
            Self::Projection(name) => write!(f, "{PROJECTION}{name}"),
            Self::Access => f.write_str(ACCESS),
            Self::Erasure(id) => write!(f, "{ERASURE}{id}"),
            Self::Hold(id) => write!(f, "{HOLD}{id}"),
            Self::ServiceKey(id) => write!(f, "{SERVICE_KEY}{id}"),
            Self::SignIns(id) => write!(f, "{SIGN_INS}{id}"),
        }
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || SubjectError(text.to_owned());
        let known = if let Some(id) = text.strip_prefix(EMAIL) {
            id.parse().ok().map(Self::Email)
        } else if let Some(id) = text.strip_prefix(FLEET) {
            id.parse().ok().map(Self::Fleet)
        } else if let Some(id) = text.strip_prefix(BOOKING) {
            id.parse().ok().map(Self::Booking)
        } else if let Some(slug) = text.strip_prefix(SLUG) {
            is_slug(slug).then(|| Self::Slug(slug.to_owned()))
        } else if let Some(name) = text.strip_prefix(PROJECTION) {
            is_projection(name).then(|| Self::Projection(name.to_owned()))
        } else if let Some(id) = text.strip_prefix(ERASURE) {
            id.parse().ok().map(Self::Erasure)
        } else if let Some(id) = text.strip_prefix(HOLD) {
            id.parse().ok().map(Self::Hold)
        } else if let Some(id) = text.strip_prefix(SERVICE_KEY) {
            id.parse().ok().map(Self::ServiceKey)
        } else if let Some(id) = text.strip_prefix(SIGN_INS) {
            id.parse().ok().map(Self::SignIns)
        } else {
            match text {
                PROVIDER => Some(Self::Provider),
                ACCESS => Some(Self::Access),
                _ => None,
            }
        };
        known.ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spelt_is_read_back() {
        for text in [
            "exo.email.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
            "exo.provider.resend",
            "exo.fleet.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
            "exo.booking.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
            "exo.slug.ferrari-296-gtb",
            "exo.projection.booking_timeline",
            "exo.access.api",
            "exo.erasure.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
            "exo.hold.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
            "exo.credential.key.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
            "exo.credential.user.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
        ] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for text in [
            "exo.email.",
            "exo.email.a.b",
            "exo.email.*",
            "exo.slug.A",
            "exo.fleet.1",
            "exo.projection.",
            "exo.projection.Inbox",
            "exo.projection.a.b",
            "exo.access.",
            "exo.credential.key.1",
            "exo.credential.4ef9a417-02e9-4d39-ad75-9611e0fcc33c",
            "exo.>",
            "other",
        ] {
            assert_eq!(text.parse::<Subject>(), Err(SubjectError(text.to_owned())));
        }
    }
}
