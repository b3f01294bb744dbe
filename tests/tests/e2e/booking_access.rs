//! The owner of a booking, its readers, and the commands that each may send.

use crate::in_process::InProcess;
use exodrive_domain::booking::Action;
use exodrive_tests::{Answer, Client, booking_body, day};
use reqwest::Method;
use serde_json::{Value, json};

fn path(booking: &Value) -> String {
    format!("/v1/bookings/{}", booking["id"].as_str().unwrap())
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_booking_is_shown_to_its_customer_and_to_staff() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let (ada, ben) = (world.user("ada", "customer"), world.user("ben", "customer"));
    let car = admin.add_car("one", 100_000).await;
    let guests = visitor.booked(&car, day(0), day(0)).await;
    let adas = ada.booked(&car, day(1), day(1)).await;
    let bens = ben.booked(&car, day(2), day(2)).await;
    world.settled().await;
    let token = guests["access_link"]["token"].as_str().unwrap();
    let guest = visitor.with_link(token);

    let shown = guest.get(&path(&guests)).await.expect(200);
    assert_eq!(shown["customer"]["email"], "ada@example.com");
    assert_eq!(shown["notes"], Value::Null, "the staff's notes are for staff only");
    let by_query = format!("{}?token={token}", path(&guests));
    assert_eq!(visitor.get(&by_query).await.expect(200), shown);
    let missing = |client: &Client, booking: &Value| {
        let (client, path) = (client.clone(), path(booking));
        async move { client.get(&path).await.problem(404, "not_found") }
    };
    missing(&visitor, &guests).await;
    missing(&visitor.with_link("0".repeat(64).as_str()), &guests).await;
    missing(&guest, &adas).await;
    missing(&ada, &guests).await;
    missing(&ada, &bens).await;
    assert_eq!(ada.get(&path(&adas)).await.expect(200)["id"], adas["id"]);
    // An account and a link together: the link opens its booking.
    assert_eq!(ada.with_link(token).get(&path(&guests)).await.expect(200)["id"], guests["id"]);

    let auditor = world.user("eve", "auditor");
    for booking in [&guests, &adas, &bens] {
        let shown = auditor.get(&path(booking)).await.expect(200);
        assert_eq!(shown["allowed_actions"], json!([]), "an auditor may read");
        let shown = admin.get(&path(booking)).await.expect(200);
        assert!(shown["allowed_actions"].as_array().unwrap().contains(&json!("move")));
    }
    let operator = world.user("op", "operator");
    assert_eq!(operator.get("/v1/bookings").await.status, 403);
    assert!([403, 404].contains(&operator.get(&path(&guests)).await.status));
    visitor.get("/v1/bookings").await.problem(401, "unauthenticated");
    guest.get("/v1/bookings").await.problem(401, "unauthenticated");

    let list = ada.get("/v1/bookings").await.expect(200);
    assert_eq!(ids(&list), [adas["id"].as_str().unwrap()]);
    assert_eq!(list["counts"], json!({"pending_payment": 1}), "nor are others counted");
    assert_eq!(ids(&admin.get("/v1/bookings").await.expect(200)).len(), 3);
    assert_eq!(ids(&auditor.get("/v1/bookings").await.expect(200)).len(), 3);
    for client in [&visitor, &guest, &ada, &operator] {
        for path in
            [format!("{}/timeline", path(&adas)), "/v1/customers".into(), "/v1/dashboard".into()]
        {
            assert!([401, 403].contains(&client.get(&path).await.status), "{path}");
        }
    }
}

