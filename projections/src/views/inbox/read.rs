//! Queries of the inbox.

pub use super::answer::{
    AttachmentDetail, BounceDetail, ClickDetail, EmailDetail, EmailSummary, FailureDetail,
    Recipient, StageDetail, SuppressionDetail,
};

use super::{Inbox, InboxRow};
use crate::{
    Error, Page, Projection, ReadTransaction,
    views::query::{decode_cursor, encode_cursor, like},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{email::EmailId, time, value::address_key};
use std::collections::BTreeMap;

/// The emails that a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of any of these statuses; all if empty.
    pub statuses: Vec<String>,
    /// Those that have this text, in any case, in sender, recipients, subject,
    /// tags or id.
    pub text: Option<String>,
    /// Most rows to return.
    pub limit: i64,
    /// The previous page's [`Page::next`].
    pub after: Option<Cursor>,
}

/// A place in the list: newest mail first, then by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    created_at: String,
    key: String,
}

impl Cursor {
    /// Reads an opaque cursor; `None` if the text is not such a cursor.
    pub fn parse(text: &str) -> Option<Self> {
        let [created_at, key] = decode_cursor(text)?;
        time::parse(&created_at)?;
        Some(Self { created_at, key })
    }

    fn encode(created_at: &DateTime<Utc>, key: &str) -> String {
        encode_cursor(&[&time::format(created_at), key])
    }
}

/// A page of the inbox.
///
/// # Errors
/// When the database fails.
pub async fn find_emails(
    reader: &mut ReadTransaction,
    filter: &Filter,
) -> Result<Page<EmailSummary>, Error> {
    let reader = reader.over(&[Inbox::NAME])?;
    let text = filter.text.as_deref().map(like);
    let (after_time, after_key) = match &filter.after {
        Some(after) => (Some(&after.created_at), Some(&after.key)),
        None => (None, None),
    };
    let found = sqlx::query!(
        r#"select key as "key!", position as "position!", data as "data!" from inbox
           where (cardinality($1::text[]) = 0 or status = any($1))
             and ($2::text is null or data ->> 'search' like $2)
             and ($3::text is null or (created_at, key) < ($3, $4))
           order by created_at desc, key desc limit $5"#,
        &filter.statuses,
        text,
        after_time,
        after_key,
        filter.limit + 1
    )
    .fetch_all(&mut **reader)
    .await?;
    let mut rows = Vec::with_capacity(found.len());
    for found in found {
        let row = row(&found.key, found.data)?;
        rows.push(EmailSummary::of(row, u64::try_from(found.position).unwrap_or(0)));
    }
    Ok(Page::cut(rows, filter.limit, |last| Cursor::encode(&last.created_at, &last.id)))
}

/// A page of the emails that name an address, in any case, as sender, as a recipient of any kind,
/// or for replies; newest first. A page may be short although another follows it.
///
/// # Errors
/// When the database fails.
pub async fn find_emails_of_address(
    reader: &mut ReadTransaction,
    address: &str,
    limit: i64,
    after: Option<&Cursor>,
) -> Result<Page<EmailId>, Error> {
    let reader = reader.over(&[Inbox::NAME])?;
    let found = sqlx::query!(
        r#"select key as "key!", created_at as "created_at!", data as "data!" from inbox
           where (data ->> 'search' like $1 or lower(data -> 'email' ->> 'bcc') like $1
                  or lower(data -> 'email' ->> 'reply_to') like $1)
             and ($2::text is null or (created_at, key) < ($2, $3))
           order by created_at desc, key desc limit $4"#,
        like(address),
        after.map(|after| &after.created_at),
        after.map(|after| &after.key),
        limit + 1
    )
    .fetch_all(&mut **reader)
    .await?;
    let Page { rows: found, next } =
        Page::cut(found, limit, |last| encode_cursor(&[&last.created_at, &last.key]));
    let address = address_key(address);
    let mut rows = Vec::with_capacity(found.len());
    for found in found {
        let email = row(&found.key, found.data)?.email;
        // The text may also be in a subject, or within another address.
        if email.addresses().any(|named| named == address) {
            rows.push(email.id);
        }
    }
    Ok(Page { rows, next })
}

/// Number of emails of each status, of those that have the text.
///
/// # Errors
/// When the database fails.
pub async fn count_emails(
    reader: &mut ReadTransaction,
    text: Option<&str>,
) -> Result<BTreeMap<String, i64>, Error> {
    let reader = reader.over(&[Inbox::NAME])?;
    let found = sqlx::query!(
        r#"select status as "status!", count(*) as "count!" from inbox
           where $1::text is null or data ->> 'search' like $1 group by status"#,
        text.map(like)
    )
    .fetch_all(&mut **reader)
    .await?;
    Ok(found.into_iter().map(|found| (found.status, found.count)).collect())
}

/// One email.
///
/// # Errors
/// When the database fails.
pub async fn find_email(
    reader: &mut ReadTransaction,
    email_id: &str,
) -> Result<Option<EmailDetail>, Error> {
    let reader = reader.over(&[Inbox::NAME])?;
    let found = sqlx::query!(
        r#"select position as "position!", data as "data!" from inbox where key = $1"#,
        email_id
    )
    .fetch_optional(&mut **reader)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let position = u64::try_from(found.position).unwrap_or(0);
    Ok(Some(EmailDetail::of(&row(email_id, found.data)?, position)))
}

fn row(key: &str, data: serde_json::Value) -> Result<InboxRow, Error> {
    let key = || key.to_owned();
    serde_json::from_value(data).map_err(|source| Error::Row {
        table: Inbox::NAME,
        key: key(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_others_are_not() {
        let at = time::parse("2026-11-20T09:15:04Z").unwrap();
        let cursor = Cursor::parse(&Cursor::encode(&at, "em-1")).unwrap();
        assert_eq!((cursor.created_at, cursor.key), (time::format(&at), "em-1".to_owned()));
        for other in ["", "%%%", "bm90IGEgY3Vyc29y"] {
            assert_eq!(Cursor::parse(other), None);
        }
    }
}
