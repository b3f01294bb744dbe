//! Answers about the inbox. Redis holds an [`EmailDetail`] as it is sent.

use super::row::InboxRow;
use chrono::{DateTime, Utc};
use exodrive_domain::{
    email::{Attachment, Bounce, Click, Direction, Email, Failure, Sighting, Status, Suppression},
    time::serde_micros,
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
    /// All recipients in the reports.
    pub to: Vec<String>,
    /// The subject line.
    pub subject: Option<String>,
    /// The booking that it was tagged with.
    pub booking_id: Option<String>,
    /// Time that the mail was made.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// Time of its latest event.
    #[serde(with = "serde_micros")]
    pub last_event_at: DateTime<Utc>,
    /// The position in the log that last changed this.
    pub position: u64,
}

/// All details of an email.
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
    /// All recipients in the reports, each with the highest-ranked status reported for that
    /// address.
    pub to: Vec<Recipient>,
    /// Copies.
    pub cc: Vec<String>,
    /// Blind copies.
    pub bcc: Vec<String>,
    /// Addresses for replies.
    pub reply_to: Vec<String>,
    /// Inbound: our addresses that it came for.
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
    /// Inbound: its attachments.
    pub attachments: Vec<AttachmentDetail>,
    /// Statuses that were reported, lowest rank first.
    pub stages: Vec<StageDetail>,
    /// The most serious bounce.
    pub bounce: Option<BounceDetail>,
    /// The latest failure.
    pub failure: Option<FailureDetail>,
    /// The latest suppression.
    pub suppression: Option<SuppressionDetail>,
    /// The latest click.
    pub click: Option<ClickDetail>,
    /// Number of events that count.
    pub events: u64,
    /// Number of stored events that repeat one that counts.
    pub repeats: u32,
    /// True if its personal data was erased: the fields then say `erased`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erased: bool,
    /// Time that the mail was made.
    #[serde(with = "serde_micros")]
    pub created_at: DateTime<Utc>,
    /// Time of its latest event.
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

/// Number and times of the reports of one status.
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
    /// Number of reports.
    pub count: u32,
}

/// Details of a bounce.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BounceDetail {
    /// Permanent, Transient, Undetermined, …: an open set.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// General, MailboxFull, …: an open set.
    pub sub_type: Option<String>,
    /// Text for people.
    pub message: Option<String>,
    /// One SMTP line for each recipient.
    pub diagnostic_codes: Vec<String>,
    /// Time of the bounce.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The event that reported it.
    pub event_id: String,
}

/// Details of a failure of Resend to send a mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailureDetail {
    /// For example `reached_daily_quota`.
    pub reason: Option<String>,
    /// Time of the failure.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// The event that reported it.
    pub event_id: String,
}

/// Reason that Resend did not send a mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SuppressionDetail {
    /// `OnAccountSuppressionList`, …: an open set.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Text for people.
    pub message: Option<String>,
    /// `previous_bounce` or `previous_complaint`.
    pub reason: Option<String>,
    /// Time of the suppression.
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
    /// The IP address of the person who followed it.
    pub ip_address: Option<String>,
    /// The browser of the person who followed it.
    pub user_agent: Option<String>,
    /// Time that it was followed.
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
    pub(super) fn of(row: InboxRow, position: u64) -> Self {
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
