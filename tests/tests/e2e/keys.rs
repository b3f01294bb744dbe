//! The store of data keys: who may write what in it, and what is believed.

use crate::in_process::InProcess;
use async_nats::jetstream::stream::Config;
use exodrive_domain::{Envelope, Subject, id::HoldId};
use exodrive_log::{Log, NewEvent, ReadError};
use exodrive_tests::{
    API, DATA_KEYS, Delivery, PermissionErrors, System, WORKER, World, booking_body, day,
    email_body, eventually, jetstream_as, key, open_log,
};
use futures::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// An erasure that nobody has asked for.
const NO_ERASURE: &str = "0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4";

/// Stores a delivery about an email of its own; gives its position.
async fn mail(world: &System, email: &str) -> u64 {
    let body = email_body("sent", email, "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new(format!("msg_{email}"), body)).await
}

/// True if the event reads `erased`, for a process that starts now.
async fn is_erased(world: &System, position: u64) -> Result<bool, ReadError> {
    let log = open_log(&world.urls().nats).await;
    Ok(log.read_event(position).await?.unwrap().is_erased())
}

/// Erases a person; returns when it is done.
async fn erase(world: &System, address: &str) {
    let asked = ["audit", "erase", "--email-address", address, "--reason=asked", "--json"];
    let asked: Value = serde_json::from_str(&world.exodrive_prints(&asked).await).unwrap();
    let id = asked["id"].as_str().unwrap();
    world.exodrive_prints(&["audit", "approve", id, "--single-handed"]).await;
}

fn tombstone(mac: Option<&str>) -> Value {
    json!({"erased": {"erasure": NO_ERASURE, "at": "2026-11-20T09:00:00Z", "mac": mac}})
}

fn mac(log: &Log, name: &str) -> String {
    log.mac("tombstone", format!("{name}\0{NO_ERASURE}").as_bytes())
}

#[tokio::test]
async fn a_false_tombstone_erases_nobody() {
    let world = InProcess::start().await;
    let position = mail(&world, "em-1").await;
    let refusals = PermissionErrors::default();
    let api = jetstream_as(&world.urls().nats, refusals.clone()).await;
    let worker = jetstream_as(&world.urls().nats_worker, PermissionErrors::default()).await;
    let right_mac = mac(&open_log(&world.urls().nats).await, "email.em-1");
    let publish = async |by: &async_nats::jetstream::Context, subject: &str, body: Value| {
        let sent = by.publish(subject.to_owned(), body.to_string().into()).await.unwrap();
        let limit = std::time::Duration::from_secs(1);
        tokio::time::timeout(limit, sent.into_future()).await.is_ok_and(|it| it.is_ok())
    };

    // Whoever takes over the API can write no tombstone, and nothing over a key.
    for subject in ["exo-tombstones.email.em-1", "exo-wrapped-a.email.em-1", "exo-keys.mac"] {
        assert!(!publish(&api, subject, tombstone(Some(&right_mac))).await, "{subject}");
    }
    assert_eq!(refusals.lock().unwrap().len(), 3, "{refusals:?}");
    assert!(!publish(&api, "exo-keys.email.em-1", tombstone(None)).await, "a key is written once");
    assert!(!is_erased(&world, position).await.unwrap());

    // Whoever has the worker's user has no wrapping key: the MAC is wrong.
    assert!(publish(&worker, "exo-tombstones.email.em-1", tombstone(Some("0"))).await);
    assert!(!is_erased(&world, position).await.unwrap());
    let keys = worker.get_stream("EXODRIVE_KEYS").await.unwrap();
    let stored = keys.get_last_raw_message_by_subject("exo-tombstones.email.em-1").await.unwrap();
    keys.delete_message(stored.sequence).await.unwrap();
    // With the wrapping keys as well, the log still tells of no erasure.
    assert!(publish(&worker, "exo-tombstones.email.em-1", tombstone(Some(&right_mac))).await);
    assert!(!is_erased(&world, position).await.unwrap());

    // It does not stand in the way of a true erasure, either.
    erase(&world, "guest@example.com").await;
    assert!(is_erased(&world, position).await.unwrap());
    let gone = keys.get_last_raw_message_by_subject("exo-keys.email.em-1").await;
    assert!(gone.is_err(), "the key is deleted");
}

#[tokio::test]
async fn a_start_without_the_key_of_macs_says_what_to_do() {
    let world = InProcess::start().await;
    let operator = world.jetstream().await;
    let keys = operator.get_stream("EXODRIVE_KEYS").await.unwrap();
    let stored = keys.get_last_raw_message_by_subject("exo-keys.mac").await.unwrap();
    keys.delete_message(stored.sequence).await.unwrap();
    let junk = operator.publish("exo-keys.mac", "junk".into()).await.unwrap().await.unwrap();
    let refused = world.exodrive(&["work"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    let remedy = format!("nats stream rmm EXODRIVE_KEYS {}", junk.sequence);
    assert!(said.contains(&remedy) && said.contains("from a backup"), "{said}");
    keys.delete_message(junk.sequence).await.unwrap();
    operator.publish("exo-keys.mac", stored.payload).await.unwrap().await.unwrap();
    open_log(&world.urls().nats).await;
}

#[tokio::test]
async fn a_process_refuses_a_user_who_may_do_more_than_it_should() {
    let mut world = InProcess::start().await;
    let (api, worker) = (world.urls().nats.clone(), world.urls().nats_worker.clone());
    let operator = world.urls().nats_operator.clone();
    for (name, url, command) in [
        ("EXODRIVE_NATS_URL", &operator, "serve"),
        ("EXODRIVE_NATS_URL", &worker, "serve"),
        ("EXODRIVE_NATS_WORKER_URL", &operator, "work"),
    ] {
        world.set("EXODRIVE_NATS_URL", &api);
        // One user for both would be the worker's.
        world.set("EXODRIVE_NATS_WORKER_URL", &operator);
        world.set(name, url);
        let refused = world.exodrive(&[command]).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("`exodrive {command}` may publish to ")), "{said}");
        assert!(said.contains("EXODRIVE_NATS_USERS"), "{said}");
    }
    world.set("EXODRIVE_NATS_URL", &operator);
    world.set("EXODRIVE_NATS_USERS", "any");
    // It comes as far as the address, which the test's own API has.
    let refused = world.exodrive(&["serve"]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("cannot listen on"), "{said}");
}

#[tokio::test]
async fn the_keys_of_an_earlier_release_are_carried_over() {
    let world = World::start().await;
    let (kept, erased) = (mail(&world, "em-1").await, mail(&world, "em-2").await);
    world.settled().await;
    world.kill(API);
    world.kill(WORKER);
    let operator = world.jetstream().await;
    let stream = operator.get_stream("EXODRIVE_KEYS").await.unwrap();
    let info = stream.get_info().await.unwrap();
    let mut records = Vec::new();
    for sequence in 1..=info.state.last_sequence {
        let record = stream.get_raw_message(sequence).await.unwrap();
        records.push((record.subject.to_string(), record.payload));
    }
    // As an earlier release has made and filled it.
    operator.delete_stream("EXODRIVE_KEYS").await.unwrap();
    let earlier = Config {
        subjects: vec!["exo-keys.>".to_owned()],
        max_messages_per_subject: -1,
        discard_new_per_subject: false,
        metadata: Default::default(),
        ..info.config
    };
    let stream = operator.create_stream(earlier).await.unwrap();
    let put = async |subject: &str, body: bytes::Bytes| {
        operator.publish(subject.to_owned(), body).await.unwrap().await.unwrap().sequence
    };
    for (subject, body) in records {
        let body = match subject.as_str() {
            "exo-keys.email.em-2" => tombstone(None).to_string().into(),
            _ => body,
        };
        put(&subject, body).await;
    }
    for command in ["serve", "work"] {
        let refused = world.exodrive(&[command]).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            said.contains("stream EXODRIVE_KEYS") && said.contains("exodrive migrate"),
            "{said}"
        );
    }
    // Somebody has written over a key: the server would delete the key itself.
    let junk = put("exo-keys.email.em-1", "junk".into()).await;
    let refused = world.exodrive(&["migrate"]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("exo-keys.email.em-1") && said.contains("nats stream rmm"), "{said}");
    stream.delete_message(junk).await.unwrap();

    world.migrate().await;
    assert!(!is_erased(&world, kept).await.unwrap());
    assert!(is_erased(&world, erased).await.unwrap(), "its tombstone was there before");
    // A tombstone of that kind which comes later is none.
    let last = stream.get_last_raw_message_by_subject("exo-keys.email.em-1").await.unwrap();
    stream.delete_message(last.sequence).await.unwrap();
    put("exo-keys.email.em-1", tombstone(None).to_string().into()).await;
    let refused = is_erased(&world, kept).await;
    assert!(matches!(refused, Err(ReadError::KeyMissing { .. })), "{refused:?}");
    world.migrate().await;
    assert!(is_erased(&world, erased).await.unwrap(), "it may be repeated");
}

