//! Views do not depend on the order, the repetition and the batches of an
//! email's events.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use chrono::{DateTime, TimeDelta, Utc};
use exodrive_domain::{
    Delivery, Envelope, Event, Recorded, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION,
    decode,
};
use exodrive_projections::{
    Projection,
    views::{deliveries::Deliveries, email_timeline::EmailTimeline, inbox::Inbox},
};
use exodrive_tests::reported_status;
use proptest::{collection::vec, option, prelude::*, sample::Index};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const EMAILS: [&str; 2] =
    ["4ef9a417-02e9-4d39-ad75-9611e0fcc33c", "56761188-7520-42d8-8898-ff6fc54ce618"];

/// An event that was stored once or more, under one id.
#[derive(Clone, Debug)]
struct Message {
    id: String,
    received_at: DateTime<Utc>,
    body: String,
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("guest@example.com".to_owned()),
        Just("Zoë <zoe@example.com>".to_owned()),
        Just("desk@exodrive.example".to_owned()),
        "[a-z]{1,3}@[a-z]{1,3}\\.example",
    ]
}

/// A list of addresses in every shape that was ever seen.
fn addresses() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        address().prop_map(Value::from),
        vec(address(), 0..4).prop_map(Value::from),
    ]
}

fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!("")),
        Just(json!(7)),
        Just(json!("nul \u{0} and more")),
        "\\PC{0,12}".prop_map(Value::from),
    ]
}

fn tags() -> impl Strategy<Value = Value> {
    let tag = || (prop_oneof![Just("booking_id"), Just("campaign")], "[A-Za-z0-9_-]{0,6}");
    prop_oneof![
        Just(Value::Null),
        vec(tag(), 0..3).prop_map(|tags| {
            tags.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
        }),
        vec(tag(), 0..3).prop_map(|tags| {
            Value::Object(
                tags.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            )
        }),
    ]
}

fn detail() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        Just(json!("Permanent")),
        Just(json!("Transient")),
        Just(json!("Temporary")),
        Just(json!("Undetermined")),
        Just(Value::Null),
    ];
    (kind, text(), text(), addresses()).prop_map(|(kind, message, reason, codes)| {
        json!({
            "type": kind, "subType": reason, "message": message, "reason": reason,
            "diagnosticCode": codes, "link": message, "ipAddress": reason, "userAgent": message,
        })
    })
}

fn time() -> impl Strategy<Value = String> {
    (0_i64..200, 0_u32..3).prop_map(|(minute, form)| {
        let at = DateTime::from_timestamp(1_795_000_000 + minute * 60, 123_456_000).unwrap();
        match form {
            0 => at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            1 => at.format("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
            _ => (at + TimeDelta::hours(2)).format("%Y-%m-%dT%H:%M:%S%.9f+02:00").to_string(),
        }
    })
}

fn body() -> impl Strategy<Value = String> {
    let kind = prop_oneof![
        30 => prop_oneof![
            Just("email.scheduled"), Just("email.sent"), Just("email.delivery_delayed"),
            Just("email.delivered"), Just("email.opened"), Just("email.clicked"),
            Just("email.bounced"), Just("email.complained"), Just("email.failed"),
            Just("email.suppressed"), Just("email.received"),
        ],
        3 => prop_oneof![
            Just("email.teleported"), Just("contact.created"), Just("inbox.email.received"),
        ],
    ];
    let email = prop_oneof![
        10 => prop_oneof![Just(json!(EMAILS[0])), Just(json!(EMAILS[1]))],
        1 => Just(Value::Null),
    ];
    let mail = (address(), text(), text(), text(), tags());
    let people = (addresses(), addresses(), addresses(), addresses());
    let dates = (option::weighted(0.9, time()), option::weighted(0.7, time()));
    let whole = (kind, email, dates, mail, people, detail()).prop_map(
        |(kind, email, (happened_at, created_at), mail, people, detail)| {
            let (from, subject, message_id, template, tags) = mail;
            let (to, cc, bcc, received_for) = people;
            json!({
                "type": kind, "created_at": happened_at, "data": {
                    "email_id": email, "created_at": created_at, "from": from, "to": to,
                    "cc": cc, "bcc": bcc, "received_for": received_for, "subject": subject,
                    "message_id": message_id, "template_id": template, "tags": tags,
                    "bounce": detail, "failed": detail, "suppressed": detail, "click": detail,
                    "attachments": [{"id": subject, "filename": null, "content_type": message_id}],
                },
            })
            .to_string()
        },
    );
    prop_oneof![
        30 => whole,
        1 => Just("not json".to_owned()),
        1 => Just(r#"{"type":"email.sent"}"#.to_owned()),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    vec((body(), 0_i64..100_000), 1..14).prop_map(|drawn| {
        drawn
            .into_iter()
            .enumerate()
            .map(|(n, (body, millis))| Message {
                id: format!("msg_{n}"),
                received_at: DateTime::from_timestamp_millis(1_796_000_000_000 + millis).unwrap(),
                body,
            })
            .collect()
    })
}

fn recorded(position: u64, message: &Message) -> Recorded {
    let delivery = Delivery::parse(message.body.as_bytes());
    Recorded {
        position,
        subject: delivery.email_id().cloned().map_or(Subject::Provider, Subject::Email).to_string(),
        stored_at: message.received_at,
        envelope: Envelope {
            id: message.id.clone(),
            kind: WEBHOOK_RECEIVED.to_owned(),
            version: WEBHOOK_RECEIVED_VERSION,
            source: "resend".to_owned(),
            time: message.received_at,
            traceparent: None,
            causation: None,
            correlation: None,
            actor: None,
        },
        provider_headers: Vec::new(),
        body: message.body.clone().into(),
        protection: None,
    }
}

/// Folds in batches. Between two of them rows are written and read, as the
/// database does.
fn fold<P: Projection>(messages: &[&Message], batches: &[usize]) -> BTreeMap<String, Value> {
    let mut stored: BTreeMap<String, Value> = BTreeMap::new();
    let events: Vec<_> =
        (1_u64..).zip(messages).map(|(position, message)| recorded(position, message)).collect();
    let mut rest = &events[..];
    let mut sizes = batches.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        let (batch, after) = rest.split_at(size);
        rest = after;
        let mut rows: BTreeMap<String, Option<P::Row>> = BTreeMap::new();
        for recorded in batch {
            if !P::SUBJECTS.iter().any(|prefix| recorded.subject.starts_with(prefix)) {
                continue;
            }
            let payload = decode(recorded).unwrap();
            let event = Event { recorded, payload: &payload };
            for key in P::keys(&event) {
                let load =
                    || stored.get(&key).map(|row| serde_json::from_value(row.clone()).unwrap());
                let row = rows.remove(&key).unwrap_or_else(load);
                let row = P::evolve(&key, row, &event);
                rows.insert(key, row);
            }
        }
        for (key, row) in rows {
            match row {
                Some(row) => stored.insert(key, serde_json::to_value(row).unwrap()),
                None => stored.remove(&key),
            };
        }
    }
    stored
}

