//! The webhook's contract: the deliveries that it takes and rejects, and the
//! parts of them that the log has.

use crate::in_process::InProcess;
use bytes::Bytes;
use exodrive_tests::{
    API, Answer, Delivery, Fixture, System, World, email_body, eventually, fixtures, sign,
    status_by_rank,
};
use futures::{StreamExt, stream};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use reqwest::Method;
use std::collections::{BTreeMap, HashMap};

const IN_FLIGHT: usize = 8;

/// Every fixture under its own id, each posted one to three times, in a random
/// order.
fn shuffled(prefix: &str, seed: u64) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for (n, Fixture { name, body }) in fixtures().into_iter().enumerate() {
        let delivery = Delivery::new(format!("{prefix}_{name}"), body);
        deliveries.extend(std::iter::repeat_n(delivery, 1 + n % 3));
    }
    deliveries.shuffle(&mut StdRng::seed_from_u64(seed));
    deliveries
}

async fn post_all(world: &System, deliveries: &[Delivery]) {
    let mut positions: HashMap<String, u64> = HashMap::new();
    let mut answers = stream::iter(deliveries)
        .map(async |delivery| (delivery, world.post(delivery).await))
        .buffer_unordered(IN_FLIGHT);
    while let Some((delivery, answer)) = answers.next().await {
        let receipt = answer.expect(200);
        assert_eq!(receipt["id"], delivery.id.as_str());
        let position = receipt["position"].as_u64().unwrap();
        assert_eq!(answer.header("exodrive-position"), position.to_string());
        let known = *positions.entry(delivery.id.clone()).or_insert(position);
        assert_eq!(known, position, "a repeat is answered with the first position");
    }
}

#[tokio::test]
async fn every_body_is_in_the_log_once_byte_for_byte_and_emails_have_the_highest_rank() {
    let world = InProcess::start().await;
    let first = shuffled("msg_first", 1);
    post_all(&world, &first).await;

    let events = world.views_equal_a_fresh_fold().await;
    let expected: BTreeMap<_, _> = first.iter().map(|it| (&it.id, &it.body)).collect();
    assert_eq!(expected.len(), fixtures().len());
    let stored: BTreeMap<_, _> = events.iter().map(|it| (&it.envelope.id, &it.body)).collect();
    assert_eq!(events.len(), expected.len(), "each once");
    assert_eq!(stored, expected);
    for event in &events {
        let received: HashMap<_, _> = event.provider_headers.iter().cloned().collect();
        assert_eq!(received["svix-id"], event.envelope.id);
        assert_eq!(received["content-type"], "application/json");
        let at: i64 = received["svix-timestamp"].parse().unwrap();
        let signature = sign(&world.webhook_secret, &event.envelope.id, at, &event.body);
        assert_eq!(received["svix-signature"], signature);
    }
    statuses_are_by_rank(&world, &first).await;
    assert_eq!(world.rows("deliveries").await.len(), expected.len());

    // The same facts come under other ids: they are stored again, and no status
    // changes.
    let second = shuffled("msg_second", 2);
    post_all(&world, &second).await;
    assert_eq!(world.views_equal_a_fresh_fold().await.len(), 2 * expected.len());
    statuses_are_by_rank(&world, &first).await;
}

async fn statuses_are_by_rank(world: &System, deliveries: &[Delivery]) {
    let expected = status_by_rank(deliveries);
    assert!(expected.len() > 10);
    for (email, status) in &expected {
        eventually("the cached view shows the status by rank", async || {
            let answer = world.get(&format!("/v1/inbox/{email}")).await;
            (answer.status == 200 && answer.json()["status"] == *status).then_some(())
        })
        .await;
    }
    let listed = world.get("/v1/inbox?limit=100").await.expect(200);
    let listed: BTreeMap<_, _> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|email| (email["id"].as_str().unwrap(), email["status"].as_str().unwrap()))
        .collect();
    assert_eq!(listed, expected.iter().map(|(id, status)| (id.as_str(), *status)).collect());
}

