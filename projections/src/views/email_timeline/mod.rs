//! `email_timeline`: one row for each event of an email. Readers choose the order: by the time of
//! the event, or by its position in the log.

pub mod read;

use crate::{PersonalData, Projection, Sources};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Event, Payload, Subject,
    email::{Bounce, Click, Failure, ReportKind, Status, Suppression},
    time::serde_micros,
};
use serde::{Deserialize, Serialize};

/// The view of emails' timelines.
pub struct EmailTimeline;

/// One event of an email.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineRow {
    /// The email.
    pub email_id: String,
    /// The provider's message id.
    pub event_id: String,
    /// The provider's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's position in the log.
    pub position: u64,
    /// Time that it happened, by the provider.
    #[serde(with = "serde_micros::option")]
    pub happened_at: Option<DateTime<Utc>>,
    /// Time that it reached us.
    #[serde(with = "serde_micros")]
    pub received_at: DateTime<Utc>,
    /// The status it reports; `None` for a type that this release does not know.
    pub status: Option<String>,
    /// Addresses that it is about.
    pub recipients: Vec<String>,
    /// Detail of a bounce.
    pub bounce: Option<Bounce>,
    /// Detail of a failure.
    pub failure: Option<Failure>,
    /// Detail of a suppression.
    pub suppression: Option<Suppression>,
    /// Detail of a click.
    pub click: Option<Click>,
    /// Positions at which the same event was stored again; repeats are not counted.
    pub repeats: Vec<u64>,
}

impl Projection for EmailTimeline {
    const NAME: &'static str = "email_timeline";
    const ABOUT: &'static str = "An event of an email, by EMAIL/EVENT";
    const KEY_EXAMPLE: &'static str = "f3c95789-ace1-4954-ac5d-6baed2eac902/msg_1";
    const VERSION: u32 = 2;
    const SUBJECTS: &'static [&'static str] = &["exo.email."];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Row = TimelineRow;

    fn personal(key: &str) -> PersonalData<'_> {
        PersonalData::OfOne("email", key.split_once('/').map_or(key, |(email_id, _)| email_id))
    }

    fn keys(event: &Event<'_>) -> Vec<String> {
        match event.payload {
            Payload::Delivery(delivery) => delivery
                .email_id()
                .map(|email_id| format!("{email_id}/{}", event.recorded.envelope.id))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    fn evolve(_key: &str, row: Option<TimelineRow>, event: &Event<'_>) -> Option<TimelineRow> {
        let Payload::Delivery(delivery) = event.payload else { return row };
        if let Some(mut row) = row {
            row.repeats.push(event.recorded.position);
            return Some(row);
        }
        // Only a body that names its type has a report.
        let (report, kind) = delivery.report.as_ref().zip(delivery.provider_type.as_ref())?;
        let (mut bounce, mut failure, mut suppression, mut click) = (None, None, None, None);
        match &report.kind {
            ReportKind::Bounced(detail) => bounce = Some(detail.clone()),
            ReportKind::Failed(detail) => failure = Some(detail.clone()),
            ReportKind::Suppressed(detail) => suppression = Some(detail.clone()),
            ReportKind::Clicked(detail) => click = Some(detail.clone()),
            _ => {}
        }
        Some(TimelineRow {
            email_id: report.email_id.to_string(),
            event_id: event.recorded.envelope.id.clone(),
            kind: kind.clone(),
            position: event.recorded.position,
            happened_at: delivery.happened_at,
            received_at: event.recorded.envelope.time,
            status: Status::reported(&report.kind).map(|status| status.name().to_owned()),
            recipients: report.mail.to.clone(),
            bounce,
            failure,
            suppression,
            click,
            repeats: Vec::new(),
        })
    }

    /// The key begins with the email's id, which holds no slash; the event's
    /// id behind it may.
    fn sources(key: &str, _row: Option<&TimelineRow>) -> Sources {
        let email_id = key.split_once('/').and_then(|(email_id, _)| email_id.parse().ok());
        Sources::subject(email_id.map(Subject::Email))
    }
}
