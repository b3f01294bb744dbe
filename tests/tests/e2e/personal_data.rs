//! Personal data of customers is shown to those who may know it. It is in no
//! log line and in no cached state.

use crate::telemetry::LOUD;
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{API, Answer, WORKER, World, booking_body, day, eventually, key};
use reqwest::Method;
use serde_json::{Value, json};

const CANARY: &str = "canary-51c9";

fn customer() -> Value {
    json!({
        "email": format!("{CANARY}@example.com"), "first_name": format!("{CANARY} Ada"),
        "last_name": format!("{CANARY} Byron"), "phone": format!("{CANARY} 555"),
    })
}

/// Makes bookings, and every failure that they can have.
async fn live(world: &World) {
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let other = admin.add_car("two", 10_000).await;
    let mut body = booking_body(&car, day(0), day(1));
    body["customer"] = customer();
    body["notes"] = json!(format!("{CANARY} note"));
    let booking_key = key();
    let booking = visitor.post_as(&booking_key, "/v1/bookings", &body).await.expect(201);
    visitor.post_as(&booking_key, "/v1/bookings", &body).await.expect(201);
    visitor.post("/v1/bookings", &body).await.problem(409, "dates_unavailable");
    let id = booking["id"].as_str().unwrap();
    let reason = json!({"reason": format!("{CANARY} reason")});
    for (action, more) in [
        ("notes", json!({"text": format!("{CANARY} text")})),
        ("customer", customer()),
        ("fail-payment", reason.clone()),
        ("decline-contract", reason.clone()),
        ("authorize-payment", json!({"reference": format!("{CANARY} ref")})),
        ("move", json!({"car_id": other, "reason": format!("{CANARY} reason")})),
        ("cancel", reason.clone()),
        ("cancel", reason.clone()),
    ] {
        if action == "decline-contract" {
            admin.act(&booking, "send-contract", json!({})).await.expect(200);
        }
        let answer = admin.post_as(&key(), &format!("/v1/bookings/{id}/{action}"), &more).await;
        assert!([200, 409].contains(&answer.status), "{action}: {}", answer.json());
    }
    world.settled().await;
    let shown = admin.get(&format!("/v1/bookings/{id}")).await.expect(200);
    assert_eq!(shown["customer"]["email"], format!("{CANARY}@example.com"));
    admin.get(&format!("/v1/bookings/{id}/timeline")).await.expect(200);
    for path in ["bookings", "customers"] {
        let found = admin.get(&format!("/v1/{path}?q={CANARY}")).await.expect(200);
        assert_eq!(found["data"].as_array().unwrap().len(), 1);
    }

    // Invalid requests: the invalid parts may be personal.
    let mut wrong = body.clone();
    wrong["customer"]["email"] = json!(CANARY);
    visitor.post("/v1/bookings", &wrong).await.problem(422, "validation_failed");
    wrong["customer"][CANARY] = json!(1);
    visitor.post("/v1/bookings", &wrong).await.problem(400, "invalid_request");
    wrong = body.clone();
    wrong["start_date"] = json!(CANARY);
    visitor.post("/v1/bookings", &wrong).await.problem(400, "invalid_request");
    let cut = body.to_string().replace('}', "");
    let request = visitor.request(Method::POST, "/v1/bookings").body(cut);
    let answer = Answer::of(request.header("content-type", "application/json")).await.unwrap();
    answer.problem(400, "invalid_request");
    visitor.with_link(CANARY).get(&format!("/v1/bookings/{id}")).await.problem(404, "not_found");
    let by_query = format!("/v1/bookings/{id}?token={CANARY}");
    visitor.get(&by_query).await.problem(404, "not_found");
    visitor.book(CANARY, day(5), day(5)).await.problem(404, "not_found");
    visitor.get(&format!("/v1/cars?q={CANARY}&limit=0")).await.problem(400, "invalid_request");

    // Outages while requests come in.
    let mut later = body.clone();
    later["start_date"] = json!(day(10));
    later["end_date"] = json!(day(11));
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    let later_key = key();
    let cut_off = visitor.post_as(&later_key, "/v1/bookings", &later).await;
    assert!(cut_off.status == 503, "{}", cut_off.json());
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    world.wait_until("ready").await;
    // Postgres rejects a row: its own message would quote the row.
    let refuse = "alter table customers_g1.customers add constraint no_canary
                  check (data ->> 'search' not like '%refused%') not valid";
    sqlx::query(refuse).execute(world.database()).await.unwrap();
    let mut refused = body.clone();
    refused["start_date"] = json!(day(20));
    refused["end_date"] = json!(day(21));
    refused["customer"]["last_name"] = json!(format!("{CANARY} refused"));
    visitor.post("/v1/bookings", &refused).await.expect(201);
    eventually("the row is rejected", async || {
        world.printed(WORKER).contains("Parked").then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_line_and_no_stored_state_says_who_rents_or_why() {
    let world = World::with(&[("EXODRIVE_LOG", LOUD)]).await;
    live(&world).await;
    let lines = world.printed(API) + &world.printed(WORKER);
    assert!(lines.contains("\"DEBUG\"") && lines.contains("Projected"), "lines were written");
    for line in lines.lines() {
        assert!(!line.contains(CANARY), "{line}");
    }

    let client = redis::Client::open(world.redis()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    let (mut states, mut answers) = (0, 0);
    for key in keys {
        states += usize::from(key.starts_with("exo:state:"));
        answers += usize::from(key.starts_with("exo:command:"));
        let dump: Vec<u8> =
            redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.unwrap();
        let held = redis::cmd("GET").arg(&key).query_async(&mut connection).await;
        let held: Vec<u8> = held.unwrap_or(dump);
        let text = String::from_utf8_lossy(&held);
        assert!(!key.contains(CANARY) && !text.contains(CANARY), "{key}: {text}");
    }
    assert!(states >= 3 && answers >= 5, "something was stored: {states} {answers}");
}
