//! The state of an email, and the fold that makes it from reports in any order.

use super::{
    Attachment, Bounce, Click, EmailId, Failure, Mail, Report, ReportIds, ReportKind, Status,
    Suppression,
};
use crate::value::{address_key, mailboxes};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// An email, folded from all reports of it.
///
/// The fold ignores order and repetition. Any permutation of an email's reports
/// gives the same state. A report that was stored twice under one id counts
/// once and is marked in [`Email::repeats`]. So statuses and times are greatest
/// or least values, and sets are unions. Where two reports differ in a fact
/// about the mail, the fullest value is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Email {
    /// The provider's id.
    pub id: EmailId,
    /// Sent by us, or to us.
    pub direction: Direction,
    /// The highest-ranked status ever reported.
    pub status: Status,
    /// The time at which the mail was made, by the earliest report of it.
    #[serde(with = "crate::time::serde_micros")]
    pub created_at: DateTime<Utc>,
    /// The time of the latest report.
    #[serde(with = "crate::time::serde_micros")]
    pub last_event_at: DateTime<Utc>,
    /// The sender.
    pub from: Option<String>,
    /// The subject line.
    pub subject: Option<String>,
    /// RFC 5322 Message-ID.
    pub message_id: Option<String>,
    /// Everybody it was reported for, each with the highest-ranked status
    /// reported for that address.
    pub recipients: BTreeMap<String, Status>,
    /// The `Cc` addresses.
    pub cc: BTreeSet<String>,
    /// The `Bcc` addresses.
    pub bcc: BTreeSet<String>,
    /// The reply addresses.
    pub reply_to: BTreeSet<String>,
    /// Inbound: our addresses that it was sent to.
    pub received_for: BTreeSet<String>,
    /// Tags as set at send.
    pub tags: BTreeMap<String, String>,
    /// The broadcast it belongs to.
    pub broadcast_id: Option<String>,
    /// The template it was made from.
    pub template_id: Option<String>,
    /// Inbound: the attachments.
    pub attachments: BTreeSet<Attachment>,
    /// Count and times of the reports, by status.
    pub stages: BTreeMap<Status, Stage>,
    /// The gravest bounce, the latest of those.
    pub bounce: Option<Sighting<Bounce>>,
    /// The latest failure.
    pub failure: Option<Sighting<Failure>>,
    /// The latest suppression.
    pub suppression: Option<Sighting<Suppression>>,
    /// The latest click.
    pub click: Option<Sighting<Click>>,
    /// The reports counted.
    pub event_ids: ReportIds,
    /// The number of stored events that repeated one already counted.
    pub repeats: u32,
    /// True if its personal data was erased: the rest holds none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erased: bool,
}

/// The direction of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Sent by us.
    Outbound,
    /// Sent to us.
    Inbound,
}

/// Count and times of the reports of one status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The earliest.
    #[serde(with = "crate::time::serde_micros")]
    pub first_at: DateTime<Utc>,
    /// The latest.
    #[serde(with = "crate::time::serde_micros")]
    pub last_at: DateTime<Utc>,
    /// The number of reports.
    pub count: u32,
}

/// A detail with the report that brought it. Of several details the greatest is
/// used: by status, then time, then id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sighting<T> {
    /// The status it was reported with.
    pub status: Status,
    /// The time at which it happened.
    #[serde(with = "crate::time::serde_micros")]
    pub at: DateTime<Utc>,
    /// The report's id.
    pub event_id: String,
    /// The detail itself.
    #[serde(flatten)]
    pub detail: T,
}

/// A report with its identity and time.
#[derive(Clone, Copy, Debug)]
pub struct Dated<'a> {
    /// The provider's message id, the same in every repeat.
    pub id: &'a str,
    /// The time at which it happened: the report's own time, or else its
    /// arrival.
    pub at: DateTime<Utc>,
    /// The report.
    pub report: &'a Report,
}

/// The email after one more report. A report of an unknown type changes no
/// email, and makes none.
pub fn evolve(email: Option<Email>, event: Dated<'_>) -> Option<Email> {
    let Some(status) = Status::reported(&event.report.kind) else { return email };
    let mut email = email.unwrap_or_else(|| Email::first_met(status, event));
    email.erased |= event.report.erased;
    if !email.event_ids.insert(event.id) {
        email.repeats += 1;
        return Some(email);
    }
    email.count(status, event.at);
    email.merge_mail(status, &event.report.mail, event.at);
    email.merge_kind(status, event);
    Some(email)
}

