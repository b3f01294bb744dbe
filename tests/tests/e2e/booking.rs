//! The life of a booking, and every way in which a request can be invalid.

use crate::in_process::InProcess;
use exodrive_tests::{Answer, Client, booking_body, day, key};
use reqwest::Method;
use serde_json::{Value, json};

/// Executes actions one after another; each must be among the allowed ones.
async fn story(client: &Client, booking: &Value, acts: &[(&str, Value, &str)]) -> Value {
    let mut now = booking.clone();
    for (action, body, status) in acts {
        let offered = now["allowed_actions"].as_array().unwrap();
        assert!(offered.contains(&json!(action)), "{action} is offered: {offered:?}");
        now = client.act(booking, action, body.clone()).await.expect(200);
        assert_eq!(now["status"], *status, "after {action}");
    }
    now
}

#[tokio::test]
async fn a_rental_from_the_hold_to_its_end() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    // The first day is today, in the car's time zone.
    let calendar = visitor.get(&format!("/v1/cars/{car}/calendar")).await.expect(200);
    assert_eq!(calendar["days"].as_array().unwrap().len(), 90);
    let today: chrono::NaiveDate = calendar["from"].as_str().unwrap().parse().unwrap();
    let booking = visitor.booked(&car, today, today + chrono::TimeDelta::days(4)).await;
    assert_eq!(booking["allowed_actions"], json!(["cancel", "reschedule", "extend"]));
    assert_eq!(booking["total"], json!({"amount_cents": 500_000, "currency": "USD"}));
    let id = booking["id"].as_str().unwrap();
    let (position, path) = (booking["position"].as_u64().unwrap(), format!("/v1/bookings/{id}"));
    let staffs = admin.get_from(position, &path).await.expect(200);
    let none = || json!({});
    let returned = story(
        &admin,
        &staffs,
        &[
            ("send-contract", json!({"document": "doc-1"}), "pending_payment"),
            ("view-contract", none(), "pending_payment"),
            ("decline-contract", json!({"reason": "a typo"}), "pending_payment"),
            ("send-contract", json!({"document": "doc-2"}), "pending_payment"),
            ("sign-contract", none(), "pending_payment"),
            ("fail-payment", json!({"reason": "declined"}), "pending_payment"),
            ("authorize-payment", none(), "upcoming"),
            ("pick-up", none(), "active"),
            ("capture-payment", none(), "active"),
            ("return", json!({"returned_on": today}), "returned"),
            ("refund-payment", json!({"amount_cents": 100_000}), "returned"),
            ("complete", none(), "completed"),
            ("dispute", json!({"reason": "a scratch"}), "disputed"),
            ("resolve-dispute", json!({"status": "completed"}), "completed"),
        ],
    )
    .await;
    assert_eq!(returned["payment"]["captured_cents"], 500_000);
    assert_eq!(returned["payment"]["refunded_cents"], 100_000);
    assert_eq!(returned["returned_on"], json!(today));
    // The days after the early return are free for others, its day is not.
    visitor.booked(&car, today + chrono::TimeDelta::days(1), day(0)).await;
    let refused = visitor.book(&car, today, today).await.problem(409, "dates_unavailable");
    assert_eq!(refused["conflicts"], json!([{"date": today, "status": "booked"}]));
    let again = admin.act(&booking, "pick-up", none()).await.problem(409, "action_not_allowed");
    assert_eq!(again["allowed_actions"], returned["allowed_actions"]);
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test]
async fn a_rejection_names_the_taken_days_and_the_next_free_ones() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let held = visitor.booked(&car, day(2), day(3)).await;
    let paid = visitor.booked(&car, day(5), day(5)).await;
    admin.act(&paid, "authorize-payment", json!({})).await.expect(200);
    let block = json!({"start_date": day(7), "end_date": day(8), "reason": "tyres"});
    admin.post(&format!("/v1/cars/{car}/blocks"), &block).await.expect(201);
    let named = |ids: bool| {
        let mut all = json!([
            {"date": day(3), "status": "held"},
            {"date": day(5), "status": "booked"},
            {"date": day(7), "status": "maintenance"},
        ]);
        if ids {
            all[0]["booking_id"] = held["id"].clone();
            all[1]["booking_id"] = paid["id"].clone();
        }
        all
    };
    let refused = visitor.book(&car, day(3), day(7)).await.problem(409, "dates_unavailable");
    assert_eq!(refused["conflicts"], named(false));
    assert_eq!(refused["next_free"], json!({"start_date": day(9), "end_date": day(13)}));
    let refused = admin.book(&car, day(3), day(7)).await.problem(409, "dates_unavailable");
    assert_eq!(refused["conflicts"], named(true));
    // There is room between them, to the day.
    visitor.booked(&car, day(4), day(4)).await;
    visitor.booked(&car, day(6), day(6)).await;
    // A booking does not conflict with itself.
    let link = visitor.with_link(held["access_link"]["token"].as_str().unwrap());
    let to = json!({"start_date": day(1), "end_date": day(3)});
    link.act(&held, "reschedule", to).await.expect(200);
    let to = json!({"start_date": day(1), "end_date": day(4)});
    let refused = link.act(&held, "reschedule", to).await.problem(409, "dates_unavailable");
    assert_eq!(refused["conflicts"], json!([{"date": day(4), "status": "held"}]));
}

