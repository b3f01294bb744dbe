//! Customers are charged what they were quoted, and an agreed price stays.

use crate::in_process::InProcess;
use exodrive_tests::{Answer, booking_body, car_body, day};
use reqwest::Method;
use serde_json::{Value, json};

fn price_lists() -> [Value; 5] {
    let fees = json!([
        {"id": "clean", "name": "Cleaning", "amount_cents": 7_501, "mandatory": true},
        {"id": "seat", "name": "Child seat", "amount_cents": 2_999, "mandatory": false},
    ]);
    let peaks = json!([
        {"name": "Weekend", "weekdays": [0, 6], "multiplier_basis_points": 11_555},
        {"name": "Season", "start_date": day(3), "end_date": day(9), "multiplier_basis_points": 13_333},
    ]);
    let locations = json!([
        {"id": "office", "name": "Office", "pick_up_cents": 0, "pick_up_basis_points": 0,
         "drop_off_cents": 0, "drop_off_basis_points": 0},
        {"id": "port", "name": "Port", "pick_up_cents": 5_000, "pick_up_basis_points": 333,
         "drop_off_cents": 1, "drop_off_basis_points": 77},
    ]);
    [
        json!({"base_per_day_cents": 1}),
        json!({"base_per_day_cents": 99_999, "tax_basis_points": 777}),
        json!({"base_per_day_cents": 123_457, "discount_basis_points": 1_234, "peaks": peaks}),
        json!({"base_per_day_cents": 33_333, "fees": fees, "locations": locations,
               "one_way_fee_cents": 5_000, "deposit_cents": 250_000}),
        json!({"currency": "EUR", "base_per_day_cents": 149_999, "fees": fees, "peaks": peaks,
               "locations": locations, "one_way_fee_cents": 4_999, "minimum_days": 2,
               "discount_basis_points": 1_000, "tax_basis_points": 825}),
    ]
}

/// Choices from the price lists with fees and locations.
fn choices() -> [Value; 4] {
    [
        json!({}),
        json!({"fees": ["seat"]}),
        json!({"pick_up": "port"}),
        json!({"fees": ["seat"], "pick_up": "office", "drop_off": "port"}),
    ]
}

fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn the_quote_is_charged_line_by_line() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let mut bookings = Vec::new();
    for (n, prices) in price_lists().iter().enumerate() {
        let car = admin.add_car_priced(&car_body(&format!("car-{n}")), prices).await;
        let mut from = 0;
        for days in [2, 3, 9, 30] {
            for choices in choices() {
                if choices != json!({}) && prices.get("fees").is_none() {
                    continue;
                }
                let dates = json!({
                    "car_id": car, "start_date": day(from), "end_date": day(from + days - 1),
                });
                let requested = with(dates, &choices);
                let quote = visitor.post("/v1/quotes", &requested).await.expect(200);
                assert_eq!((&quote["available"], &quote["days"]), (&json!(true), &json!(days)));
                let lines = quote["lines"].as_array().unwrap();
                let sum: i64 = lines.iter().map(|it| it["amount_cents"].as_i64().unwrap()).sum();
                assert_eq!(quote["total"]["amount_cents"], sum);
                for line in lines {
                    let unit = line["unit_cents"].as_i64().unwrap();
                    let amount = unit * line["quantity"].as_i64().unwrap();
                    assert_eq!(line["amount_cents"], amount, "{line}");
                }
                let body = booking_body(&car, day(from), day(from + days - 1));
                let mut body = with(body, &choices);
                let cents = quote["total"]["amount_cents"].as_i64().unwrap();
                body["expected_total_cents"] = json!(cents + 1);
                let refused = visitor.post("/v1/bookings", &body).await;
                assert_eq!(refused.problem(409, "price_changed")["total_cents"], cents);
                body["expected_total_cents"] = json!(cents);
                let booking = visitor.post("/v1/bookings", &body).await.expect(201);
                for same in ["total", "lines", "deposit", "days", "price_list_version"] {
                    assert_eq!(booking[same], quote[same], "{same} of {requested}");
                }
                let again = visitor.post("/v1/quotes", &requested).await.expect(200);
                assert_eq!(again["available"], false);
                bookings.push((car.clone(), booking));
                from += days;
            }
        }
    }
    assert!(bookings.len() > 40);
    // Whatever comes later, the agreed price stays.
    for n in 0..price_lists().len() {
        let request = admin.request(Method::PUT, &format!("/v1/cars/car-{n}/price"));
        let pricier = json!({"base_per_day_cents": 999_999, "tax_basis_points": 2_000});
        let car = Answer::of(request.json(&pricier)).await.unwrap().expect(200);
        assert_eq!(car["price"]["version"], 2);
    }
    world.settled().await;
    for (_, booking) in &bookings {
        let path = format!("/v1/bookings/{}", booking["id"].as_str().unwrap());
        let shown = admin.get(&path).await.expect(200);
        for same in ["total", "lines", "deposit", "price_list_version"] {
            assert_eq!(shown[same], booking[same], "{same}");
        }
        let authorized = admin.act(booking, "authorize-payment", json!({})).await.expect(200);
        assert_eq!(authorized["payment"]["authorized_cents"], booking["total"]["amount_cents"]);
        assert_eq!(authorized["payment"]["open_cents"], 0);
    }
    world.views_equal_a_fresh_fold().await;
}

