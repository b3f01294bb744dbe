//! A car's days, as the public and staff see them.

use crate::in_process::InProcess;
use exodrive_tests::{Answer, day, eventually};
use reqwest::Method;
use serde_json::{Value, json};

fn statuses(calendar: &Value) -> Vec<&str> {
    calendar["days"].as_array().unwrap().iter().map(|day| day["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_day_has_its_status_and_staff_see_by_whom() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let held = visitor.booked(&car, day(0), day(1)).await;
    let paid = visitor.booked(&car, day(3), day(3)).await;
    admin.act(&paid, "authorize-payment", json!({})).await.expect(200);
    let block = json!({"start_date": day(5), "end_date": day(6), "reason": "tyres"});
    let blocked = admin.post(&format!("/v1/cars/{car}/blocks"), &block).await;
    let position = blocked.header("exodrive-position").parse().unwrap();
    let blocked = blocked.expect(201);
    for name in [&car, "one"] {
        let path = format!("/v1/cars/{name}/calendar?from={}&to={}", day(0), day(7));
        let calendar = visitor.get_from(position, &path).await.expect(200);
        let expected = [
            "held",
            "held",
            "available",
            "booked",
            "available",
            "maintenance",
            "maintenance",
            "available",
        ];
        assert_eq!(statuses(&calendar), expected);
        assert_eq!(calendar["car_id"], *car);
        assert!(calendar["days"].as_array().unwrap().iter().all(|day| day.get("by").is_none()));
        let staffs = admin.get(&path).await.expect(200);
        let by: Vec<_> = staffs["days"].as_array().unwrap().iter().map(|day| &day["by"]).collect();
        assert_eq!((by[0], by[1]), (&held["id"], &held["id"]));
        assert_eq!((by[2], by[3]), (&Value::Null, &paid["id"]));
        assert_eq!((by[5], by[6]), (&blocked["id"], &blocked["id"]));
    }
    let range = |from: &str, to: &str| format!("/v1/cars/one/calendar?from={from}&to={to}");
    let one = visitor.get(&range(&day(1).to_string(), &day(1).to_string())).await.expect(200);
    assert_eq!(statuses(&one), ["held"]);
    let two_years = range("2027-01-01", "2028-12-31");
    assert_eq!(statuses(&visitor.get(&two_years).await.expect(200)).len(), 731);
    let quiet = visitor.get("/v1/cars/one/calendar").await.expect(200);
    assert_eq!(statuses(&quiet).len(), 90);
    for path in [
        range("2027-01-01", "2029-01-01"),
        range("2027-01-02", "2027-01-01"),
        range("yesterday", "2027-01-01"),
        "/v1/cars/one/calendar?until=2027-01-01".to_owned(),
        "/v1/cars/one/calendar?from=%2B262142-12-30".to_owned(),
        "/v1/cars/one/calendar?from=2199-12-30".to_owned(),
    ] {
        println!("{path}");
        visitor.get(&path).await.problem(400, "invalid_request");
    }
    visitor.get("/v1/cars/ghost/calendar").await.problem(404, "not_found");
    visitor.get("/v1/cars/a%00b/calendar").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_block_over_bookings_is_rejected_and_names_them_unless_forced() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let blocks = format!("/v1/cars/{car}/blocks");
    let booking = visitor.booked(&car, day(1), day(2)).await;
    let block = |from: i64, to: i64, force: bool| json!({"start_date": day(from), "end_date": day(to), "reason": "tyres", "force": force});
    let refused = admin.post(&blocks, &block(0, 1, false)).await.problem(409, "dates_unavailable");
    let named = json!([{"date": day(1), "status": "held", "booking_id": booking["id"]}]);
    assert_eq!(refused["conflicts"], named);
    let made = admin.post(&blocks, &block(0, 1, true)).await;
    let forced = made.expect(201);
    assert_eq!(made.header("location"), format!("{blocks}/{}", forced["id"].as_str().unwrap()));
    // No block may cover another, forced or not.
    let refused = admin.post(&blocks, &block(0, 0, true)).await.problem(409, "dates_unavailable");
    assert_eq!(refused["conflicts"], json!([{"date": day(0), "status": "maintenance"}]));
    let path = format!("/v1/cars/{car}/calendar?from={}&to={}", day(0), day(3));
    let both = admin.get_from(forced["position"].as_u64().unwrap(), &path).await.expect(200);
    assert_eq!(statuses(&both), ["maintenance", "maintenance", "held", "available"]);
    // The booking stays until staff change it, in any way.
    let events = world.events().await;
    let blocked = events.iter().find(|it| it.envelope.kind == "exodrive.calendar.blocked").unwrap();
    let body: Value = serde_json::from_slice(&blocked.body).unwrap();
    assert_eq!(body["forced_over"], json!([booking["id"]]));
    assert_eq!(blocked.envelope.actor.as_deref(), Some("admin:admin-user"));
    let to = json!({"start_date": day(2), "end_date": day(3)});
    admin.act(&booking, "reschedule", to).await.expect(200);
    let to = json!({"start_date": day(1), "end_date": day(3)});
    admin.act(&booking, "reschedule", to).await.problem(409, "dates_unavailable");
    let one = format!("{blocks}/{}", forced["id"].as_str().unwrap());
    let delete = async || Answer::of(admin.request(Method::DELETE, &one)).await.unwrap();
    delete().await.expect(200);
    delete().await.problem(404, "not_found");
    admin.act(&booking, "reschedule", to_days(0, 3)).await.expect(200);
    for client in [&visitor, &world.user("ada", "customer"), &world.user("eve", "auditor")] {
        let answer = client.post(&blocks, &block(20, 20, false)).await;
        assert!([401, 403].contains(&answer.status));
        let answer = Answer::of(client.request(Method::DELETE, &one)).await.unwrap();
        assert!([401, 403].contains(&answer.status));
    }
    let ghost = "/v1/cars/4ef9a417-02e9-4d39-ad75-9611e0fcc33c/blocks";
    admin.post(ghost, &block(20, 20, false)).await.problem(404, "not_found");
    let endless = admin.post(&blocks, &block(30, 2_000, false)).await;
    assert_eq!(endless.problem(422, "validation_failed")["errors"][0]["pointer"], "/end_date");
    world.views_equal_a_fresh_fold().await;
}

fn to_days(from: i64, to: i64) -> Value {
    json!({"start_date": day(from), "end_date": day(to)})
}

#[tokio::test]
async fn the_cache_never_shows_an_old_status_of_a_day() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let path = format!("/v1/cars/{car}/calendar?from={0}&to={0}", day(0));
    for round in 0..5 {
        let booking = visitor.booked(&car, day(0), day(0)).await;
        for client in names.iter().map(|name| visitor.at(&world, name)) {
            let seen = client.get_from(booking["position"].as_u64().unwrap(), &path).await;
            assert_eq!(statuses(&seen.expect(200)), ["held"], "round {round}");
            eventually("the cache shows it", async || {
                let answer = client.get(&path).await;
                let calendar = answer.expect(200);
                let shown = statuses(&calendar) == ["held"];
                (shown && answer.header("x-cache") != "MISS").then_some(())
            })
            .await;
        }
        let gone = admin.act(&booking, "cancel", json!({})).await;
        let position = gone.header("exodrive-position").parse().unwrap();
        let seen = visitor.get_from(position, &path).await.expect(200);
        assert_eq!(statuses(&seen), ["available"]);
        for client in names.iter().map(|name| visitor.at(&world, name)) {
            eventually("the cache shows it", async || {
                (statuses(&client.get(&path).await.expect(200)) == ["available"]).then_some(())
            })
            .await;
        }
        let etag = visitor.get(&path).await.header("etag").to_owned();
        let request = visitor.request(Method::GET, &path).header("if-none-match", etag);
        assert_eq!(Answer::of(request).await.unwrap().status, 304);
    }
}
