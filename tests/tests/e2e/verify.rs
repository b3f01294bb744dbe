//! `exodrive projections verify` and the checker: they report nothing while all
//! is well, even under load, and report everything that is wrong.

use crate::in_process::InProcess;
use crate::varied::{self, SHORT_WINDOW};
use exodrive_runtime::services::Service;
use exodrive_tests::{
    Delivery, System, WORKER, World, booking_body, day, email_body, eventually, fixtures,
};
use redis::AsyncCommands;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Runs `projections verify` with these arguments. Returns the exit code and
/// the answer.
async fn verify(world: &System, args: &[&str]) -> (Option<i32>, Value) {
    let args = [&["projections", "verify", "--json"], args].concat();
    let done = world.exodrive(&args).await;
    let reported = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
    (done.status.code(), reported)
}

/// The findings: view, place, key.
fn findings(reported: &Value) -> BTreeSet<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |report: &Value| -> Vec<_> {
        let findings = report["findings"].as_array().unwrap().iter();
        findings.map(|it| (text(&report["name"]), text(&it["where"]), text(&it["key"]))).collect()
    };
    reported["projections"].as_array().unwrap().iter().flat_map(of).collect()
}

#[track_caller]
fn is_clean((code, reported): &(Option<i32>, Value)) {
    assert_eq!(findings(reported), BTreeSet::new(), "{reported:#}");
    assert_eq!((*code, &reported["equal"]), (Some(0), &json!(true)), "{reported:#}");
}

fn checked(reported: &Value, view: &str) -> u64 {
    let reports = reported["projections"].as_array().unwrap();
    let report = reports.iter().find(|report| report["name"] == view).unwrap();
    report["checked"].as_u64().unwrap()
}