/// The wrapping key that the tests retire the first one for.
const NEW_KEY: &str = "2:YW5vdGhlciB3cmFwcGluZyBrZXksIDMyIGJ5dGVzISE=";

#[tokio::test]
async fn a_wrapping_key_is_retired() {
    let mut world = World::start().await;
    let (kept, erased) = (mail(&world, "em-1").await, mail(&world, "em-2").await);
    let body = email_body("sent", "em-2", "2026-11-20T09:00:00Z", "");
    let body = body.replace("guest@example.com", "gone@example.com");
    world.stored(&Delivery::new("msg_gone", body)).await;
    let car = world.admin().add_car("one", 10_000).await;
    let booking = world.visitor().booked(&car, day(0), day(1)).await;
    erase(&world, "gone@example.com").await;
    world.settled().await;
    world.kill(API);
    world.kill(WORKER);

    world.set("EXODRIVE_DATA_KEYS", NEW_KEY);
    let refused = world.exodrive(&["audit", "rewrap"]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("wrapping key 1") && said.contains("EXODRIVE_DATA_KEYS"), "{said}");
    world.set("EXODRIVE_DATA_KEYS", &format!("{NEW_KEY},{DATA_KEYS}"));
    let rewrap = async || -> Value {
        serde_json::from_str(&world.exodrive_prints(&["audit", "rewrap", "--json"]).await).unwrap()
    };
    let done = rewrap().await;
    let count = |report: &Value, name: &str| report[name].as_u64().unwrap();
    assert!(count(&done, "rewrapped") >= 4, "the key of MACs, an email's, a customer's: {done}");
    assert_eq!((count(&done, "already"), count(&done, "version")), (0, 2));
    assert!(count(&done, "destroyed") >= 1, "{done}");
    let again = rewrap().await;
    assert_eq!(count(&again, "rewrapped"), 0, "{again}");
    assert_eq!(count(&again, "already"), count(&done, "rewrapped"));
    let operator = world.jetstream().await;
    let stream = operator.get_stream("EXODRIVE_KEYS").await.unwrap();
    for sequence in 1..=stream.get_info().await.unwrap().state.last_sequence {
        if let Ok(record) = stream.get_raw_message(sequence).await {
            let body = String::from_utf8_lossy(&record.payload).into_owned();
            assert!(!body.contains(r#""wrapped_by":1"#), "{} {body}", record.subject);
        }
    }

    // The old key is taken away: everything is as it was, and goes on.
    world.set("EXODRIVE_DATA_KEYS", NEW_KEY);
    world.start_api();
    world.start_worker(WORKER);
    world.wait_until("ready").await;
    let raw = async |position: u64| world.get(&format!("/v1/deliveries/{position}/raw")).await;
    assert_eq!(raw(kept).await.status, 200);
    raw(erased).await.problem(410, "erased");
    world.admin().act(&booking, "notes", json!({"text": "after"})).await.expect(200);
    let again = world.visitor().booked(&car, day(5), day(6)).await;
    assert_eq!(again["customer_id"], booking["customer_id"], "the customer is found again");
    let verified = world.exodrive(&["projections", "verify", "--all"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test]
async fn a_mac_of_erased_data_confirms_no_guess() {
    let world = InProcess::start().await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    let position = world.stored(&Delivery::new("msg_1", body.clone())).await;
    let stored = async || {
        let log = open_log(&world.urls().nats).await;
        let stored = log.read_stored(position).await.unwrap().unwrap();
        stored.headers.into_iter().find(|(name, _)| name == "exo-mac").unwrap().1
    };
    let mac = stored().await;
    let log = open_log(&world.urls().nats).await;
    // The log's own key for MACs, which is there for ever, did not make it.
    assert!(!mac.contains(&log.mac("msg_1", body.as_bytes())));
    // It is the same for the same bytes: a repeat that is stored again is seen to be one.
    world.stored(&Delivery::new("msg_1", body)).await;
    world.settled().await;
    erase(&world, "guest@example.com").await;
    assert_eq!(stored().await, mac, "the log is as it was");
}

#[tokio::test]
async fn who_comes_back_after_an_erasure_is_a_new_customer() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let first = visitor.booked(&car, day(0), day(1)).await;
    let second = visitor.booked(&car, day(2), day(3)).await;
    assert_eq!(first["customer_id"], second["customer_id"], "one address is one customer");
    let mut spelt = booking_body(&car, day(4), day(5));
    spelt["customer"]["email"] = json!("ADA@Example.com");
    let spelt = visitor.post("/v1/bookings", &spelt).await.expect(201);
    assert_eq!(first["customer_id"], spelt["customer_id"], "however it is spelt");
    admin.act(&first, "authorize-payment", json!({})).await.expect(200);
    world.settled().await;

    erase(&world, "ada@example.com").await;
    let back = visitor.booked(&car, day(10), day(11)).await;
    assert_ne!(back["customer_id"], first["customer_id"]);
    let again = visitor.booked(&car, day(12), day(13)).await;
    assert_eq!(back["customer_id"], again["customer_id"], "and then stays the same");
    world.settled().await;
    let id = |booking: &Value| booking["customer_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/customers/{}", id(&back));
    let shown = admin.get(&path).await.expect(200);
    assert_eq!(shown["bookings"], 2, "nothing of before is shown with them: {shown}");
    let list = admin.get(&format!("/v1/bookings?customer_id={}", id(&back))).await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    // Staff can still work with the bookings of before.
    admin.act(&second, "notes", json!({"text": "left the keys"})).await.expect(200);
    // No index is left of who was erased: the key store says nothing of them.
    let operator = world.jetstream().await;
    let stream = operator.get_stream("EXODRIVE_KEYS").await.unwrap();
    let mut subjects = stream.info_with_subjects("*.index.>").await.unwrap();
    let mut indexes = 0;
    while let Some(subject) = futures::StreamExt::next(&mut subjects).await {
        subject.unwrap();
        indexes += 1;
    }
    assert_eq!(indexes, 1);
}

#[tokio::test]
async fn first_bookings_of_one_address_at_once_are_of_one_customer() {
    let world = InProcess::start().await;
    let names = world.serve_from(3).await;
    let car = world.admin().add_car("one", 10_000).await;
    for round in 0..5 {
        let bookings = (0..9).map(|n: i64| {
            let process = &names[usize::try_from(n).unwrap() % names.len()];
            let client = world.visitor().at(&world, process);
            let first = day(round * 20 + n * 2);
            let mut body = booking_body(&car, first, first);
            body["customer"]["email"] = json!(format!("new-{round}@example.com"));
            async move { client.post("/v1/bookings", &body).await.expect(201) }
        });
        let made = join_all(bookings).await;
        let customers: BTreeSet<_> =
            made.iter().map(|booking| booking["customer_id"].to_string()).collect();
        assert_eq!(customers.len(), 1, "{customers:?}");
    }
}

#[tokio::test]
async fn what_is_refused_makes_no_customer() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 10_000).await;
    world.visitor().booked(&car, day(0), day(1)).await;
    let keys = async || {
        let stream = world.jetstream().await.get_stream("EXODRIVE_KEYS").await.unwrap();
        stream.get_info().await.unwrap().state.last_sequence
    };
    let before = keys().await;
    let mut body = booking_body(&car, day(0), day(1));
    body["customer"]["email"] = json!("late@example.com");
    world.visitor().post("/v1/bookings", &body).await.problem(409, "dates_unavailable");
    assert_eq!(keys().await, before);
}

/// The number of indexes by which holds are found.
async fn indexes_of_holds(world: &System) -> usize {
    let stream = world.jetstream().await.get_stream("EXODRIVE_KEYS").await.unwrap();
    let subjects = stream.info_with_subjects("*.hold.>").await.unwrap();
    futures::StreamExt::count(subjects).await
}

/// The id that an earlier release has given to a hold on an address.
async fn earlier_hold(world: &System, address: &str) -> HoldId {
    let log = open_log(&world.urls().nats).await;
    uuid_of(log.mac_bytes("hold", address.as_bytes())).parse().unwrap()
}

/// Places a hold on an address, or lifts it; gives its id.
async fn hold(world: &System, address: &str, held: bool) -> String {
    let body = json!({"email_address": address, "reason": "case 12", "held": held});
    let request = world.request(reqwest::Method::POST, "/v1/operator/holds").json(&body);
    let request = request.bearer_auth(world.token("operator"));
    let answer = exodrive_tests::Answer::of(request).await.unwrap().expect(200);
    answer["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_id_of_a_hold_says_nothing_of_who_is_erased() {
    const ADDRESS: &str = "guest@example.com";
    let world = InProcess::start().await;
    mail(&world, "em-1").await;
    let id = hold(&world, ADDRESS, true).await;
    assert_eq!(hold(&world, "GUEST@example.com", true).await, id, "an address has one");
    assert_ne!(id, earlier_hold(&world, ADDRESS).await.to_string(), "a key that stays made it");
    let ask = ["audit", "erase", "--email-address", ADDRESS, "--reason=asked", "--json"];
    let refused = world.exodrive(&ask).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("case 12"));
    assert_eq!(hold(&world, ADDRESS, false).await, id);

    // One more is asked for meanwhile.
    let other: Value = serde_json::from_str(&world.exodrive_prints(&ask).await).unwrap();
    erase(&world, ADDRESS).await;
    eventually("nothing is left by which it was found", async || {
        let left = indexes_of_holds(&world).await;
        (left == 0).then_some(()).ok_or(left)
    })
    .await;
    let named: BTreeSet<_> = world
        .events()
        .await
        .iter()
        .filter_map(|event| {
            serde_json::from_slice::<Value>(&event.body).ok()?.get("hold_id").cloned()
        })
        .collect::<Vec<_>>()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(named, BTreeSet::from([json!(id).to_string()]), "the log names this one");
    // Who comes back has another; it counts for whatever is asked for already.
    let back = hold(&world, ADDRESS, true).await;
    assert_ne!(back, id);
    let other = other["id"].as_str().unwrap();
    let refused = world.exodrive(&["audit", "approve", other, "--single-handed"]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("case 12"));
    assert_eq!(indexes_of_holds(&world).await, 1);
}

#[tokio::test]
async fn a_hold_of_an_earlier_release_counts_until_it_is_lifted() {
    const ADDRESS: &str = "guest@example.com";
    let world = InProcess::start().await;
    mail(&world, "em-1").await;
    let id = earlier_hold(&world, ADDRESS).await;
    let event = NewEvent {
        subject: Subject::Hold(id),
        envelope: Envelope::decision("exodrive.hold.placed", key(), chrono::Utc::now()),
        provider_headers: Vec::new(),
        body: json!({"hold_id": id, "type": "placed", "reason": "case 7"}).to_string().into(),
    };
    open_log(&world.urls().nats).await.append_decision(&event, 0).await.unwrap();
    let ask = ["audit", "erase", "--email-address", ADDRESS, "--reason=asked"];
    let refused = world.exodrive(&ask).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("case 7"));
    assert_eq!(hold(&world, ADDRESS, false).await, id.to_string());
    world.exodrive_prints(&ask).await;
    assert_ne!(
        hold(&world, ADDRESS, true).await,
        id.to_string(),
        "the next one is found otherwise"
    );
}

