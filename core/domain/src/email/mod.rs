//! Email, in and out: the provider's reports about it ([`Report`]) and the
//! fold of those reports ([`Email`], [`evolve`]).

mod report;
mod report_ids;
mod state;
mod status;

pub use report::{Attachment, Bounce, Click, Failure, Mail, Report, ReportKind, Suppression};
pub use report_ids::ReportIds;
pub use state::{Dated, Direction, Email, Sighting, Stage, evolve};
pub use status::Status;

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The provider's id of an email. One to 64 ASCII letters, digits, `-` or `_`
/// (Resend uses UUIDs), so that a subject and a URL can contain it without
/// escaping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailId(String);

/// A text that is not an email id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an email id is 1 to 64 ASCII letters, digits, '-' or '_'")]
pub struct EmailIdError;

impl EmailId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EmailId {
    type Err = EmailIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if valid { Ok(Self(text.to_owned())) } else { Err(EmailIdError) }
    }
}

impl TryFrom<String> for EmailId {
    type Error = EmailIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EmailId> for String {
    fn from(id: EmailId) -> Self {
        id.0
    }
}

impl fmt::Display for EmailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