impl Email {
    /// An email of which only the id is known: the least element that reports add
    /// to.
    fn first_met(status: Status, event: Dated<'_>) -> Self {
        Self {
            id: event.report.email_id.clone(),
            direction: Direction::Outbound,
            status,
            created_at: event.report.mail.created_at.unwrap_or(event.at),
            last_event_at: event.at,
            from: None,
            subject: None,
            message_id: None,
            recipients: BTreeMap::new(),
            cc: BTreeSet::new(),
            bcc: BTreeSet::new(),
            reply_to: BTreeSet::new(),
            received_for: BTreeSet::new(),
            tags: BTreeMap::new(),
            broadcast_id: None,
            template_id: None,
            attachments: BTreeSet::new(),
            stages: BTreeMap::new(),
            bounce: None,
            failure: None,
            suppression: None,
            click: None,
            event_ids: ReportIds::default(),
            repeats: 0,
            erased: false,
        }
    }

    fn count(&mut self, status: Status, at: DateTime<Utc>) {
        self.status = self.status.max(status);
        self.last_event_at = self.last_event_at.max(at);
        if status == Status::Received {
            self.direction = Direction::Inbound;
        }
        self.stages
            .entry(status)
            .and_modify(|stage| {
                stage.first_at = stage.first_at.min(at);
                stage.last_at = stage.last_at.max(at);
                stage.count += 1;
            })
            .or_insert(Stage { first_at: at, last_at: at, count: 1 });
    }

    fn merge_mail(&mut self, status: Status, mail: &Mail, at: DateTime<Utc>) {
        self.created_at = self.created_at.min(mail.created_at.unwrap_or(at));
        keep_fullest(&mut self.from, mail.from.as_ref());
        keep_fullest(&mut self.subject, mail.subject.as_ref());
        keep_fullest(&mut self.message_id, mail.message_id.as_ref());
        keep_fullest(&mut self.broadcast_id, mail.broadcast_id.as_ref());
        keep_fullest(&mut self.template_id, mail.template_id.as_ref());
        for address in &mail.to {
            let known = self.recipients.entry(address.clone()).or_insert(status);
            *known = (*known).max(status);
        }
        for (name, value) in &mail.tags {
            let known = self.tags.entry(name.clone()).or_default();
            if fuller(value, known) {
                known.clone_from(value);
            }
        }
        self.cc.extend(mail.cc.iter().cloned());
        self.bcc.extend(mail.bcc.iter().cloned());
        self.reply_to.extend(mail.reply_to.iter().cloned());
        self.received_for.extend(mail.received_for.iter().cloned());
        self.attachments.extend(mail.attachments.iter().cloned());
    }

    fn merge_kind(&mut self, status: Status, event: Dated<'_>) {
        let sighting = Sighting { status, at: event.at, event_id: event.id.to_owned(), detail: () };
        match &event.report.kind {
            ReportKind::Bounced(bounce) => keep_greatest(&mut self.bounce, sighting.of(bounce)),
            ReportKind::Failed(failure) => keep_greatest(&mut self.failure, sighting.of(failure)),
            ReportKind::Suppressed(it) => keep_greatest(&mut self.suppression, sighting.of(it)),
            ReportKind::Clicked(click) => keep_greatest(&mut self.click, sighting.of(click)),
            _ => {}
        }
    }

    /// Every address that it names, by its [`address_key`].
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        let others = [&self.cc, &self.bcc, &self.reply_to, &self.received_for];
        let named = self.from.iter().chain(self.recipients.keys());
        let named = named.chain(others.into_iter().flatten());
        named.flat_map(|header| mailboxes(header)).map(|mailbox| address_key(&mailbox))
    }

    /// The booking that the mail was tagged with at send.
    pub fn booking_id(&self) -> Option<&str> {
        self.tags.get("booking_id").map(String::as_str)
    }
}

impl Sighting<()> {
    fn of<T: Clone>(self, detail: &T) -> Sighting<T> {
        let Self { status, at, event_id, .. } = self;
        Sighting { status, at, event_id, detail: detail.clone() }
    }
}

fn keep_greatest<T: Ord>(known: &mut Option<T>, new: T) {
    if known.as_ref().is_none_or(|known| *known < new) {
        *known = Some(new);
    }
}

fn keep_fullest(known: &mut Option<String>, new: Option<&String>) {
    if let Some(new) = new
        && known.as_ref().is_none_or(|known| fuller(new, known))
    {
        *known = Some(new.clone());
    }
}