/// An example computed by hand, so that the quote is not only equal to itself.
#[tokio::test]
async fn an_example_of_the_pages_comes_to_what_it_says() {
    let world = InProcess::start().await;
    let admin = world.admin();
    // Every day costs 15.55 % more: 100.05 becomes 115.6077..., rounded 115.61.
    let prices = json!({
        "base_per_day_cents": 10_005,
        "peaks": [{"name": "All", "multiplier_basis_points": 11_555}],
        "fees": [{"id": "a", "name": "A", "amount_cents": 501, "mandatory": true}],
        "discount_basis_points": 1_000, "tax_basis_points": 700,
    });
    let car = admin.add_car_priced(&car_body("hand"), &prices).await;
    let requested = json!({"car_id": "hand", "start_date": day(0), "end_date": day(2)});
    let quote = world.visitor().post("/v1/quotes", &requested).await.expect(200);
    let amounts: Vec<_> = quote["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["kind"].as_str().unwrap(), line["amount_cents"].as_i64().unwrap()))
        .collect();
    // 3 x 11561 = 34683; with the fee 35184; 10 % is 3518.4; 7 % of 31666 is 2216.62.
    let by_hand = [("days", 34_683), ("mandatory_fee", 501), ("discount", -3_518), ("tax", 2_217)];
    assert_eq!(amounts, by_hand);
    assert_eq!(quote["total"]["amount_cents"], 33_883);
    assert_eq!(quote["deposit"]["amount_cents"], 10_165, "30 %: 10164.9");
    assert_eq!(quote["car_id"], *car);
}

#[tokio::test]
async fn a_price_changes_only_with_what_is_agreed_again() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let pricier = admin.add_car("two", 30_000).await;
    let booking = visitor.booked(&car, day(0), day(1)).await;
    assert_eq!(booking["total"]["amount_cents"], 20_000);
    let link = visitor.with_link(booking["access_link"]["token"].as_str().unwrap());
    let to = |first: i64, last: i64, cents: i64| json!({"start_date": day(first), "end_date": day(last), "expected_total_cents": cents});
    let changed = link.act(&booking, "reschedule", to(5, 7, 20_000)).await;
    assert_eq!(changed.problem(409, "price_changed")["total_cents"], 30_000);
    let moved = link.act(&booking, "reschedule", to(5, 7, 30_000)).await.expect(200);
    assert_eq!(moved["total"]["amount_cents"], 30_000);
    let longer = link.act(&booking, "extend", json!({"end_date": day(9)})).await.expect(200);
    assert_eq!((&longer["total"]["amount_cents"], &longer["days"]), (&json!(50_000), &json!(5)));
    let keep = json!({"car_id": pricier, "keep_price": true});
    let saved = admin.act(&booking, "move", keep).await.expect(200);
    assert_eq!(saved["total"]["amount_cents"], 50_000);
    admin.act(&booking, "move", json!({"car_id": car})).await.expect(200);
    let expensive = admin.act(&booking, "move", json!({"car_id": pricier})).await.expect(200);
    assert_eq!(expensive["total"]["amount_cents"], 150_000);
}
