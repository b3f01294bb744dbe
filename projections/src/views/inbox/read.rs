//! What readers get of the inbox.

use super::{Inbox, InboxRow};
use crate::{
    Error, Page, Projection, ReadTransaction,
    views::query::{decode_cursor, encode_cursor, like},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    email::{
        Attachment, Bounce, Click, Direction, Email, EmailId, Failure, Sighting, Status,
        Suppression,
    },
    time::{self, serde_micros},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An email in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmailSummary {
    /// Always `email`.
    pub object: String,
    /// The provider's id.
    pub id: String,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// The highest-ranked status ever reported, by Resend's name for it.
    #[schema(example = "delivered")]
    pub status: String,
    /// The sender.
    pub from: Option<String>,
    /// Everybody it was reported for.
    pub to: Vec<String>,
    /// The subject line.
    pub subject: Option<String>,
    /// The booking that it was tagged with.
    pub booking_id: Option<String>,
    /// When the mail was made.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// When the latest event of it happened.
    #[serde(with = "serde_micros")]
    pub last_event_at: DateTime<Utc>,
    /// The position in the log that last changed this.
    pub position: u64,
}

/// All that is known of an email.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmailDetail {
    /// Always `email`.
    pub object: String,
    /// The provider's id.
    pub id: String,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// The highest-ranked status ever reported, by Resend's name for it.
    #[schema(example = "delivered")]
    pub status: String,
    /// The sender.
    pub from: Option<String>,
    /// Everybody it was reported for, each with the highest-ranked status
    /// reported for that address.
    pub to: Vec<Recipient>,
    /// Copies.
    pub cc: Vec<String>,
    /// Blind copies.
    pub bcc: Vec<String>,
    /// Where answers go.
    pub reply_to: Vec<String>,
    /// Inbound: the addresses of ours that it came for.
    pub received_for: Vec<String>,
    /// The subject line.
    pub subject: Option<String>,
    /// RFC 5322 Message-ID, with its angle brackets.
    pub message_id: Option<String>,
    /// The booking that it was tagged with.
    pub booking_id: Option<String>,
    /// Tags as set at send.
    pub tags: BTreeMap<String, String>,
    /// The broadcast it belongs to.
    pub broadcast_id: Option<String>,
    /// The template it was made from.
    pub template_id: Option<String>,
    /// Inbound: what is attached.
    pub attachments: Vec<AttachmentDetail>,
    /// What was reported, lowest rank first.
    pub stages: Vec<StageDetail>,
    /// The gravest bounce.
    pub bounce: Option<BounceDetail>,
    /// The latest failure.
    pub failure: Option<FailureDetail>,
    /// The latest suppression.
    pub suppression: Option<SuppressionDetail>,
    /// The latest click.
    pub click: Option<ClickDetail>,
    /// How many events count.
    pub events: u64,
    /// How many stored events repeat one that counts.
    pub repeats: u32,
    /// Its personal data was erased: what stands in its place says `erased`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erased: bool,
    /// When the mail was made.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// When the latest event of it happened.
    #[serde(with = "serde_micros")]
    pub last_event_at: DateTime<Utc>,
    /// The position in the log that last changed this.
    pub position: u64,
}

/// One recipient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recipient {
    /// The address.
    pub address: String,
    /// The highest-ranked status reported for it.
    pub status: String,
}

/// One attachment, without its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttachmentDetail {
    /// The provider's id.
    pub id: Option<String>,
    /// The sender's name for it.
    pub filename: Option<String>,
    /// Its media type.
    pub content_type: Option<String>,
}

/// How often and when one status was reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageDetail {
    /// The status.
    pub status: String,
    /// The earliest report.
    #[serde(with = "serde_micros")]
    pub first_at: DateTime<Utc>,
    /// The latest report.
    #[serde(with = "serde_micros")]
    pub last_at: DateTime<Utc>,
    /// How many reports.
    pub count: u32,
}

/// Why a mail bounced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BounceDetail {
    /// Permanent, Transient, Undetermined, …: an open set.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// General, MailboxFull, …: an open set.
    pub sub_type: Option<String>,
    /// For people.
    pub message: Option<String>,
    /// One SMTP line for each recipient.
    pub diagnostic_codes: Vec<String>,
    /// When.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The event that reported it.
    pub event_id: String,
}

/// Why Resend could not send a mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailureDetail {
    /// For example `reached_daily_quota`.
    pub reason: Option<String>,
    /// When.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The event that reported it.
    pub event_id: String,
}

/// Why Resend did not send a mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SuppressionDetail {
    /// `OnAccountSuppressionList`, …: an open set.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// For people.
    pub message: Option<String>,
    /// `previous_bounce` or `previous_complaint`.
    pub reason: Option<String>,
    /// When.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The event that reported it.
    pub event_id: String,
}

/// A followed link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClickDetail {
    /// The link.
    pub link: Option<String>,
    /// The follower's address.
    pub ip_address: Option<String>,
    /// The follower's browser.
    pub user_agent: Option<String>,
    /// When.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The event that reported it.
    pub event_id: String,
}

fn direction(direction: Direction) -> String {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
    .to_owned()
}

