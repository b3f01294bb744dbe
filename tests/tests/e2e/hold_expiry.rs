//! An unpaid hold ends by an event of a worker, and by nothing else. What the
//! views have does not matter.

use crate::in_process::InProcess;
use chrono::{NaiveDate, Utc};
use exodrive_domain::{Envelope, Subject};
use exodrive_log::NewEvent;
use exodrive_tests::{System, WORKER, World, booking_body, day, eventually, key};
use serde_json::{Value, json};
use std::collections::BTreeSet;

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
    // The timeline is another view, which may come later.
    let expired = admin.get(&format!("/v1/bookings/{id}")).await.expect(200);
    let position = expired["position"].as_u64().unwrap();
    let timeline = admin.get_from(position, &format!("/v1/bookings/{id}/timeline")).await;
    let timeline = timeline.expect(200);
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
    // Long enough for the worker to die before the hold ends.
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

/// An address whose bookings Postgres takes into no row of the view.
const REFUSED: &str = "refused@example.com";

/// Has Postgres refuse the rows of bookings of [`REFUSED`].
async fn refuse_rows(world: &System) {
    let refuse = format!(
        "alter table bookings_g1.bookings add constraint odd
         check (data -> 'customer' ->> 'email' <> '{REFUSED}')"
    );
    sqlx::query(sqlx::AssertSqlSafe(refuse)).execute(world.database()).await.unwrap();
}

/// Books days of a car as a visitor whose row Postgres refuses.
async fn refused_booking(world: &System, car: &str, first: NaiveDate, last: NaiveDate) -> Value {
    let mut body = booking_body(car, first, last);
    body["customer"]["email"] = json!(REFUSED);
    world.visitor().post_as(&key(), "/v1/bookings", &body).await.expect(201)
}

async fn delete_row(world: &System, booking: &Value) {
    let delete = "delete from bookings_g1.bookings where key = $1";
    let deleted =
        sqlx::query(delete).bind(booking["id"].as_str()).execute(world.database()).await.unwrap();
    assert_eq!(deleted.rows_affected(), 1);
}

async fn assert_parked(world: &System, booking: &Value) {
    let parked = "select count(*) from parked_events where projection = 'bookings' and key = $1";
    let parked: i64 = sqlx::query_scalar(parked)
        .bind(booking["id"].as_str())
        .fetch_one(world.database())
        .await
        .unwrap();
    assert!(parked > 0, "{booking}");
}

/// The bookings whose holds the worker knows to be open.
async fn open_holds(world: &System) -> BTreeSet<String> {
    let open = "select booking_id::text from open_holds";
    sqlx::query_scalar(open).fetch_all(world.database()).await.unwrap().into_iter().collect()
}