/// Connects to Redis, beside the system.
async fn redis(world: &System) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(world.redis()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test]
async fn it_is_clean_after_a_run_with_faults_and_names_whatever_is_wrong() {
    let world = World::with(&[SHORT_WINDOW, ("EXODRIVE_CHECK_INTERVAL", "0s")]).await;
    let faults = async {
        for _ in 0..3 {
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            world.kill(WORKER);
            let _: () = redis::cmd("FLUSHALL").query_async(&mut redis(&world).await).await.unwrap();
            world.start_worker(WORKER);
        }
    };
    let ((), ()) = tokio::join!(varied::happens(&world), faults);
    world.settled().await;
    world.wait_until("ready").await;
    let all = verify(&world, &["--all"]).await;
    is_clean(&all);
    for view in exodrive_projections::names() {
        assert_eq!(checked(&all.1, view), world.rows(view).await.len() as u64, "{view}");
    }
    let sample = verify(&world, &["--sample", "5"]).await;
    is_clean(&sample);
    let of_sample = checked(&sample.1, "email_timeline");
    assert!((5..=8).contains(&of_sample), "{of_sample}");
    let table = world.exodrive_prints(&["projections", "verify"]).await;
    assert!(table.contains("Equal") && table.contains("booking_timeline"), "{table}");

    // A row is changed by hand: its content, then only its position.
    let sql = |sql: &str| {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        async { sqlx::query(sql).execute(world.database()).await.unwrap().rows_affected() }
    };
    let is = async |requested: &[(&str, &str, &str)], args: &[&str]| {
        let (code, reported) = verify(&world, args).await;
        let requested: BTreeSet<_> =
            requested.iter().map(|&(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())).collect();
        assert_eq!(findings(&reported), requested, "{reported:#}");
        assert_eq!((code, &reported["equal"]), (Some(1), &json!(false)));
        reported
    };
    let aside =
        "create table aside as select key, position, data from inbox_g1.inbox where key = 'em-0'";
    sql(aside).await;
    let change = r#"update inbox_g1.inbox set data = jsonb_set(data, '{email,subject}', '"Forged"') where key = 'em-0'"#;
    assert_eq!(sql(change).await, 1);
    let reported = is(&[("inbox", "row_changed", "em-0")], &["--all"]).await;
    let inbox = &reported["projections"].as_array().unwrap()[0]["findings"][0]["fields"];
    assert_eq!(
        *inbox,
        json!([{"field": "/email/subject", "expected": "Your booking", "found": "Forged"}])
    );
    is(&[("inbox", "row_changed", "em-0")], &["inbox", "--sample", "10000"]).await;
    let printed = world.exodrive(&["projections", "verify", "inbox", "--all"]).await;
    let printed = String::from_utf8(printed.stdout).unwrap();
    for text in ["em-0", "row changed", "/email/subject", "Forged", "1 differences"] {
        assert!(printed.contains(text), "{text} in\n{printed}");
    }
    let undo = "update inbox_g1.inbox set (position, data) = (select position, data from aside) where key = 'em-0'";
    sql(undo).await;
    is_clean(&verify(&world, &["--all"]).await);
    sql("update inbox_g1.inbox set position = position - 1 where key = 'em-0'").await;
    let reported = is(&[("inbox", "row_changed", "em-0")], &["inbox", "--all"]).await;
    let fields = &reported["projections"][0]["findings"][0]["fields"];
    assert_eq!(
        (fields[0]["field"].as_str(), fields.as_array().unwrap().len()),
        (Some("position"), 1)
    );
    sql(undo).await;

    // A row is missing, and one is too many: in a view that is not in Redis, in
    // one with events in one subject, and in one with scattered events.
    for (view, key) in [("email_timeline", "em-0/msg_0"), ("bookings", "%")] {
        let table = format!("{view}_g1.{view}");
        // Its lists show numbers, which are not those of the rows then.
        let with_counts = |found| {
            let counts = (view, "counts_differ", "status");
            if view == "bookings" { vec![found, counts] } else { vec![found] }
        };
        let find = format!("select key from {table} where key like '{key}' order by key limit 1");
        let key: String = sqlx::query_scalar(sqlx::AssertSqlSafe(find))
            .fetch_one(world.database())
            .await
            .unwrap();
        sql("drop table if exists lost").await;
        sql(&format!(
            "create table lost as select key, position, data from {table} where key = '{key}'"
        ))
        .await;
        assert_eq!(sql(&format!("delete from {table} where key = '{key}'")).await, 1);
        is(&with_counts((view, "row_missing", &key)), &["--all"]).await;
        is(&[(view, "row_missing", &key)], &[view, "--sample", "2000"]).await;
        let put_back = format!("insert into {table} (key, position, data) select * from lost");
        assert_eq!(sql(&put_back).await, 1);
        let many = format!(
            "insert into {table} (key, position, data) select 'em-nobody', position, data from lost"
        );
        assert_eq!(sql(&many).await, 1);
        is(&with_counts((view, "row_too_many", "em-nobody")), &["--all"]).await;
        is(&[(view, "row_too_many", "em-nobody")], &[view, "--sample", "10000"]).await;
        assert_eq!(sql(&format!("delete from {table} where key = 'em-nobody'")).await, 1);
    }
    is_clean(&verify(&world, &["--all"]).await);

    // Redis has another text, an older position, nothing, too much, and a wrong
    // entry under the car's slug.
    let mut redis = redis(&world).await;
    let names: Vec<String> = redis.keys("exo:view:*").await.unwrap();
    let named = |view: &str, key: &str| {
        let of = |name: &&String| {
            name.contains(&format!(":{view}:")) && name.ends_with(&format!(":{key}"))
        };
        names.iter().find(of).unwrap_or_else(|| panic!("{view} {key} in {names:?}")).clone()
    };
    let name = named("inbox", "em-1");
    let value: String = redis.get(&name).await.unwrap();
    let (position, text) = value.split_once('\n').unwrap();
    let older = position.parse::<u64>().unwrap() - 1;
    let forged = text.replace("Your booking", "Forged");
    for wrong in
        [format!("{position}\n{forged}"), format!("{older}\n{text}"), "nonsense".to_owned()]
    {
        let place = if wrong == "nonsense" { "redis_missing" } else { "redis_stale" };
        let () = redis.set(&name, wrong).await.unwrap();
        is(&[("inbox", place, "em-1")], &["inbox", "--all"]).await;
        let without = verify(&world, &["inbox", "--all", "--no-redis"]).await;
        is_clean(&without);
    }
    let () = redis.del(&name).await.unwrap();
    is(&[("inbox", "redis_missing", "em-1")], &["--all"]).await;
    let () = redis.set(&name, &value).await.unwrap();
    let stray = name.replace("em-1", "em-nobody");
    let () = redis.set(&stray, &value).await.unwrap();
    is(&[("inbox", "redis_too_many", "em-nobody")], &["--all"]).await;
    let () = redis.del(&stray).await.unwrap();
    let slug = named("cars", "one");
    let of_car: String = redis.get(&slug).await.unwrap();
    let () = redis.set(&slug, of_car.replace("Car one", "Car forged")).await.unwrap();
    let car = world.rows("cars").await;
    let car = car.iter().find(|(_, (_, row))| row["car"]["slug"] == "one").unwrap().0;
    is(&[("cars", "redis_stale", car)], &["--all"]).await;
    let () = redis.set(&slug, of_car).await.unwrap();
    is_clean(&verify(&world, &["--all"]).await);

    // Redis is stopped: that proves nothing.
    world.services.stop_service(Service::Redis).await.unwrap();
    let (code, reported) = verify(&world, &["inbox", "--sample", "5"]).await;
    assert_eq!(code, Some(2), "{reported:#}");
    is_clean(&verify(&world, &["--no-redis"]).await);
    world.services.stop_service(Service::Postgres).await.unwrap();
    let unusable = world.exodrive(&["projections", "verify"]).await;
    assert_eq!(unusable.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unusable.stderr).contains("could not be verified"));
}