impl EmailSummary {
    fn of(row: InboxRow, position: u64) -> Self {
        let email = row.email;
        Self {
            object: "email".to_owned(),
            booking_id: email.booking_id().map(str::to_owned),
            id: email.id.to_string(),
            direction: direction(email.direction),
            status: row.status,
            from: email.from,
            to: email.recipients.into_keys().collect(),
            subject: email.subject,
            created_at: email.created_at,
            last_event_at: email.last_event_at,
            position,
        }
    }
}

impl EmailDetail {
    /// The detail of a row that was last changed at `position`.
    pub fn of(row: &InboxRow, position: u64) -> Self {
        let email: Email = row.email.clone();
        let name = |status: Status| status.name().to_owned();
        Self {
            object: "email".to_owned(),
            booking_id: email.booking_id().map(str::to_owned),
            id: email.id.to_string(),
            direction: direction(email.direction),
            status: row.status.clone(),
            from: email.from,
            to: email
                .recipients
                .into_iter()
                .map(|(address, status)| Recipient { address, status: name(status) })
                .collect(),
            cc: email.cc.into_iter().collect(),
            bcc: email.bcc.into_iter().collect(),
            reply_to: email.reply_to.into_iter().collect(),
            received_for: email.received_for.into_iter().collect(),
            subject: email.subject,
            message_id: email.message_id,
            tags: email.tags,
            broadcast_id: email.broadcast_id,
            template_id: email.template_id,
            attachments: email
                .attachments
                .into_iter()
                .map(|Attachment { id, filename, content_type }| AttachmentDetail {
                    id,
                    filename,
                    content_type,
                })
                .collect(),
            stages: email
                .stages
                .into_iter()
                .map(|(status, stage)| StageDetail {
                    status: name(status),
                    first_at: stage.first_at,
                    last_at: stage.last_at,
                    count: stage.count,
                })
                .collect(),
            bounce: email.bounce.map(|Sighting { at, event_id, detail, .. }| {
                let Bounce { kind, sub_type, message, diagnostic_codes } = detail;
                BounceDetail { kind, sub_type, message, diagnostic_codes, at, event_id }
            }),
            failure: email.failure.map(|Sighting { at, event_id, detail, .. }| {
                let Failure { reason } = detail;
                FailureDetail { reason, at, event_id }
            }),
            suppression: email.suppression.map(|Sighting { at, event_id, detail, .. }| {
                let Suppression { kind, message, reason, .. } = detail;
                SuppressionDetail { kind, message, reason, at, event_id }
            }),
            click: email.click.map(|Sighting { at, event_id, detail, .. }| {
                let Click { link, ip_address, user_agent } = detail;
                ClickDetail { link, ip_address, user_agent, at, event_id }
            }),
            events: email.event_ids.len() as u64,
            repeats: email.repeats,
            erased: email.erased,
            created_at: email.created_at,
            last_event_at: email.last_event_at,
            position,
        }
    }
}

/// Which emails a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of any of these statuses; empty: of all.
    pub statuses: Vec<String>,
    /// Those that have this text, in any case, in sender, recipients, subject,
    /// tags or id.
    pub text: Option<String>,
    /// How many at most.
    pub limit: i64,
    /// What [`Page::next`] of the page before said.
    pub after: Option<Cursor>,
}

/// A place in the list: newest mail first, then by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    created_at: String,
    key: String,
}

impl Cursor {
    /// Reads an opaque cursor; `None` if it is none of ours.
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
pub async fn list(
    reader: &mut ReadTransaction,
    filter: &Filter,
) -> Result<Page<EmailSummary>, Error> {
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
    let limit = usize::try_from(filter.limit).unwrap_or(0);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more);
    let next = next.map(|last| Cursor::encode(&last.created_at, &last.id));
    Ok(Page { rows, next })
}

/// A page of the emails that name an address, in any case, as sender, as a
/// recipient of any kind, or for answers; newest first. A page may be short
/// and have another behind it.
///
/// # Errors
/// When the database fails.
pub async fn of_address(
    reader: &mut ReadTransaction,
    address: &str,
    limit: i64,
    after: Option<&Cursor>,
) -> Result<Page<EmailId>, Error> {
    let mut found = sqlx::query!(
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
    let limit = usize::try_from(limit).unwrap_or(0);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more);
    let next = next.map(|last| encode_cursor(&[&last.created_at, &last.key]));
    let address = address.to_lowercase();
    let mut rows = Vec::with_capacity(found.len());
    for found in found {
        let email = row(&found.key, found.data)?.email;
        // The text may also stand in a subject, or within another address.
        if email.addresses().any(|named| named == address) {
            rows.push(email.id);
        }
    }
    Ok(Page { rows, next })
}

/// How many emails there are of each status, of those that have the text.
///
/// # Errors
/// When the database fails.
pub async fn counts(
    reader: &mut ReadTransaction,
    text: Option<&str>,
) -> Result<BTreeMap<String, i64>, Error> {
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
pub async fn detail(
    reader: &mut ReadTransaction,
    email_id: &str,
) -> Result<Option<EmailDetail>, Error> {
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
