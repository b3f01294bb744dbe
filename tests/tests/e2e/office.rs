//! The reads of staff: dashboard, customers, and the timeline of a booking with
//! its email.

use crate::in_process::InProcess;
use exodrive_tests::{Client, Delivery, World, booking_body, car_body, day, email_body};
use serde_json::{Value, json};

async fn book_as(client: &Client, car: &str, n: i64, email: &str) -> Value {
    let mut body = booking_body(car, day(n), day(n + 1));
    body["customer"]["email"] = json!(email);
    client.post("/v1/bookings", &body).await.expect(201)
}

#[tokio::test]
async fn the_dashboard_counts_what_happened() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let (one, two) = (admin.add_car("one", 10_000).await, admin.add_car("two", 50_000).await);
    let euro = json!({"base_per_day_cents": 7_000, "currency": "EUR"});
    let three = admin.add_car_priced(&exodrive_tests::car_body("three"), &euro).await;
    let empty = admin.get_from(1, "/v1/dashboard").await.expect(200);
    assert_eq!(empty["revenue_this_month"], json!([]));
    let mut made = Vec::new();
    for n in 0..4 {
        made.push(book_as(&visitor, &one, n * 2, &format!("c{}@example.com", n % 3)).await);
    }
    made.push(book_as(&visitor, &two, 0, "C0@Example.com").await);
    made.push(book_as(&visitor, &three, 0, "d@example.com").await);
    let act = async |n: usize, action: &str, body: Value| {
        admin.act(&made[n], action, body).await.expect(200)
    };
    // Two bookings in dollars are paid, one of them in two parts and with a
    // partial refund.
    act(0, "capture-payment", json!({"amount_cents": 5_000})).await;
    act(0, "capture-payment", json!({})).await;
    act(1, "authorize-payment", json!({})).await;
    act(1, "send-contract", json!({})).await;
    act(1, "sign-contract", json!({})).await;
    act(2, "cancel", json!({})).await;
    act(4, "capture-payment", json!({})).await;
    act(4, "cancel", json!({})).await;
    act(4, "refund-payment", json!({"amount_cents": 30_000})).await;
    act(5, "capture-payment", json!({})).await;
    admin.post("/v1/cars/three/hide", &json!({})).await.expect(200);
    world.settled().await;
    let shown = admin.get("/v1/dashboard").await.expect(200);
    assert_eq!(
        shown["revenue_this_month"],
        json!([
            {"amount_cents": 14_000, "currency": "EUR"},
            {"amount_cents": 20_000 + 100_000 - 30_000, "currency": "USD"},
        ])
    );
    assert_eq!(shown["revenue_last_month"], json!([]));
    let statuses =
        json!({"pending_contract": 2, "upcoming": 1, "cancelled": 2, "pending_payment": 1});
    assert_eq!(shown["bookings"], statuses);
    assert_eq!((&shown["active"], &shown["upcoming"]), (&json!(0), &json!(1)));
    assert_eq!((&shown["cars"], &shown["customers"]), (&json!(2), &json!(4)));
    // Two cars in 30 days; car one has three bookings of two days each.
    assert_eq!(shown["occupancy_basis_points"], 6 * 10_000 / 60);
    assert_eq!(shown["popular_cars"][0]["car_id"], *one);
    assert_eq!(
        (&shown["popular_cars"][0]["name"], &shown["popular_cars"][0]["bookings"]),
        (&json!("Car one"), &json!(2))
    );
    assert_eq!(world.user("eve", "auditor").get("/v1/dashboard").await.status, 200);
}