#[tokio::test]
async fn an_unsigned_delivery_is_rejected_and_leaves_nothing_in_the_log() {
    let world = World::start().await;
    let delivery = Delivery::new("msg_1", email_body("sent", "em-1", "2026-11-20T09:00:00Z", ""));
    let now = chrono::Utc::now().timestamp();
    let signature = sign(&world.webhook_secret, "msg_1", now, &delivery.body);
    let post = |headers: &[(&str, String)], body: &Bytes| {
        let request = world.request(Method::POST, "/v1/webhooks/resend").body(body.clone());
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, value.as_str()));
        async { Answer::of(request).await.unwrap() }
    };
    let id = ("svix-id", "msg_1".to_owned());
    let at = |seconds: i64| ("svix-timestamp", seconds.to_string());
    let signed = |value: String| ("svix-signature", value);
    let other = "whsec_b3RoZXIgc2VjcmV0IG9mIDI0IGJ5dGVzLi4u";
    let stale = sign(&world.webhook_secret, "msg_1", now - 400, &delivery.body);
    let changed = Bytes::from([&delivery.body[..], b" "].concat());
    for (what, headers, body) in [
        ("no header at all", vec![], &delivery.body),
        ("no signature", vec![id.clone(), at(now)], &delivery.body),
        ("no id", vec![at(now), signed(signature.clone())], &delivery.body),
        ("no timestamp", vec![id.clone(), signed(signature.clone())], &delivery.body),
        (
            "another secret",
            vec![id.clone(), at(now), signed(sign(other, "msg_1", now, &delivery.body))],
            &delivery.body,
        ),
        ("another body", vec![id.clone(), at(now), signed(signature.clone())], &changed),
        ("an old attempt", vec![id.clone(), at(now - 400), signed(stale)], &delivery.body),
    ] {
        let answer = post(&headers, body).await;
        assert_eq!(answer.status, 401, "{what}");
        answer.problem(401, "signature_invalid");
    }
    assert_eq!(world.log().await.last_position().await.unwrap(), 0);
    assert_eq!(world.metric(API, "exodrive_webhook_rejected_total").await, Some(7.0));
    // The same delivery with a valid signature: the rejections above had no
    // other cause.
    post(&[id, at(now), signed(signature)], &delivery.body).await.expect(200);
}

