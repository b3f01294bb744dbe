//! A repeat changes nothing and gets the first answer, whatever happened in between; a command on a
//! stale state is answered with the present one.

use crate::in_process::InProcess;
use exodrive_runtime::services::Service;
use exodrive_tests::{
    API, Answer, Client, System, World, booking_body, bookings_in, day, eventually, key,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

/// Asserts that the answer is the first one, byte for byte, and is marked as a repeat.
#[track_caller]
fn repeated(first: &Answer, again: &Answer, when: &str) {
    assert_eq!(
        String::from_utf8_lossy(&again.body),
        String::from_utf8_lossy(&first.body),
        "{when}"
    );
    assert_eq!(again.status, first.status, "{when}");
    for header in ["etag", "location", "exodrive-position"] {
        assert_eq!(again.header(header), first.header(header), "{header} {when}");
    }
    assert_eq!(again.header("idempotent-replayed"), "true", "{when}");
}

/// Empties Redis.
async fn flush(world: &System) {
    let client = redis::Client::open(world.redis()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_repeated_booking_gets_the_first_answer_for_ever() {
    let world = World::start().await;
    let names = world.serve_from(2).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let other_process = visitor.at(&world, &names[1]);
    let (car, other_car) =
        (admin.add_car("one", 100_000).await, admin.add_car("two", 150_000).await);
    let key = key();
    let mut body = booking_body(&car, day(0), day(2));
    body["notes"] = json!("with a child seat");
    let first = visitor.post_as(&key, "/v1/bookings", &body).await;
    let booking = first.expect(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    assert!(booking["access_link"]["token"].as_str().unwrap().len() >= 32);

    let again = async |client: &Client, when: &str| {
        repeated(&first, &client.post_as(&key, "/v1/bookings", &body).await, when);
        flush(&world).await;
        let when = format!("{when}, from the log");
        repeated(&first, &client.post_as(&key, "/v1/bookings", &body).await, &when);
    };
    again(&visitor, "at once").await;
    again(&other_process, "from another process").await;
    // Another spelling of the same request.
    let spelt = serde_json::to_string_pretty(&body).unwrap();
    let request = other_process.request(Method::POST, "/v1/bookings").body(spelt);
    let request = request.header("content-type", "application/json");
    let spelt = Answer::of(request.header("idempotency-key", &key)).await.unwrap();
    repeated(&first, &spelt, "spelt otherwise");

    visitor.booked(&car, day(10), day(12)).await;
    again(&visitor, "after others have booked").await;
    admin.act(&booking, "authorize-payment", json!({})).await.expect(200);
    again(&other_process, "after it was paid").await;
    for n in 0..70 {
        admin.act(&booking, "notes", json!({"text": format!("note {n}")})).await.expect(200);
    }
    again(&visitor, "after more commands than are remembered").await;
    admin.act(&booking, "move", json!({"car_id": other_car})).await.expect(200);
    again(&other_process, "after it was moved to another car").await;
    admin.act(&booking, "cancel", json!({})).await.expect(200);
    again(&visitor, "after it was cancelled").await;
    world.kill(API);
    world.start_api();
    world.wait_until("ready").await;
    again(&visitor, "after the process has died").await;

    let days = json!(day(20));
    for (field, value) in [("end_date", days), ("fees", json!(["seat"])), ("notes", json!("no"))] {
        let mut other = body.clone();
        other[field] = value;
        for client in [&visitor, &other_process] {
            let reused = client.post_as(&key, "/v1/bookings", &other).await;
            reused.problem(422, "idempotency_key_reused");
            flush(&world).await;
        }
    }
    assert_eq!(bookings_in(&world.views_equal_a_fresh_fold().await), 2);
}

#[tokio::test]
async fn a_different_request_under_a_key_is_detected_without_redis_and_on_a_stale_state() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let (here, there) = (world.admin(), world.admin().at(&world, &names[1]));
    let car = here.add_car("one", 100_000).await;
    let booked = key();
    // The other process has the car's calendar in its cache.
    there.booked(&car, day(30), day(30)).await;
    let body = booking_body(&car, day(0), day(2));
    let booking = here.post_as(&booked, "/v1/bookings", &body).await.expect(201);
    flush(&world).await;
    let other = booking_body(&car, day(5), day(6));
    there.post_as(&booked, "/v1/bookings", &other).await.problem(422, "idempotency_key_reused");
    flush(&world).await;

    let id = booking["id"].as_str().unwrap();
    let noted = key();
    let path = format!("/v1/bookings/{id}/notes");
    there.post(&path, &json!({"text": "so that it has the state"})).await.expect(200);
    here.post_as(&noted, &path, &json!({"text": "one"})).await.expect(200);
    flush(&world).await;
    let other = there.post_as(&noted, &path, &json!({"text": "two"})).await;
    other.problem(422, "idempotency_key_reused");
    flush(&world).await;
    let cancelled = there.post_as(&noted, &format!("/v1/bookings/{id}/cancel"), &json!({})).await;
    cancelled.problem(422, "idempotency_key_reused");
    let shown = here.get(&format!("/v1/bookings/{id}")).await.expect(200);
    assert_eq!(shown["status"], "pending_payment");
}

#[tokio::test]
async fn equal_requests_at_once_make_one_booking() {
    let world = World::start().await;
    let names = world.serve_from(3).await;
    let admin = world.admin();
    let car = admin.add_car("one", 100_000).await;
    let clients: Vec<_> = names.iter().map(|name| world.visitor().at(&world, name)).collect();
    let (mut in_flight, mut made) = (0, 0);
    for round in 0..5 {
        let (key, body) = (key(), booking_body(&car, day(round), day(round)));
        let asked = (0..40).map(|n| clients[n % 3].post_as(&key, "/v1/bookings", &body));
        let answers = join_all(asked).await;
        let mut given = BTreeSet::new();
        for answer in &answers {
            if answer.status == 201 {
                given.insert(answer.body.clone());
                made += 1;
            } else {
                answer.problem(409, "request_in_flight");
                assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
                in_flight += 1;
            }
        }
        assert_eq!(given.len(), 1, "round {round}");
        flush(&world).await;
        // Without Redis's data, the log alone tells them apart.
        let asked = (0..6).map(|n| clients[n % 3].post_as(&key, "/v1/bookings", &body));
        for answer in join_all(asked).await.iter().filter(|answer| answer.status != 409) {
            assert_eq!(
                answer.expect(201),
                serde_json::from_slice::<Value>(given.first().unwrap()).unwrap()
            );
        }
    }
    assert_eq!(in_flight + made, 200);
    assert_eq!(bookings_in(&world.events().await), 5);

    // The same while Redis is down.
    world.services.stop_service(Service::Redis).await.unwrap();
    let (key, body) = (key(), booking_body(&car, day(50), day(51)));
    let asked = (0..12).map(|n| clients[n % 3].post_as(&key, "/v1/bookings", &body));
    let given: BTreeSet<_> = join_all(asked)
        .await
        .iter()
        .map(|answer| answer.expect(201)["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(given.len(), 1);
    assert_eq!(bookings_in(&world.events().await), 6);
}

#[tokio::test]
async fn keys_of_two_users_do_not_meet() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 100_000).await;
    let users = [
        world.user("ada", "customer"),
        world.user("ben", "customer"),
        world.visitor(),
        world.admin(),
    ];
    let mut ids = BTreeSet::new();
    for (n, user) in (0..).zip(&users) {
        let answer = user.post_as("1", "/v1/bookings", &booking_body(&car, day(n), day(n))).await;
        assert_eq!(answer.header("idempotent-replayed"), "");
        ids.insert(answer.expect(201)["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), users.len());
}

#[tokio::test]
async fn a_visitors_key_is_nobody_elses() {
    let world = InProcess::with(&[("EXODRIVE_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let admin = world.admin();
    let car = admin.add_car("one", 100_000).await;
    let book = async |address: &str, link: &str, body: &Value| {
        let request = world.visitor().command("/v1/bookings", body);
        let request = request.header("x-forwarded-for", address);
        let request = request.header("exodrive-booking-token", link);
        Answer::of(request.header("idempotency-key", "checkout-1")).await.unwrap()
    };
    let of = |email: &str, n: i64| {
        let mut body = booking_body(&car, day(n), day(n));
        body["customer"]["email"] = json!(email);
        body
    };
    let body = of("ada@example.com", 0);
    let first = book("203.0.113.1", "", &body).await;
    let token = first.expect(201)["access_link"]["token"].as_str().unwrap().to_owned();
    let shows = |answer: &Answer| String::from_utf8_lossy(&answer.body).contains(&token);
    for from in [false, true] {
        let again = book("203.0.113.1", "", &body).await;
        repeated(&first, &again, "from the same network, for the same person");
        // Others, who ask for the same days, are told that these are taken, and nothing else.
        for (address, link, email) in [
            ("203.0.113.2", "", "ada@example.com"),
            ("203.0.113.1", "", "ben@example.com"),
            ("203.0.113.2", token.as_str(), "ada@example.com"),
            ("203.0.113.2", "anything", "ben@example.com"),
        ] {
            let other = book(address, link, &of(email, 0)).await;
            assert!(!shows(&other), "{address} {email}");
            other.problem(409, "dates_unavailable");
        }
        if !from {
            flush(&world).await;
        }
    }
    // Under the same key each of them makes a booking of their own.
    let mut made = BTreeSet::new();
    for (n, (address, email)) in (1..).zip([
        ("203.0.113.2", "ada@example.com"),
        ("203.0.113.1", "ben@example.com"),
        ("2001:db8:0:1::1", "ada@example.com"),
    ]) {
        let other = book(address, "", &of(email, n)).await;
        assert!(!shows(&other));
        made.insert(other.expect(201)["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(made.len(), 3);
    // One network of IPv6, and the address in another spelling: the same visitor.
    let same = book("2001:db8:0:1::2", "", &of("ada@example.com", 3)).await;
    assert_eq!(same.header("idempotent-replayed"), "true");
    let other = book("203.0.113.1", "", &of(" Ada@Example.com ", 0)).await;
    other.problem(422, "idempotency_key_reused");
    // An action belongs to who holds the link, in whatever network they are.
    let link = world.visitor().with_link(&token);
    let path = format!("/v1/bookings/{}/cancel", first.json()["id"].as_str().unwrap());
    let cancel = async |address: &str| {
        let request = link.command(&path, &json!({})).header("x-forwarded-for", address);
        Answer::of(request.header("idempotency-key", "cancel-1")).await.unwrap()
    };
    let cancelled = cancel("203.0.113.1").await;
    cancelled.expect(200);
    repeated(&cancelled, &cancel("203.0.113.9").await, "from another network");
    assert_eq!(bookings_in(&world.events().await), 4);
}

#[tokio::test]
async fn a_user_has_keys_of_their_own_in_each_role() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 100_000).await;
    let body = booking_body(&car, day(0), day(0));
    let (staff, customer) = (world.user("ada", "admin"), world.user("ada", "customer"));
    staff.post_as("1", "/v1/bookings", &body).await.expect(201);
    customer.post_as("1", "/v1/bookings", &body).await.problem(409, "dates_unavailable");
}

#[tokio::test]
async fn a_key_goes_with_every_command() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let (here, there) = (world.admin(), world.admin().at(&world, &names[1]));
    let car = here.add_car("one", 100_000).await;
    let other_car = here.add_car("two", 100_000).await;
    let booking = here.booked(&car, day(0), day(2)).await;
    let id = booking["id"].as_str().unwrap();
    let on = |action: &str| format!("/v1/bookings/{id}/{action}");
    let dates = json!({"start_date": day(40), "end_date": day(41), "reason": "tyres"});
    let commands = [
        ("/v1/cars".to_owned(), json!({"slug": "three", "name": "Three", "category": "SUV"})),
        (format!("/v1/cars/{car}/feature"), json!({})),
        (format!("/v1/cars/{car}/blocks"), dates),
        (on("notes"), json!({"text": "a note"})),
        (on("authorize-payment"), json!({})),
        (on("send-contract"), json!({"document": "doc-1"})),
        (on("reschedule"), json!({"start_date": day(3), "end_date": day(5)})),
        (on("move"), json!({"car_id": other_car})),
        (on("access-link"), json!({})),
        (on("cancel"), json!({"reason": "ill"})),
    ];
    for (path, body) in &commands {
        let key = key();
        let before = world.events().await.len();
        let first = here.post_as(&key, path, body).await;
        assert!(first.status < 300, "{path}: {}", first.json());
        let after = world.events().await.len();
        assert!(after > before, "{path}");
        repeated(&first, &there.post_as(&key, path, body).await, path);
        flush(&world).await;
        repeated(&first, &there.post_as(&key, path, body).await, &format!("{path}, from the log"));
        flush(&world).await;
        repeated(&first, &here.post_as(&key, path, body).await, &format!("{path}, once more"));
        assert_eq!(world.events().await.len(), after, "{path}: one command, once");
    }
    // No body and an empty one mean the same.
    let key = key();
    here.post_as(&key, &format!("/v1/cars/{car}/unfeature"), &json!({})).await.expect(200);
    let request = here.request(Method::POST, &format!("/v1/cars/{car}/unfeature"));
    let bare = Answer::of(request.header("idempotency-key", &key)).await.unwrap();
    assert_eq!((bare.status, bare.header("idempotent-replayed")), (200, "true"));
    // A rejection is not remembered: the command may be accepted later.
    let body = booking_body(&car, day(40), day(40));
    here.post_as("later", "/v1/bookings", &body).await.problem(409, "dates_unavailable");
    let calendar = here.get(&format!("/v1/cars/{car}/calendar?from={0}&to={0}", day(40))).await;
    let block = calendar.expect(200)["days"][0]["by"].as_str().unwrap().to_owned();
    let request = here.request(Method::DELETE, &format!("/v1/cars/{car}/blocks/{block}"));
    Answer::of(request).await.unwrap().expect(200);
    here.post_as("later", "/v1/bookings", &body).await.expect(201);
    world.views_equal_a_fresh_fold().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_between_append_and_answer_doubles_nothing() {
    let world = World::start().await;
    let names = world.serve_from(2).await;
    let admin = world.admin();
    let car = admin.add_car("one", 100_000).await;
    let dying = world.visitor().at(&world, &names[1]);
    let requested = Mutex::new(BTreeMap::new());
    let next = AtomicI64::new(0);
    for _ in 0..4 {
        // Each client books until the process is gone.
        let load = async || {
            loop {
                let (key, n) = (key(), next.fetch_add(1, Ordering::Relaxed));
                let body = booking_body(&car, day(n), day(n));
                let request = dying.command("/v1/bookings", &body).header("idempotency-key", &key);
                let reported = Answer::of(request).await.ok();
                assert!(reported.as_ref().is_none_or(|answer| answer.status == 201));
                let gone = reported.is_none();
                requested.lock().unwrap().insert(key, (n, reported));
                if gone {
                    break;
                }
            }
        };
        let kill = async {
            let log = world.log().await;
            let before = log.last_position().await.unwrap();
            eventually("some are stored", async || {
                (log.last_position().await.unwrap() > before + 10).then_some(())
            })
            .await;
            world.kill(&names[1]);
        };
        tokio::join!(join_all((0..16).map(|_| load())), kill);
        world.start_api_as(&names[1]);
        world.wait_until_at(&names[1], "ready").await;
    }
    let requested = requested.into_inner().unwrap();
    let unanswered = requested.values().filter(|(_, reported)| reported.is_none()).count();
    assert_eq!(unanswered, 64, "each of the load was cut off");
    let stored = bookings_in(&world.events().await);
    let answered = requested.len() - unanswered;
    println!(
        "{} keys, {unanswered} cut off, {} of them stored",
        requested.len(),
        stored - answered
    );
    let clients = [world.visitor()];
    let retries = requested.iter().map(|(key, (n, reported))| {
        let clients = &clients;
        let body = booking_body(&car, day(*n), day(*n));
        async move {
            let again = Client::insist(clients, key, Method::POST, "/v1/bookings", &body).await;
            if let Some(reported) = reported {
                repeated(reported, &again, "after the process has died");
            }
            again.expect(201)["id"].as_str().unwrap().to_owned()
        }
    });
    let ids: BTreeSet<_> = join_all(retries).await.into_iter().collect();
    assert_eq!(ids.len(), requested.len());
    let events = world.views_equal_a_fresh_fold().await;
    assert_eq!(bookings_in(&events), requested.len(), "each key has one booking");
}

#[tokio::test]
async fn a_command_on_a_stale_state_is_answered_with_the_present_state() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let admin = world.admin();
    let other = world.user("other-admin", "admin").at(&world, &names[1]);
    let car = admin.add_car("one", 100_000).await;
    let booking = admin.book(&car, day(0), day(2)).await;
    let id = booking.expect(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/bookings/{id}");
    let read = admin.get_from(booking.header("exodrive-position").parse().unwrap(), &path).await;
    assert_eq!(read.header("etag"), booking.header("etag"));

    // Of two commands with the same ETag one succeeds.
    let mut won = 0;
    for _ in 0..5 {
        let etag = admin.get(&path).await.header("etag").to_owned();
        let note = |client: &Client, text: &str| {
            let command = client.command(&format!("{path}/notes"), &json!({"text": text}));
            Answer::of(command.header("if-match", &etag))
        };
        let answers = [note(&admin, "one"), note(&other, "two")];
        for answer in join_all(answers).await {
            let answer = answer.unwrap();
            if answer.status == 200 {
                won += 1;
                continue;
            }
            let problem = answer.problem(412, "stale");
            assert_eq!(problem["current"]["id"], *id);
            assert_ne!(format!("\"{}\"", problem["current"]["position"]), etag);
        }
        world.settled().await;
    }
    assert_eq!(won, 5);

    let stale = admin.command(&format!("{path}/move"), &json!({"car_id": car}));
    let stale = Answer::of(stale.header("if-match", "\"1\"")).await.unwrap();
    assert_eq!(stale.problem(412, "stale")["current"]["status"], "pending_payment");

    let car_path = format!("/v1/cars/{car}");
    let etag = admin.get(&car_path).await.header("etag").to_owned();
    let price = |cents: i64| {
        let request = admin.request(Method::PUT, &format!("{car_path}/price"));
        let body = json!({"base_per_day_cents": cents});
        Answer::of(request.json(&body).header("if-match", &etag))
    };
    price(110_000).await.unwrap().expect(200);
    let problem = price(120_000).await.unwrap().problem(412, "stale");
    assert_eq!(problem["current"]["price"]["base_per_day_cents"], 110_000);
    let wrong = admin.command(&format!("{path}/notes"), &json!({"text": "x"}));
    let wrong = Answer::of(wrong.header("if-match", "yesterday")).await.unwrap();
    assert_eq!(wrong.problem(400, "invalid_request")["errors"][0]["pointer"], "If-Match");
}
