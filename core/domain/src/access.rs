//! Who of the staff read personal data, as events on `exo.access.api`. Who
//! changed something is told by the actor of the event that changed it.

use crate::time::serde_micros;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Personal data was shown to staff.
pub const ACCESS_RECORDED: &str = "exodrive.access.recorded";

/// What was shown within a moment: few events tell of many reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEvent {
    /// One for each reader and thing.
    pub entries: Vec<AccessEntry>,
}

/// One reader's reads of one thing by one route. Holds no personal data of
/// whom it is about: no address, and nothing that was searched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEntry {
    /// Who read, for example `auditor:` and the user's id.
    pub actor: String,
    /// What kind of thing, for example `email`: an open set.
    pub resource: String,
    /// Its id; none for a list.
    pub key: Option<String>,
    /// By which route of the API or command, for example
    /// `GET /v1/inbox/{email_id}`.
    pub route: String,
    /// How often.
    pub count: u64,
    /// The first time.
    #[serde(with = "serde_micros")]
    pub first_at: DateTime<Utc>,
    /// The last time.
    #[serde(with = "serde_micros")]
    pub last_at: DateTime<Utc>,
    /// The request of the last time, as our logs name it.
    pub request_id: Option<String>,
}
