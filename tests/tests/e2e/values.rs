//! Values that reach the log: what no view could hold, or nobody meant, is
//! refused at the door with the place of the fault, and nothing is appended.

use crate::in_process::InProcess;
use exodrive_tests::{Answer, Delivery, System, booking_body, car_body, day, email_body};
use reqwest::Method;
use serde_json::{Value, json};

/// Sends a body as staff.
async fn send(world: &System, method: Method, path: &str, body: &Value) -> Answer {
    let request = world.request(method, path).bearer_auth(world.token("admin")).json(body);
    Answer::of(request).await.unwrap()
}

/// The pointers of the faults of a refused request.
fn pointers(answer: &Answer) -> Vec<String> {
    let problem = answer.problem(422, "validation_failed");
    let errors = problem["errors"].as_array().unwrap();
    errors.iter().map(|it| it["pointer"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_a_view_cannot_hold_is_refused_at_every_door() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("gt3", 100_000).await;
    let booking = admin.booked(&car, day(1), day(2)).await;
    let id = booking["id"].as_str().unwrap();
    let end = world.log().await.last_position().await.unwrap();
    let action = |name: &str| format!("/v1/bookings/{id}/{name}");
    let nul = "a\0b";
    for (path, body, pointer) in [
        (action("notes"), json!({"text": nul}), "/text"),
        (action("notes"), json!({"text": "\u{200b}"}), "/text"),
        (action("notes"), json!({"text": "x".repeat(5_001)}), "/text"),
        (action("cancel"), json!({"reason": nul}), "/reason"),
        (action("fail-payment"), json!({"reason": "x".repeat(501)}), "/reason"),
        (action("authorize-payment"), json!({"reference": "a\nb"}), "/reference"),
        (action("send-contract"), json!({"document": nul}), "/document"),
        (action("refund-payment"), json!({"reason": "\u{1b}[31m"}), "/reason"),
        (action("dispute"), json!({"reason": nul}), "/reason"),
        (action("move"), json!({"car_id": "other", "reason": nul}), "/reason"),
        (format!("/v1/cars/{car}/archive"), json!({"reason": nul}), "/reason"),
        (
            format!("/v1/cars/{car}/blocks"),
            json!({"start_date": day(5), "end_date": day(6), "reason": nul}),
            "/reason",
        ),
        (
            "/v1/operator/projections/inbox/pause".to_owned(),
            json!({"reason": "x".repeat(501)}),
            "/reason",
        ),
    ] {
        let role = if path.contains("/operator/") { "operator" } else { "admin" };
        let request = world.request(Method::POST, &path).bearer_auth(world.token(role));
        let answer = Answer::of(request.json(&body)).await.unwrap();
        let problem = answer.problem(422, "validation_failed");
        if role == "admin" {
            assert_eq!(pointers(&answer), [pointer], "{path} {body}");
        }
        assert!(
            problem["detail"].as_str().unwrap().contains("reason") || pointer != "/reason",
            "{problem}"
        );
    }
    let mut profile = car_body("other");
    profile["description"] = nul.into();
    profile["features"] = json!([{"name": "Lift", "text": nul}]);
    let answer = send(&world, Method::POST, "/v1/cars", &profile).await;
    assert_eq!(pointers(&answer), ["/description", "/features/0/text"]);
    for url in
        ["javascript:alert(1)", "data:image/png;base64,AA", "http://img.example/a", "ftp://x/a"]
    {
        let images = json!({"images": [{"url": url, "primary": true}]});
        let answer = send(&world, Method::PUT, &format!("/v1/cars/{car}/images"), &images).await;
        assert_eq!(pointers(&answer), ["/images/0/url"], "{url}");
    }
    for currency in ["ZZZ", "usd", "XAU", "US"] {
        let price = json!({"base_per_day_cents": 100, "currency": currency});
        let answer = send(&world, Method::PUT, &format!("/v1/cars/{car}/price"), &price).await;
        assert_eq!(pointers(&answer), ["/currency"], "{currency}");
    }
    assert_eq!(world.log().await.last_position().await.unwrap(), end);
}

#[tokio::test]
async fn a_customer_is_one_mailbox_and_has_a_name() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("gt3", 100_000).await;
    let end = world.log().await.last_position().await.unwrap();
    let with = |field: &str, value: Value| {
        let mut body = booking_body(&car, day(1), day(2));
        body["customer"][field] = value;
        body
    };
    for email in [
        "<a@example.com>",
        "Ada <a@example.com>",
        "a@example.com,b@example.com",
        "a@b@example.com",
        "mailto:a@example.com",
        "a@.",
        "a\u{200b}@example.com",
        "a@example",
    ] {
        let answer = send(&world, Method::POST, "/v1/bookings", &with("email", email.into())).await;
        assert_eq!(pointers(&answer), ["/customer/email"], "{email}");
    }
    let user = with("user_id", "u".repeat(2_700).into());
    let answer = send(&world, Method::POST, "/v1/bookings", &user).await;
    assert_eq!(pointers(&answer), ["/customer/user_id"]);
    let mut many = with("first_name", "a\0".into());
    many["customer"]["email"] = "a@".into();
    many["notes"] = "b\0".into();
    let answer = send(&world, Method::POST, "/v1/bookings", &many).await;
    assert_eq!(pointers(&answer), ["/customer/email", "/customer/first_name", "/notes"]);
    assert_eq!(world.log().await.last_position().await.unwrap(), end);

    // One name is a name; a name that Unicode composes is the same address.
    let mut one_name = with("email", "Jo\u{308}rg@example.com".into());
    one_name["customer"]["first_name"] = Value::Null;
    one_name["customer"]["last_name"] = "Jörg".into();
    let first = send(&world, Method::POST, "/v1/bookings", &one_name).await.expect(201);
    let mut again = booking_body(&car, day(4), day(5));
    again["customer"]["email"] = "JÖRG@example.com".into();
    let second = send(&world, Method::POST, "/v1/bookings", &again).await.expect(201);
    assert_eq!(first["customer_id"], second["customer_id"]);
    assert!(first["customer_id"].is_string());
}

#[tokio::test]
async fn days_are_written_in_one_way() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("gt3", 100_000).await;
    for (start, end, pointer) in [
        (" 2027-6-2 ", "2027-06-03", "/start_date"),
        ("2027-06-02", "2027-6-3", "/end_date"),
        ("-2026-01-01", "2027-06-03", "/start_date"),
        ("1999-12-31", "2027-06-03", "/start_date"),
        ("2027-06-02", "2200-01-01", "/end_date"),
        ("2027-06-03", "2027-06-02", "/end_date"),
    ] {
        let body = json!({"car_id": car, "start_date": start, "end_date": end});
        let answer = send(&world, Method::POST, "/v1/quotes", &body).await;
        let problem = answer.json();
        assert!(matches!(answer.status, 400 | 422), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{start} {end}: {problem}");
    }
    let path = format!("/v1/cars/{car}/calendar?from=2027-6-2");
    assert_eq!(world.get(&path).await.status, 400);
}

#[tokio::test]
async fn amounts_are_in_the_minor_unit_of_their_currency() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let price = json!({"base_per_day_cents": 30_000, "currency": "JPY"});
    let car = admin.add_car_priced(&car_body("kei"), &price).await;
    let booking = admin.booked(&car, day(1), day(2)).await;
    assert_eq!(booking["total"], json!({"amount_cents": 60_000, "currency": "JPY"}));
    let id = booking["id"].as_str().unwrap();
    let paid = admin.post(&format!("/v1/bookings/{id}/authorize-payment"), &json!({})).await;
    paid.expect(200);
    let position = paid.header("exodrive-position").parse().unwrap();
    let timeline = admin.get_from(position, &format!("/v1/bookings/{id}/timeline")).await;
    let timeline = timeline.expect(200).to_string();
    assert!(timeline.contains("for 60000 JPY"), "{timeline}");
    assert!(timeline.contains("Payment of 60000 JPY authorized"), "{timeline}");
}

