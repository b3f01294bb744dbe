//! Reports about an email: the typed content of the provider's `email.*`
//! deliveries, read leniently.

use super::EmailId;
use crate::{json, personal::ERASED};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The content of one delivery of an `email.*` type about an email. It is read
/// leniently: a field that is missing, null or of another shape counts as
/// absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The email.
    pub email_id: EmailId,
    /// The kind of report.
    pub kind: ReportKind,
    /// The facts that it repeats about the mail itself.
    pub mail: Mail,
    /// Its personal data was erased.
    pub erased: bool,
}

/// The kind of a report about an email, with the detail of that kind.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named after Resend's event types, which Status explains")]
pub enum ReportKind {
    Scheduled,
    Sent,
    DeliveryDelayed,
    Delivered,
    Opened,
    Clicked(Click),
    Bounced(Bounce),
    Suppressed(Suppression),
    Failed(Failure),
    Complained,
    Received,
    /// A type that this release does not know.
    Unknown,
}

/// The facts about the mail that every report repeats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mail {
    /// The time at which the mail (not the event) was made.
    pub created_at: Option<DateTime<Utc>>,
    /// The sender as given at send: `a@b` or `Name <a@b>`.
    pub from: Option<String>,
    /// Those this report is about; may be fewer than the mail had.
    pub to: Vec<String>,
    /// The `Cc` addresses.
    pub cc: Vec<String>,
    /// The `Bcc` addresses.
    pub bcc: Vec<String>,
    /// The reply addresses.
    pub reply_to: Vec<String>,
    /// Inbound: our addresses that it was sent to.
    pub received_for: Vec<String>,
    /// The subject line.
    pub subject: Option<String>,
    /// RFC 5322 Message-ID with its angle brackets.
    pub message_id: Option<String>,
    /// Name to value, as tagged at send.
    pub tags: BTreeMap<String, String>,
    /// The broadcast it belongs to.
    pub broadcast_id: Option<String>,
    /// The template it was made from.
    pub template_id: Option<String>,
    /// Inbound: the attachments.
    pub attachments: Vec<Attachment>,
}

/// A followed link.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Click {
    /// The link.
    pub link: Option<String>,
    /// The follower's address.
    pub ip_address: Option<String>,
    /// The follower's browser.
    pub user_agent: Option<String>,
}

/// Reason why a mail bounced.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bounce {
    /// `bounce.type`: Permanent, Transient, Undetermined, …: an open set.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `bounce.subType`: General, MailboxFull, …: an open set.
    pub sub_type: Option<String>,
    /// A text for people.
    pub message: Option<String>,
    /// One SMTP line for each recipient.
    #[serde(default)]
    pub diagnostic_codes: Vec<String>,
}

/// Reason why Resend could not send.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// For example `reached_daily_quota`.
    pub reason: Option<String>,
}

/// Reason why Resend did not send.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Suppression {
    /// `OnAccountSuppressionList`, `Suppressed`, …: an open set.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// A text for people.
    pub message: Option<String>,
    /// `previous_bounce` or `previous_complaint`.
    pub reason: Option<String>,
    /// One SMTP line for each recipient.
    #[serde(default)]
    pub diagnostic_codes: Vec<String>,
}

/// One attachment of an inbound mail, without its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The provider's id, by which the bytes can be fetched.
    pub id: Option<String>,
    /// The sender's name for it.
    pub filename: Option<String>,
    /// Its media type.
    pub content_type: Option<String>,
}

impl Report {
    /// Reads `data` of a delivery of type `provider_type`; `None` when that is
    /// no `email.*` type or names no email.
    pub(crate) fn parse(provider_type: &str, data: &Value) -> Option<Self> {
        let kind = provider_type.strip_prefix("email.")?;
        let email_id = data.get("email_id")?.as_str()?.parse().ok()?;
        Some(Self {
            email_id,
            kind: ReportKind::parse(kind, data),
            mail: Mail::parse(data),
            erased: false,
        })
    }