#[tokio::test]
async fn only_staff_and_its_customer_may_change_a_booking() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let (ada, ben) = (world.user("ada", "customer"), world.user("ben", "customer"));
    let car = admin.add_car("one", 100_000).await;
    let other = admin.add_car("two", 100_000).await;
    let adas = ada.booked(&car, day(0), day(0)).await;
    let guests = visitor.booked(&car, day(30), day(30)).await;
    let guest = visitor.with_link(guests["access_link"]["token"].as_str().unwrap());
    let customer = json!({"email": "x@example.com", "first_name": "X", "last_name": "Y"});
    let body = |action: Action| match action {
        Action::ResolveDispute => json!({"status": "completed"}),
        Action::Move => json!({"car_id": other}),
        Action::AddNote => json!({"text": "mine"}),
        Action::ChangeCustomer => customer.clone(),
        _ => json!({}),
    };
    let staffs: Vec<_> = Action::ALL
        .iter()
        .filter(|action| !action.is_customers() && **action != Action::Expire)
        .map(|action| (action.name(), body(*action)))
        .collect();
    for (action, body) in &staffs {
        for (client, booking) in [(&ada, &adas), (&guest, &guests)] {
            let answer = client.act(booking, action, body.clone()).await;
            assert!([401, 403].contains(&answer.status), "{action}: {}", answer.json());
        }
        for (client, booking) in [(&ben, &adas), (&visitor, &adas), (&guest, &adas)] {
            let answer = client.act(booking, action, body.clone()).await;
            assert!([401, 403, 404].contains(&answer.status), "{action}: {}", answer.json());
        }
    }
    let dates = |n: i64| json!({"start_date": day(n), "end_date": day(n)});
    for (action, body) in
        [("reschedule", dates(3)), ("extend", json!({"end_date": day(9)})), ("cancel", json!({}))]
    {
        for client in [&ben, &visitor, &guest] {
            client.act(&adas, action, body.clone()).await.problem(404, "not_found");
        }
        for role in ["auditor", "operator"] {
            let answer = world.user("other", role).act(&adas, action, body.clone()).await;
            assert!([403, 404].contains(&answer.status), "{role}: {}", answer.json());
        }
    }
    for role in ["auditor", "operator"] {
        world.user("other", role).book(&car, day(50), day(50)).await.problem(403, "forbidden");
    }
    let events = world.events().await.len();
    for (client, booking, n) in [(&ada, &adas, 3), (&guest, &guests, 33)] {
        let moved = client.act(booking, "reschedule", dates(n)).await.expect(200);
        assert_eq!(moved["allowed_actions"], json!(["cancel", "reschedule", "extend"]));
        let body = json!({"end_date": day(n + 1)});
        client.act(booking, "extend", body).await.expect(200);
        let gone = client.act(booking, "cancel", json!({"reason": "ill"})).await.expect(200);
        assert_eq!((&gone["status"], &gone["allowed_actions"]), (&json!("cancelled"), &json!([])));
        client.act(booking, "cancel", json!({})).await.problem(409, "action_not_allowed");
    }
    assert_eq!(world.events().await.len(), events + 6, "none of the others' attempts did anything");
    visitor.booked(&car, day(0), day(40)).await;
}

#[tokio::test]
async fn a_link_is_good_for_its_booking_until_it_ends_and_staff_make_another() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let made =
        |value: &Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    for (client, days) in [(&visitor, 7), (&admin, 30)] {
        let booking = client.booked(&car, day(days), day(days)).await;
        let ends = made(&booking["access_link"]["expires_at"]) - made(&booking["created_at"]);
        assert_eq!(ends.num_days(), days);
    }
    let booking = admin.booked(&car, day(0), day(1)).await;
    let first = booking["access_link"]["token"].as_str().unwrap().to_owned();
    let second = admin.act(&booking, "access-link", json!({})).await;
    let position = second.header("exodrive-position").parse().unwrap();
    let second = second.expect(200)["token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    for token in [&first, &second] {
        visitor.with_link(token).get_from(position, &path(&booking)).await.expect(200);
    }
    // A link that got into the wrong hands shows nothing more, and a new one does.
    let revoked = admin.act(&booking, "revoke-links", json!({})).await;
    let position = revoked.header("exodrive-position").parse().unwrap();
    revoked.expect(200);
    for token in [&first, &second] {
        let guest = visitor.with_link(token);
        guest.get_from(position, &path(&booking)).await.problem(404, "not_found");
        guest.act(&booking, "cancel", json!({})).await.problem(404, "not_found");
    }
    let third = admin.act(&booking, "access-link", json!({})).await;
    let position = third.header("exodrive-position").parse().unwrap();
    let third = third.expect(200)["token"].as_str().unwrap().to_owned();
    visitor.with_link(&third).get_from(position, &path(&booking)).await.expect(200);
    // Only hashes are stored.
    let saved =
        format!("{:?}", world.events().await) + &format!("{:?}", world.rows("bookings").await);
    assert!(!saved.contains(&first) && !saved.contains(&second));
}

