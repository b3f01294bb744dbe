//! Reads of personal data by staff, as events on `exo.access.api`. A change
//! needs no such record: the event of the change names its actor.

use crate::time::serde_micros;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Personal data was shown to staff.
pub const ACCESS_RECORDED: &str = "exodrive.access.recorded";

/// Personal data that was shown within a short time. One event records many
/// reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEvent {
    /// One entry for each pair of reader and resource.
    pub entries: Vec<AccessEntry>,
}

/// One reader's reads of one resource by one route. Holds no personal data of
/// the person it is about: no address and no search text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEntry {
    /// The reader, for example `auditor:` and the user's id.
    pub actor: String,
    /// The kind of resource, for example `email`: an open set.
    pub resource: String,
    /// Its id; none for a list.
    pub key: Option<String>,
    /// The route of the API or the command, for example `GET
    /// /v1/inbox/{email_id}`.
    pub route: String,
    /// The number of reads.
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