#[tokio::test]
async fn it_raises_no_false_alarm_while_everything_moves() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let (stop, booked, posted) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let deliveries = async {
        while !stop.load(Ordering::Relaxed) {
            let n = posted.fetch_add(1, Ordering::Relaxed);
            let kind = ["sent", "delivered", "opened", "clicked"][n % 4];
            let at = chrono::Utc::now().to_rfc3339();
            let body = email_body(kind, &format!("em-{}", n % 40), &at, "");
            world.stored(&Delivery::new(format!("msg_{n}"), body)).await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let bookings = async {
        while !stop.load(Ordering::Relaxed) {
            let n = booked.fetch_add(1, Ordering::Relaxed) as i64;
            let body = booking_body(&car, day(n), day(n));
            let made = admin.post("/v1/bookings", &body).await.expect(201);
            admin.act(&made, "capture-payment", json!({})).await.expect(200);
            // A car's calendar is one row, so it must not have thousands of
            // bookings.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let verifications = async {
        let mut positions = BTreeSet::new();
        for round in 0..exodrive_tests::rounds(6) {
            let extent: &[&str] = if round % 3 == 2 { &["--sample", "50"] } else { &["--all"] };
            let found = verify(&world, extent).await;
            is_clean(&found);
            positions.insert(found.1["projections"][0]["position"].as_u64().unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(positions.len() > 3, "the log grew all the while: {positions:?}");
    };
    tokio::join!(deliveries, bookings, verifications);
    assert!(booked.into_inner() > 2 && posted.into_inner() > 20);
    world.settled().await;
    is_clean(&verify(&world, &["--all"]).await);
}

#[tokio::test]
async fn little_memory_takes_more_passes_and_finds_the_same() {
    let world = InProcess::with(&[("EXODRIVE_CHECK_INTERVAL", "0s")]).await;
    // Rows of about 80 KiB.
    let long = "x".repeat(80_000);
    for n in 0..60 {
        let body = email_body("sent", &format!("em-{n}"), "2026-11-20T09:00:00Z", "");
        let body = body.replace("Your booking", &format!("{n} {long}"));
        world.stored(&Delivery::new(format!("msg_{n}"), body)).await;
    }
    world.settled().await;
    let report = async || {
        let (code, reported) = verify(&world, &["inbox", "--all", "--memory", "1"]).await;
        let report = reported["projections"][0].clone();
        assert_eq!(report["checked"], 60, "{reported:#}");
        assert!(report["passes"].as_u64().unwrap() > 3, "{reported:#}");
        (code, findings(&reported))
    };
    assert_eq!(report().await, (Some(0), BTreeSet::new()));
    for (n, wrong) in
        ["position = position + 1", "data = data - 'status' || '{\"status\": \"lost\"}'"]
            .iter()
            .enumerate()
    {
        let change = format!("update inbox_g1.inbox set {wrong} where key = 'em-{}'", n * 7);
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(world.database()).await.unwrap();
    }
    let found = |what: &str, key: &str| ("inbox".to_owned(), what.to_owned(), key.to_owned());
    let changed = ["em-0", "em-7"].map(|key| found("row_changed", key));
    let mut expected = BTreeSet::from(changed);
    expected.insert(found("counts_differ", "status"));
    assert_eq!(report().await, (Some(1), expected));
}

#[tokio::test]
async fn blocked_keys_are_compared_as_they_were_before_the_parked_event() {
    let world = InProcess::with(&[("EXODRIVE_CHECK_INTERVAL", "0s")]).await;
    let post = async |n: u32, kind: &str, email: &str| {
        let body = email_body(kind, email, &format!("2026-11-20T09:0{n}:00Z"), "");
        world.stored(&Delivery::new(format!("msg_{n}"), body)).await
    };
    post(1, "sent", "em-1").await;
    world.settled().await;
    let refuse = "alter table inbox_g1.inbox add constraint odd check (data ->> 'status' = 'sent')";
    sqlx::query(refuse).execute(world.database()).await.unwrap();
    let parked = post(2, "delivered", "em-1").await;
    post(3, "opened", "em-1").await;
    post(4, "sent", "em-2").await;
    world.settled().await;
    let (code, reported) = verify(&world, &["inbox", "--all"]).await;
    is_clean(&(code, reported.clone()));
    assert_eq!(reported["projections"][0]["blocked"], 1);
    // An operator skips the event, and the next one is refused. Without it the row is wrong, and no
    // event blocks it.
    let skip = "insert into skipped_events (projection, key, position, actor, reason)
                values ('inbox', 'em-1', $1, 'test', 'test')";
    sqlx::query(skip).bind(i64::try_from(parked).unwrap()).execute(world.database()).await.unwrap();
    eventually("only the next event is left", async || {
        let sql = "select position from parked_events where projection = 'inbox'";
        let left: Vec<i64> = sqlx::query_scalar(sql).fetch_all(world.database()).await.unwrap();
        (left == [3]).then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .await;
    is_clean(&verify(&world, &["inbox", "--all"]).await);
    sqlx::query("delete from parked_events").execute(world.database()).await.unwrap();
    let (code, reported) = verify(&world, &["inbox", "--all", "--no-redis"]).await;
    assert_eq!(code, Some(1));
    let fields = reported["projections"][0]["findings"][0]["fields"].as_array().unwrap();
    let status = fields.iter().find(|field| field["field"] == "/status").unwrap();
    assert_eq!((&status["expected"], &status["found"]), (&json!("opened"), &json!("sent")));
    assert!(!fields.iter().any(|field| field["expected"] == "delivered"));
}

#[tokio::test]
async fn the_checker_reports_drift_and_its_end() {
    let world = World::with(&[("EXODRIVE_CHECK_INTERVAL", "200ms")]).await;
    for fixture in fixtures() {
        world.stored(&Delivery::new(fixture.name, fixture.body)).await;
    }
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
    world.admin().add_car("one", 10_000).await;
    world.settled().await;
    let drift = async || world.metric(WORKER, "exodrive_projection_drift_keys").await;
    eventually("rows are checked", async || {
        let checked = world.metric(WORKER, "exodrive_projection_checked_keys_total").await?;
        (checked >= 20.0).then_some(())
    })
    .await;
    assert_eq!(drift().await, Some(0.0));
    let change = r#"update inbox_g1.inbox set data = jsonb_set(data, '{status}', '"forged"') where key = 'em-1'"#;
    sqlx::query(change).execute(world.database()).await.unwrap();
    eventually("the drift is noticed", async || (drift().await? == 1.0).then_some(())).await;
    let printed = world.printed(WORKER);
    let line =
        printed.lines().find(|line| line.contains("A view is not what the log says")).unwrap();
    assert!(line.contains("\"inbox\"") && line.contains("row changed"), "{line}");
    assert!(!line.contains("forged"), "{line}");
    let mend = r#"update inbox_g1.inbox set data = jsonb_set(data, '{status}', '"sent"') where key = 'em-1'"#;
    sqlx::query(mend).execute(world.database()).await.unwrap();
    eventually("and that it is gone", async || (drift().await? == 0.0).then_some(())).await;
    assert_eq!(printed.matches("A view is not what the log says").count(), 1, "reported once");
}