    /// The rest of a report whose personal data was erased.
    pub(crate) fn erased(provider_type: &str, email_id: EmailId) -> Option<Self> {
        let kind = ReportKind::parse(provider_type.strip_prefix("email.")?, &Value::Null);
        let erased = || ERASED.to_owned();
        let kind = match kind {
            ReportKind::Bounced(bounce) => {
                ReportKind::Bounced(Bounce { message: Some(erased()), ..bounce })
            }
            ReportKind::Suppressed(suppression) => {
                ReportKind::Suppressed(Suppression { message: Some(erased()), ..suppression })
            }
            ReportKind::Clicked(click) => {
                ReportKind::Clicked(Click { link: Some(erased()), ..click })
            }
            other => other,
        };
        let mail = Mail {
            from: Some(erased()),
            to: vec![erased()],
            subject: Some(erased()),
            ..Mail::default()
        };
        Some(Self { email_id, kind, mail, erased: true })
    }
}

impl ReportKind {
    fn parse(kind: &str, data: &Value) -> Self {
        let detail = |field| data.get(field).unwrap_or(&Value::Null);
        match kind {
            "scheduled" => ReportKind::Scheduled,
            "sent" => ReportKind::Sent,
            "delivery_delayed" => ReportKind::DeliveryDelayed,
            "delivered" => ReportKind::Delivered,
            "opened" => ReportKind::Opened,
            "clicked" => ReportKind::Clicked(Click::parse(detail("click"))),
            "bounced" => ReportKind::Bounced(Bounce::parse(detail("bounce"))),
            "suppressed" => ReportKind::Suppressed(Suppression::parse(detail("suppressed"))),
            "failed" => {
                ReportKind::Failed(Failure { reason: json::text(detail("failed"), "reason") })
            }
            "complained" => ReportKind::Complained,
            "received" => ReportKind::Received,
            _ => ReportKind::Unknown,
        }
    }
}

impl Mail {
    fn parse(data: &Value) -> Self {
        Self {
            created_at: json::text(data, "created_at").as_deref().and_then(crate::time::parse_any),
            from: json::text(data, "from"),
            to: json::texts(data, "to"),
            cc: json::texts(data, "cc"),
            bcc: json::texts(data, "bcc"),
            reply_to: json::texts(data, "reply_to"),
            received_for: json::texts(data, "received_for"),
            subject: json::text(data, "subject"),
            message_id: json::text(data, "message_id"),
            tags: tags(data.get("tags")),
            broadcast_id: json::text(data, "broadcast_id"),
            template_id: json::text(data, "template_id"),
            attachments: match data.get("attachments") {
                Some(Value::Array(items)) => items.iter().map(Attachment::parse).collect(),
                _ => Vec::new(),
            },
        }
    }
}

/// Tags are sent as an array of `{name, value}` and reported as an object;
/// Resend's own ingester types them as the array. Both are read.
fn tags(tags: Option<&Value>) -> BTreeMap<String, String> {
    match tags {
        Some(Value::Object(tags)) => tags
            .iter()
            .filter_map(|(name, value)| Some((json::clean(name), json::clean(value.as_str()?))))
            .collect(),
        Some(Value::Array(tags)) => tags
            .iter()
            .filter_map(|tag| {
                let field = |name| tag.get(name)?.as_str().map(json::clean);
                Some((field("name")?, field("value")?))
            })
            .collect(),
        _ => BTreeMap::new(),
    }
}

impl Click {
    fn parse(click: &Value) -> Self {
        Self {
            link: json::text(click, "link"),
            ip_address: json::text(click, "ipAddress"),
            user_agent: json::text(click, "userAgent"),
        }
    }
}

impl Bounce {
    fn parse(bounce: &Value) -> Self {
        Self {
            kind: json::text(bounce, "type"),
            sub_type: json::text(bounce, "subType"),
            message: json::text(bounce, "message"),
            diagnostic_codes: json::texts(bounce, "diagnosticCode"),
        }
    }
}

impl Suppression {
    fn parse(suppressed: &Value) -> Self {
        Self {
            kind: json::text(suppressed, "type"),
            message: json::text(suppressed, "message"),
            reason: json::text(suppressed, "reason"),
            diagnostic_codes: json::texts(suppressed, "diagnosticCode"),
        }
    }
}

impl Attachment {
    fn parse(attachment: &Value) -> Self {
        Self {
            id: json::text(attachment, "id"),
            filename: json::text(attachment, "filename"),
            content_type: json::text(attachment, "content_type"),
        }
    }
}
