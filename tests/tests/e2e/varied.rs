//! A run with a little of everything.

use chrono::Utc;
use exodrive_domain::{
    DECISION_VERSION, Envelope, Subject, WEBHOOK_RECEIVED, WEBHOOK_RECEIVED_VERSION,
    access::{ACCESS_RECORDED, AccessEntry, AccessEvent},
};
use exodrive_log::NewEvent;
use exodrive_tests::{Delivery, System, booking_body, day, email_body, fixtures};
use serde_json::{Value, json};
use std::time::Duration;

/// A short duplicate window, so that repeats reach the log.
pub(crate) const SHORT_WINDOW: (&str, &str) = ("EXODRIVE_DUPLICATE_WINDOW", "500ms");

/// Cars, blocks, bookings that move between cars and customers, payments, and
/// mail of every kind, some of it stored again, and reads of it. Needs [`SHORT_WINDOW`].
pub(crate) async fn happens(world: &System) {
    let (admin, visitor) = (world.admin(), world.visitor());
    let one = admin.add_car("one", 10_000).await;
    let two = admin.add_car("two", 20_000).await;
    let block = json!({"start_date": day(30), "end_date": day(33), "reason": "tyres"});
    for car in [&one, &two] {
        let blocked = admin.post(&format!("/v1/cars/{car}/blocks"), &block).await.expect(201);
        if car == &one {
            let path = format!("/v1/cars/{car}/blocks/{}", blocked["id"].as_str().unwrap());
            let gone = admin.request(reqwest::Method::DELETE, &path);
            assert!(gone.send().await.unwrap().status().is_success());
        }
    }
    let mut made = Vec::new();
    for n in 0..5_i64 {
        let mut body = booking_body(if n % 2 == 0 { &one } else { &two }, day(n * 3), day(n * 3));
        body["customer"]["email"] = json!(format!("c{}@example.com", n % 3));
        made.push(visitor.post("/v1/bookings", &body).await.expect(201));
    }
    let act = async |booking: &Value, action: &str, body: Value| {
        admin.act(booking, action, body).await.expect(200)
    };
    act(&made[0], "capture-payment", json!({"amount_cents": 4_000})).await;
    act(&made[0], "move", json!({"car_id": two, "reason": "tyres"})).await;
    act(&made[0], "capture-payment", json!({})).await;
    act(&made[0], "move", json!({"car_id": one, "reason": "back"})).await;
    let other = json!({"email": "c9@example.com", "first_name": "Cai", "last_name": "Nine"});
    act(&made[0], "customer", other).await;
    act(&made[1], "authorize-payment", json!({"reference": "pi_1"})).await;
    act(&made[1], "notes", json!({"text": "window seat"})).await;
    act(&made[2], "capture-payment", json!({})).await;
    act(&made[2], "cancel", json!({"reason": "ill"})).await;
    act(&made[2], "refund-payment", json!({"amount_cents": 3_000})).await;
    act(&made[3], "reschedule", json!({"start_date": day(20), "end_date": day(22)})).await;
    admin.post("/v1/cars/two/hide", &json!({})).await.expect(200);

    let booking = made[0]["id"].as_str().unwrap();
    let tags = [booking.to_string(), "odd/email/tag".to_owned()];
    for (n, kind) in ["sent", "delivered", "opened", "bounced", "clicked"].iter().enumerate() {
        let more = format!(r#","tags":{{"booking_id":"{}"}}"#, tags[n % 2]);
        let at = format!("2026-11-20T09:0{}:00Z", 5 - n);
        let body = email_body(kind, &format!("em-{}", n % 2), &at, &more);
        world.stored(&Delivery::new(format!("msg_{n}"), body)).await;
    }
    for fixture in fixtures() {
        world.stored(&Delivery::new(format!("msg/{}", fixture.name), fixture.body)).await;
    }
    world.stored(&Delivery::new("msg_odd", "no json")).await;

    // Stored again because no check recognises the repeat: the same body, and
    // others, also about another email.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let same = email_body("sent", "em-0", "2026-11-20T09:05:00Z", "");
    let again = |id: &str, subject: Subject, body: String| NewEvent {
        subject,
        envelope: Envelope {
            id: id.to_owned(),
            kind: WEBHOOK_RECEIVED.to_owned(),
            version: WEBHOOK_RECEIVED_VERSION,
            source: "resend".to_owned(),
            time: Utc::now(),
            traceparent: None,
            causation: None,
            correlation: None,
            actor: None,
        },
        provider_headers: Vec::new(),
        body: body.into(),
    };
    let log = world.log().await;
    let email = |id: &str| Subject::Email(id.parse().unwrap());
    let elsewhere = email_body("sent", "em-7", "2026-11-20T09:05:00Z", "");
    for event in [
        again("msg_0", email("em-0"), same),
        again("msg_1", email("em-7"), elsewhere.clone()),
        again("msg_odd", Subject::Provider, "no json".to_owned()),
        again("msg_2", Subject::Provider, "no json either".to_owned()),
        again("msg_8", email("em-7"), elsewhere),
    ] {
        log.append_fact(&event).await.unwrap();
    }
    let access = |actor: &str, key: Option<&str>| AccessEntry {
        actor: actor.to_owned(),
        resource: "email".to_owned(),
        key: key.map(str::to_owned),
        route: "GET /v1/inbox/{email_id}".to_owned(),
        count: 1,
        first_at: Utc::now(),
        last_at: Utc::now(),
        request_id: None,
    };
    let entries = vec![
        access("auditor:ada", Some("em-0")),
        access("admin:ben", Some("em-0")),
        access("admin:ben", None),
    ];
    for n in 0..2 {
        let body = serde_json::to_string(&AccessEvent { entries: entries.clone() }).unwrap();
        let mut event = again(&format!("access_{n}"), Subject::Access, body);
        event.envelope.kind = ACCESS_RECORDED.to_owned();
        event.envelope.version = DECISION_VERSION;
        log.append_fact(&event).await.unwrap();
    }
}
