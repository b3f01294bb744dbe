//! Two releases beside each other: the newer one writes events that the older
//! one, which runs here, cannot read. The older one decides nothing about their
//! subjects, and goes on with everything else.

use exodrive_domain::{DECISION_VERSION, Envelope, Subject};
use exodrive_log::NewEvent;
use exodrive_tests::{Answer, Client, World, booking_body, car_body, day, key};
use serde_json::{Value, json};

/// An event that only a newer release knows, on the calendar of a car.
fn of_a_newer_release(car: &str, kind: &str, version: u32) -> NewEvent {
    let body = json!({
        "car_id": car, "type": "lent_out",
        "days": {"from": day(0), "until": day(5)},
    });
    NewEvent {
        subject: Subject::Booking(car.parse().unwrap()),
        envelope: Envelope { version, ..Envelope::decision(kind, key(), chrono::Utc::now()) },
        provider_headers: Vec::new(),
        body: serde_json::to_vec(&body).unwrap().into(),
    }
}

#[track_caller]
fn rejected(answer: &Answer) {
    let problem = answer.problem(503, "newer_release");
    assert_eq!(problem["title"], "A newer release has appended an event");
    assert!(!answer.header("retry-after").is_empty(), "{problem}");
}

/// Tries every command on a calendar. `held` is a booking on it.
async fn nothing_is_decided(world: &World, admin: &Client, car: &str, held: &Value) {
    let before = world.log().await.last_position().await.unwrap();
    let asked = key();
    for _ in 0..2 {
        let path = "/v1/bookings";
        rejected(&admin.post_as(&asked, path, &booking_body(car, day(0), day(4))).await);
    }
    rejected(&admin.book(car, day(40), day(41)).await);
    let block = json!({"start_date": day(30), "end_date": day(31), "reason": "tyres"});
    rejected(&admin.post(&format!("/v1/cars/{car}/blocks"), &block).await);
    for (action, body) in [
        ("authorize-payment", json!({})),
        ("send-contract", json!({"document": "doc-1"})),
        ("extend", json!({"end_date": day(22)})),
        ("cancel", json!({"reason": "a test"})),
    ] {
        rejected(&admin.act(held, action, body).await);
    }
    let after = world.log().await.last_position().await.unwrap();
    assert_eq!(after, before, "nothing is appended");
}

/// `kind` at `version` takes days that this release would give away.
async fn the_older_release_decides_nothing(kind: &str, version: u32) {
    let world = World::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let other = admin.add_car("two", 100_000).await;
    let held = visitor.booked(&car, day(20), day(21)).await;
    let on_other = visitor.booked(&other, day(20), day(21)).await;

    world.settled().await;

    let log = world.log().await;
    let newer = of_a_newer_release(&car, kind, version);
    let last = log.last_position_of(&newer.subject).await.unwrap().unwrap();
    log.append_decision(&newer, last).await.unwrap();

    nothing_is_decided(&world, &admin, &car, &held).await;
    // A process that has cached nothing decides nothing, either, whatever Redis
    // has.
    let fresh = world.serve_from(2).await;
    nothing_is_decided(&world, &admin.at(&world, &fresh[1]), &car, &held).await;

    // A booking cannot move to that car, and no part of the move is done.
    let before = log.last_position().await.unwrap();
    let to = json!({"car_id": car});
    rejected(&admin.act(&on_other, "move", to).await);
    assert_eq!(log.last_position().await.unwrap(), before);

    // Commands on the other car go on, and so do commands that decide nothing
    // about days.
    visitor.booked(&other, day(0), day(4)).await;
    admin.act(&on_other, "authorize-payment", json!({})).await.expect(200);
    admin.post("/v1/cars", &car_body("three")).await.expect(201);
}

#[tokio::test]
async fn an_event_of_a_type_that_only_the_newer_release_knows_stops_the_older_one() {
    the_older_release_decides_nothing("exodrive.booking.lent_out", 1).await;
}

#[tokio::test]
async fn an_event_of_a_newer_version_stops_the_older_release() {
    the_older_release_decides_nothing("exodrive.calendar.blocked", DECISION_VERSION + 1).await;
}