/// Longest, then greatest: a total order, so that the choice does not depend
/// on which report came first.
fn fuller(new: &str, known: &str) -> bool {
    (new.len(), new) > (known.len(), known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Delivery;
    use proptest::prelude::*;

    const EMAIL: &str = "4ef9a417-02e9-4d39-ad75-9611e0fcc33c";

    fn body(kind: &str, minute: u32, rest: &str) -> String {
        format!(
            r#"{{"type":"email.{kind}","created_at":"2026-11-20T09:{minute:02}:00Z","data":{{
            "email_id":"{EMAIL}","created_at":"2026-11-20T09:00:00Z"{rest}}}}}"#
        )
    }

    fn given(bodies: &[(&str, String)]) -> Option<Email> {
        bodies.iter().fold(None, |email, (id, body)| {
            let delivery = Delivery::parse(body.as_bytes());
            let report = delivery.report.unwrap();
            evolve(email, Dated { id, at: delivery.happened_at.unwrap(), report: &report })
        })
    }

    #[test]
    fn given_a_late_sent_then_the_status_stays_delivered() {
        let email = given(&[
            ("m2", body("delivered", 2, r#","to":["a@example.com"]"#)),
            (
                "m1",
                body(
                    "sent",
                    1,
                    r#","to":["a@example.com"],"tags":[{"name":"booking_id","value":"BK-1"}]"#,
                ),
            ),
        ])
        .unwrap();
        assert_eq!(email.status, Status::Delivered);
        assert_eq!(email.recipients["a@example.com"], Status::Delivered);
        assert_eq!(email.booking_id(), Some("BK-1"));
        assert_eq!(crate::time::format(&email.last_event_at), "2026-11-20T09:02:00.000000Z");
    }

    #[test]
    fn given_two_bounces_then_the_gravest_is_shown() {
        let email = given(&[
            ("m1", body("bounced", 1, r#","bounce":{"type":"Permanent","message":"gone"}"#)),
            ("m2", body("bounced", 2, r#","bounce":{"type":"Transient","message":"full"}"#)),
        ])
        .unwrap();
        assert_eq!(email.status, Status::Bounced);
        assert_eq!(email.bounce.unwrap().detail.message.as_deref(), Some("gone"));
        assert_eq!(email.stages.len(), 2);
    }

    #[test]
    fn given_one_recipient_of_two_bounces_then_each_has_a_status() {
        let email = given(&[
            ("m1", body("sent", 1, r#","to":["a@example.com","b@example.com"]"#)),
            ("m2", body("bounced", 2, r#","to":["b@example.com"]"#)),
        ])
        .unwrap();
        assert_eq!(email.recipients["a@example.com"], Status::Sent);
        assert_eq!(email.recipients["b@example.com"], Status::Bounced);
    }

    #[test]
    fn given_an_unknown_type_then_no_email_is_made_or_changed() {
        assert_eq!(given(&[("m1", body("teleported", 1, ""))]), None);
        let before = given(&[("m1", body("sent", 1, ""))]);
        let after = given(&[("m1", body("sent", 1, "")), ("m2", body("teleported", 2, ""))]);
        assert_eq!(before, after);
    }

    fn any_body() -> impl Strategy<Value = String> {
        let kind = prop_oneof![
            Just("scheduled"),
            Just("sent"),
            Just("delivered"),
            Just("delivery_delayed"),
            Just("opened"),
            Just("clicked"),
            Just("bounced"),
            Just("failed"),
            Just("suppressed"),
            Just("complained"),
            Just("received"),
            Just("teleported"),
        ];
        let bounce = prop_oneof![
            Just(""),
            Just(r#","bounce":{"type":"Permanent","subType":"General"}"#),
            Just(r#","bounce":{"type":"Transient","message":"full"}"#),
        ];
        let to = prop_oneof![
            Just("[]"),
            Just(r#"["a@x.example"]"#),
            Just(r#"["b@x.example","a@x.example"]"#)
        ];
        let subject =
            prop_oneof![Just("null"), Just(r#""""#), Just(r#""Hello""#), Just(r#""Hello again""#)];
        (kind, 0u32..60, bounce, to, subject).prop_map(|(kind, minute, bounce, to, subject)| {
            body(kind, minute, &format!(r#"{bounce},"to":{to},"subject":{subject}"#))
        })
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_gives_the_same_email(
            bodies in prop::collection::vec(any_body(), 1..10),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let numbered: Vec<(String, String)> =
                bodies.into_iter().enumerate().map(|(n, body)| (format!("msg_{n}"), body)).collect();
            let events: Vec<(&str, String)> =
                numbered.iter().map(|(id, body)| (id.as_str(), body.clone())).collect();
            // A shuffle with repeats: the drawn events first, then the rest.
            let mut shuffled: Vec<_> = order.iter().map(|index| events[index.index(events.len())].clone()).collect();
            for event in events.iter().rev() {
                if !shuffled.contains(event) {
                    shuffled.push(event.clone());
                }
            }
            let known = |events: &[(&str, String)]| {
                events.iter().filter(|(_, body)| !body.contains("teleported")).count()
            };
            let repeats = known(&shuffled) - known(&events);
            let expected = given(&events).map(|email| Email { repeats: u32::try_from(repeats).unwrap(), ..email });
            prop_assert_eq!(given(&shuffled), expected);
        }
    }
}
