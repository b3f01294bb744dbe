//! Deliveries as live traffic brings them: shaped like the provider's, about
//! 1.2 KB each, a few for each email, and those of one email apart.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use exodrive_domain::{Envelope, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION};
use exodrive_log::NewEvent;
use exodrive_tests::sign;
use rand::RngExt;
use serde_json::{Value, json};

/// The webhook secret of every system here.
pub(crate) const WEBHOOK_SECRET: &str = "whsec_YSBzZWNyZXQgb2YgdGhlIGJlbmNobWFyaywgMzIgYnk=";

/// The statuses of a mail that is read.
const LIFE: [&str; 6] = ["sent", "delivery_delayed", "delivered", "opened", "opened", "clicked"];
/// The number of later emails over which the events of one are spread.
const SPREAD: usize = 300;

/// An id in the form of a UUID.
pub(crate) fn uuid() -> String {
    let n: u128 = rand::random();
    let hex = format!("{n:032x}");
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// A delivery's id.
pub(crate) fn message_id() -> String {
    format!("msg_{:026x}", rand::random::<u64>())
}

/// The body of a delivery about an email.
pub(crate) fn body(kind: &str, email_id: &str, at: DateTime<Utc>) -> Bytes {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
    // A value that depends on the email must be the same in all of its reports.
    let n = u32::from_str_radix(&email_id[..6], 16).unwrap_or_default();
    let mut body = json!({
        "type": format!("email.{kind}"),
        "created_at": text(at),
        "data": {
            "created_at": text(at - TimeDelta::seconds(30)),
            "email_id": email_id,
            "message_id": format!("<014ef5ed{n:08x}-b82285ea-7888b4a09140-000000@email.example.com>"),
            "from": "ExoDrive Bookings <bookings@mail.example.com>",
            "to": [format!("guest.{n}@example.com")],
            "cc": [format!("assistant.{n}@example.net")],
            "reply_to": ["concierge@mail.example.com"],
            "subject": format!("Your booking BK-{n} is confirmed: pick-up on Saturday at 10:00, Berlin Mitte"),
            "tags": {
                "booking_id": format!("BK-{n}"),
                "car_id": format!("CAR-{}", n % 40),
                "email_type": "booking_confirmed",
                "locale": "en-GB",
            },
            "headers": [
                {"name": "List-Unsubscribe", "value": format!("<https://www.example.com/preferences/unsubscribe?recipient={email_id}&list=bookings>")},
                {"name": "List-Unsubscribe-Post", "value": "List-Unsubscribe=One-Click"},
                {"name": "X-Entity-Ref-ID", "value": format!("BK-{n}")},
            ],
        },
    });
    if kind == "clicked" {
        body["data"]["click"] = json!({
            "ipAddress": "198.51.100.24",
            "link": format!("https://www.example.com/bookings/BK-{n}?utm_source=email&step=2"),
            "timestamp": text(at),
            "userAgent": "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.1 Mobile/15E148 Safari/604.1",
        });
    } else {
        pad(&mut body);
    }
    body.to_string().into()
}

/// Brings the other bodies to the size of the longest.
fn pad(body: &mut Value) {
    body["data"]["headers"][1] = json!({
        "name": "References",
        "value": "<CAJ7q9xT5m2wKbWq81vYpZ0cRkD3nUeHs@mail.example.net> <CAJ7q9xT5m2wKbWq81vYpZ0cRkD3nUeHt@mail.example.net> <CAJ7q9xT5m2wKbWq81vYpZ0cRkD3nUeHu@mail.example.net> <CAJ7q9xT5m2wKbWq81vYpZ0cRkD3nUeHv@mail.example.net>",
    });
}

/// Events in the form in which the webhook appends them, and the ids of their
/// emails.
pub(crate) fn traffic(events: usize) -> (Vec<NewEvent>, Vec<String>) {
    let ids: Vec<_> = (0..events.div_ceil(LIFE.len())).map(|_| uuid()).collect();
    let mut random = rand::rng();
    let mut order: Vec<_> = (0..events)
        .map(|n| {
            let (email, step) = (n / LIFE.len(), n % LIFE.len());
            let later = if step == 0 { 0 } else { random.random_range(1..SPREAD) };
            (email + later, email, step)
        })
        .collect();
    order.sort_unstable();
    let began = Utc::now();
    let event = |(n, (_, email, step)): (usize, (usize, usize, usize))| {
        let at = began + TimeDelta::milliseconds(i64::try_from(n).unwrap_or_default());
        new_event(LIFE[step], &ids[email], at)
    };
    let events = order.into_iter().enumerate().map(event).collect();
    (events, ids)
}

/// An event as the webhook would append it.
pub(crate) fn new_event(kind: &str, email_id: &str, at: DateTime<Utc>) -> NewEvent {
    let (id, body) = (message_id(), body(kind, email_id, at));
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let trace: u128 = rand::random();
    NewEvent {
        subject: email_id.parse().map_or(Subject::Provider, Subject::Email),
        provider_headers: vec![
            header("svix-id", &id),
            header("svix-timestamp", &at.timestamp().to_string()),
            header("svix-signature", &sign(WEBHOOK_SECRET, &id, at.timestamp(), &body)),
            header("content-type", "application/json"),
        ],
        envelope: Envelope {
            id,
            kind: WEBHOOK_RECEIVED.to_owned(),
            version: WEBHOOK_RECEIVED_VERSION,
            source: "resend".to_owned(),
            time: at,
            traceparent: Some(format!("00-{trace:032x}-b7ad6b7169203331-01")),
            causation: None,
            correlation: Some(format!("req_{trace:032x}")),
            actor: Some("provider:resend".to_owned()),
        },
        body,
    }
}

/// A webhook about an email, as the provider posts it, signed now, in its bytes.
pub(crate) fn webhook(kind: &str, email_id: &str) -> Vec<u8> {
    let (id, now) = (message_id(), Utc::now());
    let body = body(kind, email_id, now);
    let signature = sign(WEBHOOK_SECRET, &id, now.timestamp(), &body);
    let mut request = format!(
        "POST /v1/webhooks/resend HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nsvix-id: {id}\r\nsvix-timestamp: {}\r\nsvix-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
        now.timestamp(),
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}
