//! No two customers get the same car on the same day, however many ask at once, and at however many
//! processes.

use crate::in_process::InProcess;
use chrono::NaiveDate;
use exodrive_tests::{Answer, Client, Holders, System, booking_body, bookings_in, day, rounds};
use futures::future::join_all;
use serde_json::Value;
use std::collections::BTreeSet;

/// Processes that take bookings at the same time.
const PROCESSES: usize = 3;
/// Contenders of a small round.
const CONTENDERS: usize = 10;
/// Rounds on one car, before the next one is taken.
const ROUNDS_OF_A_CAR: usize = 50;
/// Days between the fields of two rounds.
const FIELD: i64 = 12;

type Range = (NaiveDate, NaiveDate);

fn days_of((first, last): Range) -> BTreeSet<NaiveDate> {
    first.iter_days().take_while(|day| *day <= last).collect()
}

fn date(value: &Value) -> NaiveDate {
    value.as_str().unwrap().parse().unwrap()
}

/// The days that a rejection names, which must be in order and held.
#[track_caller]
fn conflicts(answer: &Answer) -> BTreeSet<NaiveDate> {
    let problem = answer.problem(409, "dates_unavailable");
    assert!(!problem["next"].as_str().unwrap().is_empty());
    let named: Vec<_> = problem["conflicts"].as_array().unwrap().clone();
    let dates: Vec<_> = named.iter().map(|named| date(&named["date"])).collect();
    assert!(dates.is_sorted_by(|a, b| a < b), "each day once, in order: {problem}");
    assert!(named.iter().all(|named| named["status"] == "held"), "{problem}");
    assert!(
        named.iter().all(|named| named["booking_id"].is_null()),
        "other customers' bookings are not shown"
    );
    dates.into_iter().collect()
}

/// Result of a round: the accepted ranges, and the number of rejections.
struct Outcome {
    accepted: Vec<(Range, String)>,
    refused: usize,
}

/// All ask at once; then each answer is compared with all others.
async fn contend(clients: &[Client], car: &str, ranges: &[Range]) -> Outcome {
    let asked = ranges.iter().enumerate().map(|(n, range)| {
        let client = &clients[n % clients.len()];
        async move { (*range, client.book(car, range.0, range.1).await) }
    });
    let answers = join_all(asked).await;
    let mut taken = BTreeSet::new();
    let mut accepted = Vec::new();
    for (range, answer) in &answers {
        if answer.status != 201 {
            continue;
        }
        let booking = answer.json();
        assert_eq!((date(&booking["start_date"]), date(&booking["end_date"])), *range);
        assert_eq!(booking["status"], "pending_payment");
        for day in days_of(*range) {
            assert!(taken.insert(day), "{day} was given twice: {ranges:?}");
        }
        accepted.push((*range, booking["id"].as_str().unwrap().to_owned()));
    }
    for (range, answer) in answers.iter().filter(|(_, answer)| answer.status != 201) {
        let named = conflicts(answer);
        assert!(!named.is_empty(), "a free range was rejected: {range:?}");
        // For each booking that was made, all shared days; nothing else.
        let mut left = named.clone();
        for (other, _) in &accepted {
            let shared: BTreeSet<_> =
                days_of(*other).intersection(&days_of(*range)).copied().collect();
            let reported = shared.intersection(&named).count();
            assert!(
                reported == 0 || reported == shared.len(),
                "part of {other:?} is named: {named:?}"
            );
            left = left.difference(&shared).copied().collect();
        }
        assert!(left.is_empty(), "{left:?} is free or was not asked for: {range:?}");
    }
    // When no request is running, a rejection names exactly the taken days.
    if let Some((range, _)) = answers.iter().find(|(_, answer)| answer.status != 201) {
        let again = clients[0].book(car, range.0, range.1).await;
        let shared: BTreeSet<_> = taken.intersection(&days_of(*range)).copied().collect();
        assert_eq!(conflicts(&again), shared);
    }
    Outcome { refused: answers.len() - accepted.len(), accepted }
}

fn range_in(field: i64, at: std::ops::Range<i64>, longest: i64) -> Range {
    let first = rand::random_range(at);
    let last = first + rand::random_range(0..longest);
    (day(field + first), day(field + last))
}

/// The contenders of a round: all for one range; or for ranges that overlap, and one for days that
/// no other contender asks for.
fn round(n: usize, field: i64) -> Vec<Range> {
    if n.is_multiple_of(2) {
        return vec![range_in(field, 0..4, 5); CONTENDERS];
    }
    let mut ranges: Vec<_> = (1..CONTENDERS).map(|_| range_in(field, 0..6, 4)).collect();
    ranges.push((day(field + 9), day(field + 10)));
    ranges
}