#[tokio::test]
async fn customers_are_one_by_email_address_with_what_they_booked_and_paid() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let first = book_as(&visitor, &car, 0, "Ada@Example.com").await;
    let second = book_as(&world.user("ada", "customer"), &car, 2, "ada@example.com").await;
    assert_eq!(first["customer_id"], second["customer_id"]);
    let other = book_as(&visitor, &car, 4, "ben@example.com").await;
    assert_ne!(first["customer_id"], other["customer_id"]);
    admin.act(&first, "capture-payment", json!({})).await.expect(200);
    world.settled().await;
    let path = format!("/v1/customers/{}", first["customer_id"].as_str().unwrap());
    let ada = admin.get(&path).await.expect(200);
    assert_eq!((&ada["bookings"], &ada["user_id"]), (&json!(2), &json!("ada")));
    assert_eq!(ada["paid"], json!([{"amount_cents": 20_000, "currency": "USD"}]));
    assert_eq!(ada["email"], "ada@example.com", "as last given");
    let list = admin.get("/v1/customers").await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    let list = admin.get("/v1/customers?q=BEN@").await.expect(200);
    assert_eq!(list["data"][0]["id"], other["customer_id"]);
    let page = admin.get("/v1/customers?limit=1").await.expect(200);
    let next = page["next_cursor"].as_str().unwrap();
    let rest = admin.get(&format!("/v1/customers?limit=1&after={next}")).await.expect(200);
    assert_ne!(page["data"][0]["id"], rest["data"][0]["id"]);
    assert_eq!(rest["has_more"], false);
    admin.get("/v1/customers/nobody").await.problem(404, "not_found");
    admin.get("/v1/customers/a%00b").await.problem(404, "not_found");
    admin.get("/v1/customers?limit=x").await.problem(400, "invalid_request");

    // Another customer rents: the booking moves to their row.
    let body = json!({"email": "ben@example.com", "first_name": "Ben", "last_name": "B"});
    let changed = admin.act(&second, "customer", body).await;
    let position = changed.header("exodrive-position").parse().unwrap();
    assert_eq!(changed.expect(200)["customer_id"], other["customer_id"]);
    world.settled().await;
    assert_eq!(admin.get_from(position, &path).await.expect(200)["bookings"], 1);
    let bens = format!("/v1/customers/{}", other["customer_id"].as_str().unwrap());
    assert_eq!(admin.get(&bens).await.expect(200)["bookings"], 2);
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_payment_stays_with_who_paid_it_and_in_its_currency() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let euros = json!({"base_per_day_cents": 10_000, "currency": "EUR"});
    let other = admin.add_car_priced(&car_body("two"), &euros).await;
    let booking = book_as(&visitor, &car, 0, "ada@example.com").await;
    admin.act(&booking, "capture-payment", json!({})).await.expect(200);
    let to = json!({"car_id": other});
    let refused = admin.act(&booking, "move", to).await.problem(409, "car_not_bookable");
    assert!(refused["detail"].as_str().unwrap().contains("another currency"), "{refused}");
    let wrong = json!({"car_id": other, "keep_price": true, "expected_total_cents": 1});
    admin.act(&booking, "move", wrong).await.problem(409, "price_changed");

    let ben = json!({"email": "ben@example.com", "first_name": "Ben", "last_name": "B"});
    let changed = admin.act(&booking, "customer", ben).await.expect(200);
    let paid = async |customer: &Value| {
        world.settled().await;
        let path = format!("/v1/customers/{}", customer["customer_id"].as_str().unwrap());
        admin.get(&path).await.expect(200)["paid"].clone()
    };
    let whole = json!([{"amount_cents": 20_000, "currency": "USD"}]);
    assert_eq!((paid(&booking).await, paid(&changed).await), (whole, json!([])));
    admin.act(&booking, "cancel", json!({})).await.expect(200);
    let stay = json!({"car_id": car});
    admin.act(&booking, "move", stay).await.problem(409, "action_not_allowed");
    admin.act(&booking, "refund-payment", json!({})).await.expect(200);
    let nothing = json!([{"amount_cents": 0, "currency": "USD"}]);
    assert_eq!((paid(&booking).await, paid(&changed).await), (nothing, json!([])));
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn the_timeline_joins_email_that_comes_before_or_after_the_booking() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let email = async |id: &str, kind: &str, tag: &str| {
        let more = format!(r#","tags":{{"booking_id":"{tag}"}}"#);
        let body = email_body(kind, id, "2026-11-20T09:00:00Z", &more);
        world.stored(&Delivery::new(format!("msg_{id}_{kind}"), body)).await;
    };
    // The id is the same for the same command, so the test knows it before.
    let key = exodrive_tests::key();
    let body = booking_body(&car, day(0), day(0));
    let booking = visitor.post_as(&key, "/v1/bookings", &body).await.expect(201);
    let (id, reference) = (booking["id"].as_str().unwrap(), booking["reference"].as_str().unwrap());
    email("em-after", "sent", id).await;
    email("em-after", "delivered", id).await;
    email("em-reference", "sent", reference).await;
    email("em-other", "sent", "EXO-00000000").await;
    admin.act(&booking, "authorize-payment", json!({"reference": "pi_1"})).await.expect(200);
    admin.act(&booking, "cancel", json!({"reason": "ill"})).await.expect(200);
    world.settled().await;
    let path = format!("/v1/bookings/{id}/timeline");
    let timeline = world.user("eve", "auditor").get(&path).await.expect(200);
    let entries = timeline["data"].as_array().unwrap();
    let named = |kind: &str| -> Vec<&Value> {
        entries.iter().filter(|entry| entry["type"] == kind).collect()
    };
    assert_eq!(entries.len(), 5, "{timeline}");
    assert_eq!(named("exodrive.booking.held")[0]["actor"], "visitor");
    let cancelled = named("exodrive.booking.cancelled")[0];
    assert_eq!(
        (&cancelled["reason"], &cancelled["actor"]),
        (&json!("ill"), &json!("admin:admin-user"))
    );
    assert!(cancelled["correlation"].as_str().unwrap().starts_with("req_"));
    let emails = named("email");
    let of = |id: &str| emails.iter().find(|email| email["id"] == id).unwrap();
    assert_eq!(
        (&of("em-after")["status"], &of("em-after")["summary"]),
        (&json!("delivered"), &json!("Your booking"))
    );
    assert_eq!(of("em-reference")["status"], "sent");
    let missing = "/v1/bookings/4ef9a417-02e9-4d39-ad75-9611e0fcc33c/timeline";
    admin.get(missing).await.problem(404, "not_found");
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn email_that_comes_before_its_booking_is_in_its_timeline() {
    // The id of a booking is derived from the command, and from the log's own
    // key for MACs. The first world shows the id, and in the second the email
    // comes first.
    let (key, mut id, mut mac_key) = (exodrive_tests::key(), String::new(), None);
    let car_key = exodrive_tests::key();
    for email_first in [false, true] {
        let world = World::without_processes(&[]).await;
        world.migrate().await;
        let jetstream = world.jetstream().await;
        let keys = jetstream.get_stream("EXODRIVE_KEYS").await.unwrap();
        let stored = keys.get_last_raw_message_by_subject("exo-keys.mac").await.unwrap();
        match mac_key.take() {
            Some(mac_key) => {
                keys.delete_message(stored.sequence).await.unwrap();
                let sent = jetstream.publish("exo-keys.mac", mac_key).await.unwrap();
                sent.await.unwrap();
            }
            None => mac_key = Some(stored.payload),
        }
        world.start_api();
        world.start_worker(exodrive_tests::WORKER);
        world.wait_until("ready").await;
        let admin = world.admin();
        if email_first {
            let more = format!(r#","tags":{{"booking_id":"{id}"}}"#);
            let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", &more);
            world.stored(&Delivery::new("msg_1", body)).await;
            world.settled().await;
            // An email alone does not make a booking.
            let path = format!("/v1/bookings/{id}");
            admin.get(&path).await.problem(404, "not_found");
        }
        let car = admin.post_as(&car_key, "/v1/cars", &exodrive_tests::car_body("one")).await;
        let car = car.expect(201)["id"].as_str().unwrap().to_owned();
        let price = admin.request(reqwest::Method::PUT, &format!("/v1/cars/{car}/price"));
        let price = price.json(&json!({"base_per_day_cents": 10_000}));
        exodrive_tests::Answer::of(price).await.unwrap().expect(200);
        let body = booking_body(&car, day(0), day(0));
        let booking = admin.post_as(&key, "/v1/bookings", &body).await.expect(201);
        if email_first {
            assert_eq!(booking["id"], id);
            world.settled().await;
            let timeline = admin.get(&format!("/v1/bookings/{id}/timeline")).await.expect(200);
            let kinds: Vec<_> =
                timeline["data"].as_array().unwrap().iter().map(|entry| &entry["type"]).collect();
            assert_eq!(kinds, ["email", "exodrive.booking.held"]);
        }
        id = booking["id"].as_str().unwrap().to_owned();
    }
}
