//! An unpaid hold ends by an event of a worker, and by nothing else.

use crate::in_process::InProcess;
use exodrive_tests::{System, WORKER, World, day, eventually};
use serde_json::{Value, json};

async fn status(world: &System, booking: &Value) -> String {
    let path = format!("/v1/bookings/{}", booking["id"].as_str().unwrap());
    let made = booking["position"].as_u64().unwrap();
    world.admin().get_from(made, &path).await.expect(200)["status"].as_str().unwrap().to_owned()
}

async fn until_expired(world: &System, booking: &Value) {
    eventually("the hold ends", async || (status(world, booking).await == "expired").then_some(()))
        .await;
}

async fn expired_events(world: &System) -> usize {
    let events = world.events().await;
    events.iter().filter(|event| event.envelope.kind == "exodrive.booking.expired").count()
}

const SHORT: [(&str, &str); 1] = [("EXODRIVE_HOLD_PERIOD", "1s")];

#[tokio::test]
async fn an_unpaid_hold_ends_once_and_its_days_are_free() {
    let world = World::with(&SHORT).await;
    world.start_worker("work-2");
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let paid = visitor.booked(&car, day(10), day(11)).await;
    admin.act(&paid, "authorize-payment", json!({})).await.expect(200);
    let longer = json!({
        "car_id": car, "start_date": day(20), "end_date": day(21), "hold_minutes": 60,
        "customer": {"email": "a@example.com", "first_name": "A", "last_name": "B"},
    });
    let longer = admin.post("/v1/bookings", &longer).await.expect(201);
    let mut unpaid = Vec::new();
    for n in 0..5 {
        unpaid.push(visitor.booked(&car, day(n), day(n)).await);
    }
    visitor.book(&car, day(0), day(4)).await.problem(409, "dates_unavailable");
    for booking in &unpaid {
        until_expired(&world, booking).await;
    }
    visitor.booked(&car, day(0), day(4)).await;
    assert_eq!(status(&world, &paid).await, "pending_contract");
    assert_eq!(status(&world, &longer).await, "pending_payment");
    let id = unpaid[0]["id"].as_str().unwrap();
    let timeline = admin.get(&format!("/v1/bookings/{id}/timeline")).await.expect(200);
    assert_eq!(timeline["data"][1]["type"], "exodrive.booking.expired");
    assert_eq!(timeline["data"][1]["actor"], "system:hold-expiry");
    let link = unpaid[0]["access_link"]["token"].as_str().unwrap();
    let shown = visitor.with_link(link).get(&format!("/v1/bookings/{id}")).await.expect(200);
    assert_eq!((&shown["status"], &shown["allowed_actions"]), (&json!("expired"), &json!([])));
    let late = admin.act(&unpaid[0], "authorize-payment", json!({})).await;
    assert_eq!(late.problem(409, "action_not_allowed")["allowed_actions"][0], "notes");
    // The two workers wrote one event for each hold, and for the last one too.
    eventually("the last hold ends", async || (expired_events(&world).await == 6).then_some(()))
        .await;
    assert_eq!(status(&world, &paid).await, "pending_contract");
    world.kill("work-2");
    world.views_equal_a_fresh_fold().await;
    assert_eq!(expired_events(&world).await, 6);
}

#[tokio::test]
async fn without_a_worker_nothing_ends_by_itself_and_a_new_one_makes_up_for_it() {
    // Long enough for the view to have the booking before the worker dies.
    let world = World::with(&[("EXODRIVE_HOLD_PERIOD", "4s")]).await;
    let visitor = world.visitor();
    let car = world.admin().add_car("one", 100_000).await;
    let booking = visitor.booked(&car, day(0), day(1)).await;
    world.settled().await;
    world.kill(WORKER);
    let before = expired_events(&world).await;
    assert_eq!(before, 0, "the worker was killed before the hold had ended");
    let ends = booking["hold_expires_at"].as_str().unwrap();
    let ends: chrono::DateTime<chrono::Utc> = ends.parse().unwrap();
    eventually("the hold is over by the clock", async || {
        (chrono::Utc::now() > ends + chrono::TimeDelta::seconds(1)).then_some(())
    })
    .await;
    assert_eq!(status(&world, &booking).await, "pending_payment");
    let refused = visitor.book(&car, day(0), day(0)).await;
    assert_eq!(refused.problem(409, "dates_unavailable")["conflicts"][0]["status"], "held");
    let quote = json!({"car_id": car, "start_date": day(1), "end_date": day(1)});
    assert_eq!(visitor.post("/v1/quotes", &quote).await.expect(200)["available"], false);
    assert_eq!(expired_events(&world).await, 0);
    world.start_worker(WORKER);
    until_expired(&world, &booking).await;
    visitor.booked(&car, day(0), day(0)).await;
    assert_eq!(expired_events(&world).await, 1);
}

#[tokio::test]
async fn a_payment_that_comes_before_the_worker_saves_the_booking() {
    let world = InProcess::with(&SHORT).await;
    let admin = world.admin();
    let car = admin.add_car("one", 100_000).await;
    let booking = admin.booked(&car, day(0), day(1)).await;
    let failed = admin.act(&booking, "fail-payment", json!({"reason": "declined"})).await;
    assert_eq!(failed.expect(200)["payment"]["status"], "failed");
    admin.act(&booking, "capture-payment", json!({"amount_cents": 1})).await.expect(200);
    let witness = admin.booked(&car, day(5), day(5)).await;
    until_expired(&world, &witness).await;
    assert_eq!(status(&world, &booking).await, "pending_contract");
    assert_eq!(expired_events(&world).await, 1);
}
