//! A row of the inbox.

use crate::views::search::text_of;
use exodrive_domain::email::Email;
use serde::{Deserialize, Serialize};

/// An email, and the columns that lists search and filter by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InboxRow {
    /// The email as folded.
    pub email: Email,
    /// Its status by the name that readers filter by.
    pub status: String,
    /// The words that it is found by: `text_of`.
    pub search: String,
}

impl InboxRow {
    /// The row of an email.
    pub fn of(email: Email) -> Self {
        let others = [&email.cc, &email.bcc, &email.reply_to, &email.received_for];
        let addresses = email.from.iter().chain(email.recipients.keys());
        let texts = addresses.chain(others.into_iter().flatten());
        let texts = texts.chain(email.tags.values()).chain(&email.subject).map(String::as_str);
        let search = text_of([email.id.as_str()].into_iter().chain(texts));
        Self { status: email.status.name().to_owned(), search, email }
    }
}