/// A problem that says what to do next, and points at the place in the body.
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, code: &str, pointer: Option<&str>) {
    let problem = answer.problem(status, code);
    assert!(problem["next"].as_str().is_some_and(|next| next.len() > 10), "{problem}");
    assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer, "{problem}");
}

#[tokio::test]
async fn every_invalid_field_is_reported_with_its_place_and_what_to_do_next() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let valid = booking_body(&car, day(0), day(1));
    let with = |pointer: &str, value: Value| {
        let mut body = valid.clone();
        match pointer.rsplit_once('/').unwrap() {
            ("", name) => body[name] = value,
            (outer, name) => body[&outer[1..]][name] = value,
        }
        body
    };
    let wrong = [
        ("/start_date", json!("2026-02-30"), 400),
        ("/start_date", json!(7), 400),
        ("/car_id", json!(["one"]), 400),
        ("/surprise", json!(true), 400),
        ("/customer/surprise", json!(1), 400),
        ("/customer/email", json!(1), 400),
        ("/fees/0", json!([7]), 400),
        ("/customer/email", json!("nobody"), 422),
        ("/customer/first_name", json!("a\0"), 422),
        ("/customer/last_name", json!("x".repeat(101)), 422),
        ("/customer/phone", json!("0".repeat(41)), 422),
        ("/end_date", json!(day(-1)), 422),
        ("/end_date", json!(day(400)), 422),
        ("/end_date", json!("9999-01-01"), 422),
        ("/start_date", json!("2020-01-01"), 422),
        ("/fees", json!(["gold"]), 422),
        ("/pick_up", json!("moon"), 422),
        ("/drop_off", json!("moon"), 422),
        ("/hold_minutes", json!(60), 422),
        ("/notes", json!("x".repeat(5_001)), 422),
    ];
    for (pointer, value, status) in wrong {
        let place = if pointer == "/fees/0" { "/fees" } else { pointer };
        let answer = visitor.post("/v1/bookings", &with(place, value.clone())).await;
        let code = if status == 400 { "invalid_request" } else { "validation_failed" };
        println!("{pointer} {value}");
        assert_problem(&answer, status, code, Some(pointer));
    }
    let mut missing = valid.clone();
    missing["customer"].as_object_mut().unwrap().remove("email");
    assert_problem(
        &visitor.post("/v1/bookings", &missing).await,
        400,
        "invalid_request",
        Some("/customer/email"),
    );
    let send = async |method: Method, path: &str, kind: &str, body: &str| {
        let request = visitor.request(method, path).header("content-type", kind);
        Answer::of(request.body(body.to_owned())).await.unwrap()
    };
    let json = "application/json";
    let path = "/v1/bookings";
    assert_problem(
        &send(Method::POST, path, json, "").await,
        400,
        "invalid_request",
        Some("/car_id"),
    );
    assert_problem(
        &send(Method::POST, path, json, "{\"car_id\":").await,
        400,
        "invalid_request",
        Some(""),
    );
    let text = valid.to_string();
    assert_problem(
        &send(Method::POST, path, "text/plain", &text).await,
        415,
        "unsupported_media_type",
        None,
    );
    assert_problem(
        &send(Method::POST, path, json, &format!("{text}{text}")).await,
        400,
        "invalid_request",
        Some(""),
    );
    assert_problem(&send(Method::PATCH, path, json, &text).await, 405, "method_not_allowed", None);
    assert_problem(
        &send(Method::POST, "/v1/quotes", json, "[]").await,
        400,
        "invalid_request",
        Some(""),
    );
    let none = "/v1/bookings/4ef9a417-02e9-4d39-ad75-9611e0fcc33c/cancel";
    assert_problem(&admin.post(none, &json!({})).await, 404, "not_found", None);
    assert_problem(&admin.post("/v1/bookings/x/cancel", &json!({})).await, 404, "not_found", None);
    assert_problem(&visitor.post("/v1/bookings/x/fly", &json!({})).await, 404, "not_found", None);
    let ghost = booking_body("ghost", day(0), day(0));
    assert_problem(&visitor.post(path, &ghost).await, 404, "not_found", None);
    for value in ["", &"k".repeat(256)] {
        let request = visitor.command(path, &valid).header("idempotency-key", value);
        let answer = Answer::of(request).await.unwrap();
        assert_problem(&answer, 400, "invalid_request", Some("Idempotency-Key"));
    }
    // None of these requests has booked, and the valid one does.
    visitor.post_as(&key(), path, &valid).await.expect(201);
    assert_eq!(exodrive_tests::bookings_in(&world.events().await), 1);
}