async fn until_open(world: &System, bookings: &[&Value]) {
    let expected: BTreeSet<_> =
        bookings.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    eventually("the worker knows the open holds", async || {
        let open = open_holds(world).await;
        if open == expected { Ok(()) } else { Err(format!("{open:?}, not {expected:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_hold_ends_though_its_row_is_parked_or_missing() {
    let world = InProcess::with(&[("EXODRIVE_HOLD_PERIOD", "4s")]).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    refuse_rows(&world).await;
    let parked = refused_booking(&world, &car, day(0), day(1)).await;
    let missing = visitor.booked(&car, day(5), day(6)).await;
    world.settled().await;
    delete_row(&world, &missing).await;
    assert_parked(&world, &parked).await;
    let rows = world.rows("bookings").await;
    assert!(rows.is_empty(), "{rows:?}");
    assert_eq!(expired_events(&world).await, 0, "the holds had not ended before");

    eventually("both holds end", async || {
        let ended = expired_events(&world).await;
        if ended == 2 { Ok(()) } else { Err(format!("{ended} of 2")) }
    })
    .await;
    visitor.booked(&car, day(0), day(1)).await;
    visitor.booked(&car, day(5), day(6)).await;
}

#[tokio::test]
async fn a_held_booking_is_paid_though_its_row_is_parked() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 100_000).await;
    refuse_rows(&world).await;
    let parked = refused_booking(&world, &car, day(0), day(1)).await;
    world.settled().await;
    assert_parked(&world, &parked).await;
    until_open(&world, &[&parked]).await;
    // A process that has cached nothing, while Redis has nothing either.
    let fresh = world.serve_from(2).await;
    let client = redis::Client::open(world.redis()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let car_of = format!("exo:car-of:{}", parked["id"].as_str().unwrap());
    eventually("Redis has the car of the booking", async || {
        let dropped = redis::cmd("DEL").arg(&car_of).query_async(&mut connection).await;
        (dropped == Ok(1)).then_some(())
    })
    .await;
    let paid = admin.at(&world, &fresh[1]).act(&parked, "authorize-payment", json!({})).await;
    assert_eq!(paid.expect(200)["status"], "pending_contract");
    until_open(&world, &[]).await;
}

#[tokio::test]
async fn open_holds_that_are_lost_are_filled_again_from_the_log() {
    let world = InProcess::with(&[("EXODRIVE_HOLD_PERIOD", "8s")]).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let other = admin.add_car("two", 100_000).await;
    let paid = admin.booked(&car, day(0), day(1)).await;
    admin.act(&paid, "authorize-payment", json!({})).await.expect(200);
    let moved = admin.booked(&car, day(2), day(3)).await;
    admin.act(&moved, "move", json!({"car_id": other})).await.expect(200);
    let held = visitor.booked(&car, day(5), day(6)).await;
    until_open(&world, &[&moved, &held]).await;
    for lose in [
        "delete from open_holds where car_id::text = '<car>'",
        "truncate open_holds",
        // A database that was made again.
        "truncate open_holds, worker_positions",
    ] {
        let lose = sqlx::AssertSqlSafe(lose.replace("<car>", &car));
        sqlx::query(lose).execute(world.database()).await.unwrap();
        until_open(&world, &[&moved, &held]).await;
    }
    assert_eq!(expired_events(&world).await, 0, "the holds had not ended before");
    until_expired(&world, &moved).await;
    until_expired(&world, &held).await;
    until_open(&world, &[]).await;
    assert_eq!(status(&world, &paid).await, "pending_contract");
    assert_eq!(expired_events(&world).await, 2);
}

#[tokio::test]
async fn an_event_of_a_newer_release_stops_the_worker_until_a_release_reads_it() {
    let world = InProcess::with(&SHORT).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let other = admin.add_car("two", 100_000).await;
    let before = visitor.booked(&car, day(0), day(1)).await;
    let subject = Subject::Booking(other.parse().unwrap());
    let newer = NewEvent {
        subject,
        envelope: Envelope::decision("exodrive.booking.lent_out", key(), Utc::now()),
        provider_headers: Vec::new(),
        body: "{}".into(),
    };
    let log = world.log().await;
    let position = log.append_decision(&newer, 0).await.unwrap().position;
    let after = visitor.booked(&car, day(5), day(6)).await;
    until_expired(&world, &before).await;

    eventually("readiness says that the worker does not work", async || {
        let ready = world.get("/readyz").await.json();
        let workers = ready["checks"]["workers"].as_array();
        let stopped = |it: &Value| it["name"] == "hold-expiry" && it["ok"] == false;
        let degraded =
            ready["status"] == "degraded" && workers.is_some_and(|all| all.iter().any(stopped));
        if degraded { Ok(()) } else { Err(ready.to_string()) }
    })
    .await;
    let shown = world.exodrive(&["workers", "status", "hold-expiry", "--json"]).await.stdout;
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    let error = shown[0]["last_error"].as_str().unwrap();
    let names = error.contains(&format!("position {position} "))
        && error.contains("exodrive.booking.lent_out");
    assert!(names, "{error}");
    assert_eq!(status(&world, &after).await, "pending_payment", "nothing is followed past it");

    // A worker of the newer release has read it.
    let read = "update worker_positions set position = $1 where worker = 'hold-expiry'";
    let position = i64::try_from(position).unwrap();
    sqlx::query(read).bind(position).execute(world.database()).await.unwrap();
    until_expired(&world, &after).await;
    world.wait_until("ready").await;
}