#[tokio::test]
async fn times_are_read_in_every_form_that_somebody_writes() {
    let world = InProcess::start().await;
    let email = "0198f3a6-c1f0-7d5a-b0c4-00000000000a";
    let mut expected = Vec::new();
    for (written, read) in [
        ("2026-11-20T09:15:05.118Z", json!("2026-11-20T09:15:05.118000Z")),
        ("2026-11-20 09:15:06.123456+00", json!("2026-11-20T09:15:06.123456Z")),
        ("2026-11-20 11:15:07+0200", json!("2026-11-20T09:15:07.000000Z")),
        ("2026-11-20t09:15:08z", json!("2026-11-20T09:15:08.000000Z")),
        ("2026-11-20 09:15:09", Value::Null),
        ("yesterday", Value::Null),
    ] {
        let id = format!("msg_{}", expected.len());
        let body = email_body("opened", email, written, "");
        world.stored(&Delivery::new(id.clone(), body)).await;
        expected.push((id, read));
    }
    world.settled().await;
    let answer = world.get(&format!("/v1/inbox/{email}/deliveries")).await.expect(200);
    let deliveries = answer["data"].as_array().unwrap().iter();
    let found: Vec<_> = deliveries
        .map(|it| (it["id"].as_str().unwrap().to_owned(), it["happened_at"].clone()))
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn ids_of_others_are_bounded() {
    let world = InProcess::start().await;
    let body = email_body("sent", "0198f3a6-c1f0-7d5a-b0c4-00000000000b", "", "");
    for (length, status) in [(1, 200), (256, 200), (257, 401)] {
        let delivery = Delivery::new("m".repeat(length), body.clone());
        assert_eq!(world.post(&delivery).await.status, status, "an id of {length} bytes");
    }
    for (length, status) in [(1, 200), (255, 200), (256, 401), (0, 401)] {
        let token = world.token_of(&"é".repeat(length), "auditor");
        let request = world.request(Method::GET, "/v1/inbox").bearer_auth(token);
        let answer = Answer::of(request).await.unwrap();
        assert_eq!(answer.status, status, "a user's id of {length} characters");
    }
}