#[tokio::test]
async fn bookings_of_visitors_and_customers_are_limited_and_those_of_admins_are_not() {
    let world = InProcess::with(&[("EXODRIVE_RATE_LIMIT_BOOKING", "3/1h")]).await;
    let admin = world.admin();
    let car = admin.add_car("one", 100_000).await;
    admin.booked(&car, day(90), day(90)).await;
    let mut free = (100..).map(day);
    for client in [world.visitor(), world.user("ada", "customer")] {
        let (mut made, mut keys) = (Vec::new(), Vec::new());
        for n in 0..3 {
            // What makes no booking does not count.
            client.book("nothing", day(n), day(n)).await.problem(404, "not_found");
            client.book(&car, day(90), day(90)).await.problem(409, "dates_unavailable");
            let past = json!({"start_date": "2020-01-01", "end_date": "2020-01-02"});
            let mut wrong = booking_body(&car, day(n), day(n));
            wrong.as_object_mut().unwrap().extend(past.as_object().unwrap().clone());
            client.post("/v1/bookings", &wrong).await.problem(422, "validation_failed");
            let days = free.next().unwrap();
            let (key, body) = (key(), booking_body(&car, days, days));
            made.push(client.post_as(&key, "/v1/bookings", &body).await.expect(201));
            keys.push((key, body));
        }
        let limited = client.book(&car, day(200), day(200)).await;
        limited.problem(429, "rate_limited");
        assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
        assert!(limited.header("ratelimit").contains("\"booking\";r=0;"), "{:?}", limited.headers);
        // A repeat is free.
        for ((key, body), made) in keys.iter().zip(&made) {
            assert_eq!(client.post_as(key, "/v1/bookings", body).await.expect(201), *made);
        }
        // No other request is limited.
        client.get(&format!("/v1/cars/{car}")).await.expect(200);
        let quote = json!({"car_id": car, "start_date": day(0), "end_date": day(0)});
        client.post("/v1/quotes", &quote).await.expect(200);
    }
    for n in 0..6 {
        admin.booked(&car, day(n), day(n)).await;
    }
}

#[tokio::test]
async fn a_car_is_quoted_and_booked_by_its_slug_though_its_row_is_missing() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    admin.add_car("one", 100_000).await;
    world.settled().await;
    let deleted = sqlx::query("delete from cars_g1.cars").execute(world.database()).await.unwrap();
    assert_eq!(deleted.rows_affected(), 1);
    let asked = json!({"car_id": "one", "start_date": day(0), "end_date": day(1)});
    assert_eq!(visitor.post("/v1/quotes", &asked).await.expect(200)["available"], true);
    visitor.booked("one", day(0), day(1)).await;
    for none in ["another", "o*", ">", "one.two", "a\0b"] {
        visitor.book(none, day(5), day(6)).await.problem(404, "not_found");
    }
}