#[tokio::test]
async fn what_is_signed_is_taken_whatever_it_is() {
    let other = "whsec_c2Vjb25kIHNlY3JldCBvZiAzMiBieXRlcy4uLi4uLi4=";
    let first = "whsec_ZTJlIHdlYmhvb2sgc2VjcmV0IG9mIDMyIGJ5dGVzISE=";
    let both = format!("{first},{other}");
    let mut world = InProcess::with(&[("EXODRIVE_RESEND_WEBHOOK_SECRETS", &both)]).await;
    let mut sent: Vec<Delivery> = [
        ("unknown type", r#"{"type":"car.washed","created_at":"2026-11-20T09:00:00Z","data":{}}"#),
        ("unknown email type", r#"{"type":"email.framed","created_at":"2026-11-20T09:00:00Z","data":{"email_id":"em-1"}}"#),
        ("no data", r#"{"type":"email.sent","created_at":"2026-11-20T09:00:00Z"}"#),
        ("data of another shape", r#"{"type":"email.sent","created_at":7,"data":["em-1"]}"#),
        ("email id that fits no subject", r#"{"type":"email.sent","created_at":"2026-11-20T09:00:00Z","data":{"email_id":"a.b *>"}}"#),
        ("not JSON", "not json at all"),
        ("half of an object", r#"{"type":"email.sent","#),
        ("empty", ""),
        ("JSON, but no object", "[1,2,3]"),
    ]
    .into_iter()
    .enumerate()
    .map(|(n, (_, body))| Delivery::new(format!("msg_odd_{n}"), body))
    .collect();
    sent.push(Delivery::new("msg_binary", Bytes::from_static(b"\x00\xff\xfe{\r\n")));
    // The body is exactly as large as allowed.
    sent.push(Delivery::new("msg_large", vec![b'x'; 1 << 20]));
    for delivery in &sent {
        world.post(delivery).await.expect(200);
    }

    let too_large = Delivery::new("msg_too_large", vec![b'x'; (1 << 20) + 1]);
    world.post(&too_large).await.problem(413, "body_too_large");

    // The media type may be any, or missing.
    let now = chrono::Utc::now().timestamp();
    for (n, kind) in
        [Some("text/plain"), Some("application/octet-stream"), None].into_iter().enumerate()
    {
        let delivery = Delivery::new(format!("msg_kind_{n}"), "{}");
        let signature = sign(&world.webhook_secret, &delivery.id, now, &delivery.body);
        let mut request = world
            .request(Method::POST, "/v1/webhooks/resend")
            .header("svix-id", &delivery.id)
            .header("svix-timestamp", now)
            .header("svix-signature", signature)
            .body(delivery.body.clone());
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        Answer::of(request).await.unwrap().expect(200);
        sent.push(delivery);
    }

    // The header names of Standard Webhooks, several signatures, and the second
    // secret.
    let delivery = Delivery::new("msg_standard", "{}");
    let signatures = format!(
        "v1a,bm90IG91cnM= v1,bm90IG91cnM= {}",
        sign(other, &delivery.id, now, &delivery.body)
    );
    let request = world
        .request(Method::POST, "/v1/webhooks/resend")
        .header("Webhook-Id", &delivery.id)
        .header("Webhook-Timestamp", now)
        .header("Webhook-Signature", &signatures)
        .body(delivery.body.clone());
    Answer::of(request).await.unwrap().expect(200);
    sent.push(delivery);
    world.webhook_secret = other.to_owned();
    let delivery = Delivery::new("msg_second_secret", "{}");
    world.post(&delivery).await.expect(200);
    sent.push(delivery);

    let events = world.views_equal_a_fresh_fold().await;
    let stored: Vec<_> =
        events.iter().map(|it| Delivery::new(it.envelope.id.clone(), it.body.clone())).collect();
    assert_eq!(stored, sent);
    let standard = events.iter().find(|event| event.envelope.id == "msg_standard").unwrap();
    assert!(standard.provider_headers.contains(&("webhook-signature".to_owned(), signatures)));
    assert_eq!(world.rows("inbox").await.len(), 0, "none of it reports an event of an email");
}

#[tokio::test]
async fn fifty_copies_at_once_store_one() {
    let world = World::start().await;
    let delivery = Delivery::new("msg_50", email_body("sent", "em-1", "2026-11-20T09:00:00Z", ""));
    let answers = futures::future::join_all((0..50).map(|_| world.post(&delivery))).await;
    let receipts: Vec<_> = answers.iter().map(|answer| answer.expect(200)).collect();
    assert!(receipts.iter().all(|receipt| receipt["position"] == 1), "{receipts:?}");
    let new = receipts.iter().filter(|receipt| receipt["duplicate"] == false).count();
    assert_eq!(new, 1);
    assert_eq!(world.events().await.len(), 1);
    let email = world.request(Method::GET, "/v1/inbox/em-1").bearer_auth(world.token("auditor"));
    let email = email.header("exodrive-min-position", 1);
    let email = Answer::of(email).await.unwrap().expect(200);
    assert_eq!((&email["events"], &email["repeats"]), (&1.into(), &0.into()));
    assert_eq!(world.metric(API, "exodrive_webhook_appended_total").await, Some(1.0));
    assert_eq!(world.metric(API, "exodrive_webhook_duplicates_total").await, Some(49.0));
}

#[tokio::test]
async fn the_first_body_of_an_id_stays_and_others_are_counted() {
    let world = World::start().await;
    let at = chrono::Utc::now().to_rfc3339();
    let first = Delivery::new("msg_1", email_body("sent", "em-1", &at, ""));
    let other = Delivery::new("msg_1", email_body("complained", "em-1", &at, ""));
    let elsewhere = Delivery::new("msg_1", email_body("sent", "em-2", &at, ""));
    world.stored(&first).await;
    for changed in [&other, &elsewhere] {
        let receipt = world.post(changed).await.expect(200);
        assert_eq!((&receipt["duplicate"], &receipt["position"]), (&true.into(), &1.into()));
    }
    let events = world.views_equal_a_fresh_fold().await;
    assert_eq!(events.iter().map(|event| &event.body).collect::<Vec<_>>(), [&first.body]);
    let counted = world.metric(API, "exodrive_webhook_duplicates_with_different_body_total").await;
    assert_eq!(counted, Some(2.0));
    assert!(world.printed(API).contains("\"WARN\""), "the log has a warning");
}
