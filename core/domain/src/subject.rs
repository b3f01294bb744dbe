//! The only place where subjects are spelt. A subject is the consistency
//! boundary of what is appended to it, and the server keeps about 300 bytes a
//! subject in memory for ever, so they are few: one per thing that changes.

use crate::email::EmailId;
use std::{fmt, str::FromStr};

/// Every subject of the log.
pub const LOG_SUBJECTS: &str = "exo.>";

const EMAIL: &str = "exo.email.";
const PROVIDER: &str = "exo.provider.resend";

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// One email: the provider's deliveries about it, in or out.
    Email(EmailId),
    /// Deliveries about no email: contacts, domains, topics, and whatever
    /// could not be read.
    Provider,
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
        }
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || SubjectError(text.to_owned());
        match text.strip_prefix(EMAIL) {
            Some(id) => id.parse().map(Self::Email).map_err(|_| unknown()),
            None if text == PROVIDER => Ok(Self::Provider),
            None => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spelt_is_read_back() {
        for text in ["exo.email.4ef9a417-02e9-4d39-ad75-9611e0fcc33c", "exo.provider.resend"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for text in ["exo.email.", "exo.email.a.b", "exo.email.*", "exo.>", "other"] {
            assert_eq!(text.parse::<Subject>(), Err(SubjectError(text.to_owned())));
        }
    }
}
