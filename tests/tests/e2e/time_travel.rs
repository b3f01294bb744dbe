//! Any row of any view at any earlier position and time: from the log alone, on
//! the command line and over HTTP.

use crate::in_process::InProcess;
use crate::varied::{self, SHORT_WINDOW};
use exodrive_domain::{Event, Recorded, decode, time};
use exodrive_projections::{Projection, Sources, for_each_projection, names};
use exodrive_replays::{Until, history};
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{API, WORKER, World, day, eventually, fold_by_name};
use futures::future::join_all;
use rand::seq::IteratorRandom;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A row folded from some events, with the position that last changed it.
fn fold_key<P: Projection>(
    events: &[Recorded],
    key: &str,
    has: impl Fn(&Recorded) -> bool,
) -> Option<(u64, P::Row)> {
    let mut row: Option<(u64, P::Row)> = None;
    for recorded in events.iter().filter(|event| has(event)) {
        if !P::SUBJECTS.iter().any(|prefix| recorded.subject.starts_with(prefix)) {
            continue;
        }
        let payload = decode(recorded).unwrap();
        let event = Event { recorded, payload: &payload };
        if !P::keys(&event).iter().any(|own| own == key) {
            continue;
        }
        let before = row.as_ref().map(|(_, row)| row);
        let after = P::evolve(key, before.cloned(), &event);
        if after.as_ref() != before {
            row = after.map(|row| (recorded.position, row));
        }
    }
    row
}

#[tokio::test]
async fn the_sources_of_a_row_hold_every_event_of_it() {
    let world = InProcess::with(&[SHORT_WINDOW]).await;
    varied::happens(&world).await;
    let events = world.views_equal_a_fresh_fold().await;
    let mut narrow = BTreeSet::new();
    for_each_projection!(P => {
        let keys = world.rows(P::NAME).await;
        assert!(keys.len() >= 2, "{} has rows", P::NAME);
        for key in keys.keys() {
            let all = fold_key::<P>(&events, key, |_| true);
            let row = all.as_ref().map(|(_, row)| row);
            for row in [None, row] {
                let of_sources = match P::sources(key, row) {
                    Sources::All => continue,
                    Sources::Subjects(subjects) => {
                        let names: Vec<_> = subjects.iter().map(ToString::to_string).collect();
                        fold_key::<P>(&events, key, |event| names.contains(&event.subject))
                    }
                    Sources::Position(position) => {
                        fold_key::<P>(&events, key, |event| event.position == position)
                    }
                };
                narrow.insert(P::NAME);
                assert_eq!(of_sources, all, "{key} of {}", P::NAME);
            }
        }
    });
    let certain = [
        "booking_timeline",
        "calendar",
        "cars",
        "deliveries",
        "email_timeline",
        "inbox",
        "payments",
    ];
    assert!(narrow.is_superset(&BTreeSet::from(certain)), "{narrow:?}");
    // Repeats about another email may be in any subject, so the replay reads
    // all of them.
    let rows = world.rows("deliveries").await;
    let row = serde_json::from_value(rows["msg_1"].1.clone()).unwrap();
    let sources = exodrive_projections::views::deliveries::Deliveries::sources("msg_1", Some(&row));
    assert_eq!(sources, Sources::All);
}

/// Every row of every view after each position.
type Past = Vec<BTreeMap<&'static str, exodrive_tests::Rows>>;

fn past(events: &[Recorded]) -> Past {
    (0..=events.len()).map(|end| fold_by_name(&events[..end])).collect()
}

/// A path of `/v1/replay`.
fn path(view: &str, key: &str, query: &str) -> String {
    format!("/v1/replay/{view}/{}{query}", key.replace('/', "%2F"))
}