/// Rows without the fields that depend on the log's order, and the number of
/// repeats that all of them mark.
fn settled(mut rows: BTreeMap<String, Value>) -> (BTreeMap<String, Value>, usize) {
    let mut marked = 0;
    for row in rows.values_mut() {
        let row = row.as_object_mut().unwrap();
        row.remove("position");
        let repeats = match row.remove("repeats") {
            Some(repeats) => repeats,
            None => row["email"].as_object_mut().unwrap().remove("repeats").unwrap(),
        };
        marked += match repeats {
            Value::Array(repeats) => {
                let other = repeats.iter().filter(|repeat| repeat["same_bytes"] == false).count();
                assert_eq!(other, 0, "a repeat of the same bytes");
                repeats.len()
            }
            count => usize::try_from(count.as_u64().unwrap()).unwrap(),
        };
    }
    (rows, marked)
}

fn folds_alike<P: Projection>(
    once: &[&Message],
    often: &[&Message],
    batches: &[usize],
    counts: impl Fn(&Message) -> bool,
) -> Result<(), TestCaseError> {
    let (expected, no_repeat) = settled(fold::<P>(once, &[]));
    prop_assert_eq!(no_repeat, 0);
    let (found, marked) = settled(fold::<P>(often, batches));
    prop_assert_eq!(found, expected, "{}", P::NAME);
    let count = |messages: &[&Message]| messages.iter().filter(|it| counts(it)).count();
    prop_assert_eq!(marked, count(often) - count(once), "repeats in {}", P::NAME);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_order_repetition_and_batching_gives_the_same_rows(
        messages in messages(),
        order in vec(any::<Index>(), 0..30),
        batches in vec(1_usize..6, 1..6),
    ) {
        let once: Vec<&Message> = messages.iter().collect();
        // A shuffle with repeats: the drawn events first, then the rest.
        let mut often: Vec<&Message> = order.iter().map(|index| index.get(&once)).copied().collect();
        for message in once.iter().rev() {
            if !often.iter().any(|drawn| drawn.id == message.id) {
                often.push(message);
            }
        }
        let reports = |message: &Message| reported_status(message.body.as_bytes()).is_some();
        let about_email = |message: &Message| {
            Delivery::parse(message.body.as_bytes()).email_id().is_some()
        };
        folds_alike::<Inbox>(&once, &often, &batches, reports)?;
        folds_alike::<EmailTimeline>(&once, &often, &batches, about_email)?;
        folds_alike::<Deliveries>(&once, &often, &batches, |_| true)?;
    }
}

/// The generator makes every kind of event that the property is about;
/// otherwise the property would hold without being tested.
#[test]
fn the_generator_makes_events_of_every_kind() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut statuses = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let body = body().new_tree(&mut runner).unwrap().current();
        statuses.extend(reported_status(body.as_bytes()).map(|(_, rank, _)| rank));
    }
    assert_eq!(
        statuses.into_iter().collect::<Vec<_>>(),
        [0, 10, 20, 30, 35, 40, 50, 60, 70, 80, 90, 100]
    );
}
