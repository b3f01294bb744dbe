//! A row of the inbox.

use exodrive_domain::email::Email;
use serde::{Deserialize, Serialize};

/// An email, and the columns that lists search and filter by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InboxRow {
    /// The email as folded.
    pub email: Email,
    /// Its status by the name that readers filter by.
    pub status: String,
    /// Text that a search looks through, in lower case.
    pub search: String,
}

impl InboxRow {
    pub(super) fn of(email: Email) -> Self {
        let mut search = String::new();
        let texts = [Some(email.id.as_str()), email.subject.as_deref(), email.from.as_deref()];
        let addresses = email.recipients.keys().chain(&email.cc).chain(&email.received_for);
        let tags = email.tags.values();
        for text in texts.into_iter().flatten().chain(addresses.chain(tags).map(String::as_str)) {
            search.push_str(&text.to_lowercase());
            search.push('\n');
        }
        Self { status: email.status.name().to_owned(), search, email }
    }
}