#[tokio::test]
async fn every_row_of_every_view_is_reported_as_it_was_from_the_log_alone() {
    let world = World::with(&[SHORT_WINDOW]).await;
    varied::happens(&world).await;
    let events = world.views_equal_a_fresh_fold().await;
    world.kill(WORKER);
    world.services.stop_service(Service::Postgres).await.unwrap();
    world.services.stop_service(Service::Redis).await.unwrap();
    let past = past(&events);
    let log = world.log().await;
    let end = events.len() as u64;

    // The library replays at every position.
    for_each_projection!(P => {
        let keys: Vec<_> = past[events.len()][P::NAME].keys().cloned().collect();
        for key in &keys {
            let frames = history::<P>(&log, key, Until::Now, &|_, _| {}).await.unwrap();
            for (position, then) in past.iter().enumerate() {
                let mut until = frames.iter().rev();
                let frame = until.find(|frame| frame.recorded.position <= position as u64);
                let reported = frame.and_then(|frame| frame.state.as_ref());
                let reported = reported.map(|row| serde_json::to_value(row).unwrap());
                let known = then[P::NAME].get(key).map(|(_, row)| row.clone());
                assert_eq!(reported, known, "{key} of {} at {position}", P::NAME);
            }
        }
    });

    // HTTP and the command line replay at some positions and times.
    for view in names() {
        let rows = &past[events.len()][view];
        let keys = rows.keys().sample(&mut rand::rng(), 4);
        for (n, key) in keys.into_iter().enumerate() {
            let position = rand::random_range(1..=end);
            let moment = events[rand::random_range(0..events.len())].envelope.time;
            let earlier: Vec<_> =
                events.iter().filter(|it| it.envelope.time <= moment).cloned().collect();
            let points = [
                (position.to_string(), past[position as usize][view].get(key).cloned()),
                (time::format(&moment), fold_by_name(&earlier)[view].get(key).cloned()),
                (end.to_string(), rows.get(key).cloned()),
            ];
            for (at, known) in points {
                let answer = world.get(&path(view, key, &format!("?at={at}"))).await;
                let Some((changed, row)) = known else {
                    // The row has events only later, or events that made no
                    // row.
                    let nothing = answer.status == 404 || answer.json()["state"].is_null();
                    assert!(nothing, "{key} of {view} at {at}: {}", answer.json());
                    continue;
                };
                let reported = answer.expect(200);
                assert_eq!(answer.header("cache-control"), "no-store");
                assert_eq!(reported["state"], row, "{key} of {view} at {at}");
                assert_eq!(
                    (&reported["position"], &reported["historical"]),
                    (&json!(changed), &json!(true))
                );
                assert_eq!((&reported["object"], &reported["at"]), (&json!("replay"), &json!(at)));
                if n == 0 {
                    let args = ["replay", view, key.as_str(), "--at", &at, "--json"];
                    let printed: Value =
                        serde_json::from_str(&world.exodrive_prints(&args).await).unwrap();
                    for field in ["view", "key", "position", "state", "events"] {
                        assert_eq!(printed[field], reported[field], "{field} by both");
                    }
                    let table = world.exodrive_prints(&args[..5]).await;
                    assert!(table.contains("read from the log"), "{table}");
                }
            }
        }
    }

    // Rows that do not exist, and requests that are invalid.
    world.get("/v1/replay/nothing/x").await.problem(404, "not_found");
    for view in names() {
        world.get(&path(view, "no-such-key", "")).await.problem(404, "not_found");
        let none = world.exodrive(&["replay", view, "no-such-key"]).await;
        assert_eq!(none.status.code(), Some(1), "{view}");
    }
    for query in ["?at=noon", "?from=1", "?to=1", "?at=1&from=1&to=2", "?when=1"] {
        world.get(&path("inbox", "em-0", query)).await.problem(400, "invalid_request");
    }
    for role in ["customer", "operator"] {
        world.get_as(role, "/v1/replay/inbox/em-0").await.problem(403, "forbidden");
    }
    let request = world.request(Method::GET, "/v1/replay/inbox/em-0");
    exodrive_tests::Answer::of(request).await.unwrap().problem(401, "unauthenticated");
    let help = world.exodrive_prints(&["replay", "--help"]).await;
    for view in names() {
        assert!(help.contains(&format!("  {view} ")), "{view} in\n{help}");
    }
    assert!(help.contains("A booking, by its id"), "{help}");
    assert_eq!(world.exodrive(&["replay", "nothing", "x"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_comparison_names_the_fields_and_what_changed_them() {
    let world = World::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let other = admin.add_car("two", 10_000).await;
    let booking = admin.booked(&car, day(0), day(1)).await;
    let id = booking["id"].as_str().unwrap().to_owned();
    let held = booking["position"].as_u64().unwrap();
    let at = async |action: &str, body: Value| {
        let answer = admin.act(&booking, action, body).await;
        answer.expect(200)["position"].as_u64().unwrap()
    };
    let paid = at("capture-payment", json!({})).await;
    let moved = at("move", json!({"car_id": other, "reason": "tyres"})).await;
    let noted = at("notes", json!({"text": "window seat"})).await;
    world.kill(WORKER);
    world.services.stop_service(Service::Postgres).await.unwrap();

    let of = |fields: &Value| -> BTreeMap<String, Value> {
        let fields = fields.as_array().unwrap().iter();
        fields.map(|field| (field["pointer"].as_str().unwrap().to_owned(), field.clone())).collect()
    };
    let diff = async |from: u64, to: u64| {
        let query = format!("?from={from}&to={to}");
        let reported = world.get(&path("bookings", &id, &query)).await.expect(200);
        assert_eq!(
            (&reported["object"], &reported["historical"]),
            (&json!("replay_diff"), &json!(true))
        );
        let (from, to) = (from.to_string(), to.to_string());
        let args = ["replay", "bookings", &id, "--diff", &from, &to];
        let table = world.exodrive_prints(&args).await;
        let json: Value =
            serde_json::from_str(&world.exodrive_prints(&[&args[..], &["--json"]].concat()).await)
                .unwrap();
        assert_eq!(json["fields"], reported["fields"]);
        (of(&reported["fields"]), table)
    };
    let (fields, table) = diff(held, noted).await;
    let by = |pointer: &str| (fields[pointer]["position"].clone(), fields[pointer]["type"].clone());
    assert_eq!(
        by("/booking/payment/captured_cents"),
        (json!(paid), json!("exodrive.booking.payment_captured"))
    );
    assert_eq!(by("/booking/car_id"), (json!(moved), json!("exodrive.booking.moved_in")));
    assert_eq!(by("/notes/0"), (json!(noted), json!("exodrive.booking.note_added")));
    let car_id = &fields["/booking/car_id"];
    assert_eq!((&car_id["old"], &car_id["new"]), (&json!(car), &json!(other)));
    assert_eq!(fields["/notes/0"]["old"], Value::Null);
    assert!(!fields.keys().any(|it| it.starts_with("/customer") || it == "/booking/id"));
    for text in ["/booking/car_id", "exodrive.booking.moved_in", "fields differ"] {
        assert!(table.contains(text), "{text} in\n{table}");
    }
    let (fields, _) = diff(moved, noted).await;
    assert!(!fields.contains_key("/booking/car_id") && fields.contains_key("/notes/0"));
    let (fields, table) = diff(held, held).await;
    assert!(fields.is_empty() && table.contains("the same at both points"), "{table}");
    let back = diff(noted, held).await.0;
    assert_eq!(back["/booking/car_id"]["new"], json!(car));
    assert_eq!(back["/booking/car_id"]["position"], json!(moved));
}

#[tokio::test]
async fn few_histories_read_all_of_the_log_at_a_time() {
    let world = World::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let id = admin.booked(&car, day(0), day(1)).await["id"].as_str().unwrap().to_owned();
    let (of_all, of_subject) = (path("bookings", &id, ""), path("cars", &car, ""));
    // A log that hangs holds its readers: two of four. The others are rejected.
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    let answers = join_all((0..4).map(|_| world.get(&of_all))).await;
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    let (busy, waited): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.json()["code"] == "busy");
    assert_eq!((busy.len(), waited.len()), (2, 2));
    for refused in busy {
        refused.problem(503, "busy");
        assert_eq!(refused.header("retry-after"), "5");
    }
    for late in waited {
        late.problem(503, "log_unavailable");
    }
    eventually("the next is served", async || {
        (world.get(&of_all).await.status == 200).then_some(())
    })
    .await;
    world.get(&of_subject).await.expect(200);
    assert!(!world.printed(API).contains("panicked"));
}