/// The id that an earlier release has derived from an address and the tests' link secret.
fn earlier_id(address: &str) -> String {
    let secret = b"e2e-link-secret-9f20c1-c4d86b13e";
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let tag = ring::hmac::sign(&key, format!("customer\n{address}").as_bytes());
    uuid_of(tag.as_ref()[..16].try_into().unwrap())
}

/// A UUID of these bytes, as RFC 9562 says for version 8.
fn uuid_of(mut id: [u8; 16]) -> String {
    (id[6], id[8]) = (id[6] & 0x0f | 0x80, id[8] & 0x3f | 0x80);
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[tokio::test]
async fn customers_of_an_earlier_release_keep_their_ids() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 10_000).await;
    let id = earlier_id("ada@example.com");
    // An earlier release has stored no index, only the customer's data key. The event with which
    // it comes into being does not matter.
    let other_car = "0190a0b1-0000-7000-8000-000000000001";
    let body = json!({"customer_id": id, "reason": "an earlier reason"});
    let event = NewEvent {
        subject: Subject::Booking(other_car.parse().unwrap()),
        envelope: Envelope::decision("exodrive.booking.lent_out", key(), chrono::Utc::now()),
        provider_headers: Vec::new(),
        body: serde_json::to_vec(&body).unwrap().into(),
    };
    open_log(&world.urls().nats).await.append_decision(&event, 0).await.unwrap();
    let booking = world.visitor().booked(&car, day(0), day(1)).await;
    assert_eq!(booking["customer_id"], id);
    let mut other = booking_body(&car, day(4), day(5));
    other["customer"]["email"] = json!("bo@example.com");
    let other = world.visitor().post("/v1/bookings", &other).await.expect(201);
    assert_ne!(other["customer_id"], earlier_id("bo@example.com"), "a new one is found otherwise");
}