#[tokio::test]
async fn lists_of_bookings_are_filtered_and_paged() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let cars = [admin.add_car("one", 100_000).await, admin.add_car("two", 100_000).await];
    let mut made = Vec::new();
    for n in 0..7 {
        let car = &cars[usize::try_from(n % 2).unwrap()];
        let mut body = booking_body(car, day(n * 3), day(n * 3 + 1));
        body["customer"]["email"] = json!(format!("guest{n}@example.com"));
        body["customer"]["last_name"] =
            json!(["z100%", "O'Neil", "young_willow"][usize::try_from(n % 3).unwrap()]);
        made.push(visitor.post("/v1/bookings", &body).await.expect(201));
    }
    admin.act(&made[0], "cancel", json!({})).await.expect(200);
    let paid = admin.act(&made[1], "authorize-payment", json!({})).await.expect(200);
    world.settled().await;
    let found = async |query: &str| -> Vec<usize> {
        let list = admin.get(&format!("/v1/bookings?{query}")).await.expect(200);
        let ids = ids(&list);
        ids.iter().map(|id| made.iter().position(|it| it["id"] == *id).unwrap()).collect()
    };
    assert_eq!(found("").await, [6, 5, 4, 3, 2, 1, 0], "newest first");
    assert_eq!(found("status=cancelled").await, [0]);
    assert_eq!(found("status=cancelled,pending_contract").await, [1, 0]);
    assert_eq!(found(&format!("car_id={}", cars[0])).await, [6, 4, 2, 0]);
    let customer = made[3]["customer_id"].as_str().unwrap();
    assert_eq!(found(&format!("customer_id={customer}")).await, [3]);
    assert_eq!(
        found(&format!("from={}", day(13))).await,
        [6, 5, 4],
        "that have this day or a later one"
    );
    assert_eq!(found(&format!("to={}", day(3))).await, [1, 0]);
    assert_eq!(found(&format!("from={}&to={}", day(4), day(6))).await, [2, 1]);
    assert_eq!(found("q=GUEST5@example").await, [5]);
    assert_eq!(found("q=z100%25").await, [6, 3, 0]);
    assert_eq!(found("q=willow+young").await, [5, 2], "words in any order");
    assert_eq!(found("q=o'neil").await, [4, 1]);
    assert_eq!(found(&format!("q={}", made[4]["reference"].as_str().unwrap())).await, [4]);
    let since = made[5]["created_at"].as_str().unwrap();
    assert_eq!(found(&format!("created_gte={since}")).await, [6, 5]);
    assert_eq!(found(&format!("created_lt={since}")).await, [4, 3, 2, 1, 0]);
    assert_eq!(found("q=nobody").await, [0_usize; 0]);
    let mut after = String::new();
    let mut paged = Vec::new();
    loop {
        let list = admin.get(&format!("/v1/bookings?limit=3{after}")).await.expect(200);
        paged.extend(ids(&list).iter().map(|id| (*id).to_owned()));
        assert_eq!(
            list["counts"],
            json!({"cancelled": 1, "pending_contract": 1, "pending_payment": 5})
        );
        let Some(next) = list["next_cursor"].as_str() else { break };
        assert_eq!(list["has_more"], true);
        after = format!("&after={next}");
    }
    let newest_first: Vec<_> = made.iter().rev().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(paged, newest_first);
    assert_eq!(paid["status"], "pending_contract");
    for (query, pointer) in [
        ("status=upcomming", "?status"),
        ("from=tomorrow", "?from"),
        ("from=2027-01-01&to=soon", "?to"),
        ("to=1999-01-01", "?to"),
        ("from=2500-01-01", "?to"),
        ("from=2027-02-02&to=2027-02-01", "?to"),
        ("created_gte=now", "?created_gte"),
        ("limit=0", "?limit"),
        ("limit=101", "?limit"),
        ("after=abc", "?after"),
        ("colour=red", ""),
        ("q=%00", "?q"),
        ("car_id=%00", ""),
        ("customer_id=%00", ""),
    ] {
        let answer = admin.get(&format!("/v1/bookings?{query}")).await;
        println!("{query}");
        let problem = answer.problem(400, "invalid_request");
        if !pointer.is_empty() {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        }
    }
    let request = admin.request(Method::GET, "/v1/bookings?limit=1");
    Answer::of(request.header("exodrive-min-position", "soon"))
        .await
        .unwrap()
        .problem(400, "invalid_request");
}