/// The log, the calendar and the answers must agree.
async fn agree(world: &System, client: &Client, car: &str, accepted: &[(Range, String)]) {
    let expected: BTreeSet<_> = accepted.iter().flat_map(|(range, _)| days_of(*range)).collect();
    let events = world.events().await;
    assert_eq!(Holders::of(&events).taken(car), expected, "the log");
    let end = events.last().unwrap().position;
    let (first, last) = (*expected.first().unwrap(), *expected.last().unwrap());
    let mut shown = BTreeSet::new();
    // A calendar is shown for two years at a time.
    let mut from = first;
    while from <= last {
        let to = last.min(from + chrono::TimeDelta::days(700));
        let path = format!("/v1/cars/{car}/calendar?from={from}&to={to}");
        let calendar = client.get_from(end, &path).await.expect(200);
        let days = calendar["days"].as_array().unwrap();
        let held = days.iter().filter(|day| day["status"] != "available");
        shown.extend(held.map(|day| date(&day["date"])));
        from = to + chrono::TimeDelta::days(1);
    }
    assert_eq!(shown, expected, "the calendar");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_contenders_for_a_range_one_gets_it_and_a_free_range_is_always_granted() {
    let world = InProcess::start().await;
    let names = world.serve_from(PROCESSES).await;
    let clients: Vec<_> = names.iter().map(|name| world.visitor().at(&world, name)).collect();
    let (mut attempts, mut made) = (0, 0);
    let rounds = rounds(150);
    for block in 0..rounds.div_ceil(ROUNDS_OF_A_CAR) {
        let car = world.admin().add_car(&format!("car-{block}"), 100_000).await;
        let mut accepted = Vec::new();
        for n in 0..ROUNDS_OF_A_CAR.min(rounds - block * ROUNDS_OF_A_CAR) {
            let ranges = round(n, i64::try_from(n).unwrap() * FIELD);
            let outcome = contend(&clients, &car, &ranges).await;
            attempts += ranges.len();
            if n.is_multiple_of(2) {
                assert_eq!((outcome.accepted.len(), outcome.refused), (1, CONTENDERS - 1));
            } else {
                let alone = ranges.last().unwrap();
                assert!(outcome.accepted.iter().any(|(range, _)| range == alone), "{ranges:?}");
            }
            accepted.extend(outcome.accepted);
        }
        made += accepted.len();
        agree(&world, &clients[block % PROCESSES], &car, &accepted).await;
    }
    assert_eq!(bookings_in(&world.events().await), made, "nobody else has booked");
    println!("{attempts} attempts in {rounds} rounds: {made} bookings");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_over_three_processes() {
    let world = InProcess::start().await;
    let names = world.serve_from(PROCESSES).await;
    let clients: Vec<_> = names.iter().map(|name| world.visitor().at(&world, name)).collect();
    let car = world.admin().add_car("hot", 100_000).await;
    let mut ranges: Vec<_> = (0..199).map(|_| range_in(0, 0..40, 7)).collect();
    ranges.push((day(60), day(60)));
    let outcome = contend(&clients, &car, &ranges).await;
    assert!(outcome.accepted.iter().any(|(range, _)| *range == (day(60), day(60))));
    assert!(outcome.refused > 100, "they overlap: {}", outcome.refused);
    agree(&world, &clients[1], &car, &outcome.accepted).await;
    let made = outcome.accepted.len();
    // The same days for all of them.
    let same = vec![booking_body(&car, day(100), day(103)); 200];
    let asked = same.iter().enumerate().map(|(n, body)| clients[n % 3].post("/v1/bookings", body));
    let answers = join_all(asked).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(won, 1);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!(conflicts(answer), days_of((day(100), day(103))));
    }
    assert_eq!(bookings_in(&world.views_equal_a_fresh_fold().await), made + 1);
}

/// Whoever can write to Redis can neither free a day there nor take one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_state_edited_in_redis_never_leads_to_a_double_booking() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let client = |name: &str| world.visitor().at(&world, name);
    let car = world.admin().add_car("porsche", 100_000).await;
    let (first, last) = (day(3), day(5));
    client(&names[0]).book(&car, first, last).await.expect(201);
    let redis = redis::Client::open(world.redis()).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let (key, written) = exodrive_tests::eventually("the calendar is in Redis", async || {
        let mut redis = redis.clone();
        let mut find = redis::cmd("KEYS");
        find.arg("exo:state:calendar:*");
        let keys: Vec<String> = find.query_async(&mut redis).await.ok()?;
        let key = keys.into_iter().next()?;
        let value: String = redis::cmd("GET").arg(&key).query_async(&mut redis).await.ok()?;
        value.contains("pending_payment").then_some((key, value))
    })
    .await;
    let (head, json) = written.rsplit_once('\n').unwrap();
    let mut calendar: Value = serde_json::from_str(json).unwrap();
    calendar["bookings"] = serde_json::json!({});
    let edited = format!("{head}\n{calendar}");
    redis::cmd("SET").arg(&key).arg(edited).query_async::<()>(&mut redis).await.unwrap();
    // The other process has no state of its own yet.
    client(&names[1]).book(&car, first, last).await.problem(409, "dates_unavailable");
    let kept: Option<String> = redis::cmd("GET").arg(&key).query_async(&mut redis).await.unwrap();
    assert!(kept.is_none_or(|kept| kept.contains("pending_payment")), "what was edited is gone");
}
