//! The tables of the present product become events, once, with their own times.

use crate::in_process::InProcess;
use exodrive_tests::System;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path, process::Output};

const SEASON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/season");

fn report(done: &Output) -> Value {
    serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&done.stderr)))
}

async fn import(world: &System, folder: &str, more: &[&str]) -> (Value, bool) {
    let done = world.exodrive(&[&["import", folder, "--json"], more].concat()).await;
    (report(&done), done.status.success())
}

/// Number of rows of all tables that a report counts as `what`.
fn sum(report: &Value, what: &str) -> u64 {
    let tables = report["tables"].as_object().unwrap();
    tables.values().map(|counts| counts[what].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn a_season_is_imported_once_with_its_own_times() {
    let world = InProcess::start().await;
    let (rehearsed, _) = import(&world, SEASON, &["--dry-run"]).await;
    assert_eq!(world.events().await.len(), 0, "a dry run changes nothing");

    let (taken, success) = import(&world, SEASON, &[]).await;
    assert!(success, "{taken:#}");
    assert_eq!(rehearsed, taken, "a dry run reports what an import does");
    assert_eq!(sum(&taken, "taken"), sum(&taken, "rows"));
    let events = world.views_equal_a_fresh_fold().await;

    let (again, success) = import(&world, SEASON, &[]).await;
    assert!(success);
    assert_eq!((sum(&again, "taken"), sum(&again, "known")), (0, sum(&taken, "rows")));
    assert_eq!(world.events().await.len(), events.len());

    // Each booking has the days, the total and the time that its row says.
    let csv = fs::read_to_string(Path::new(SEASON).join("bookings.csv")).unwrap();
    let rows = world.rows("bookings").await;
    let mut compared = 0;
    // Rows without a quoted field: a quoted note may contain a line break.
    for line in csv.lines().skip(1).filter(|line| !line.contains('"')) {
        let columns: Vec<_> = line.split(',').collect();
        let [id, _, _, start, end, total, ..] = columns[..] else { continue };
        let Some((_, row)) = rows.get(id) else { continue };
        let booking = &row["booking"];
        assert_eq!(booking["days"]["from"], start);
        let cents: i64 = total.replace('.', "").parse().unwrap();
        assert_eq!(booking["quote"]["total_cents"], cents);
        let created = columns[12].replace('Z', ".000000Z");
        assert_eq!(booking["created_at"], created);
        let answer = world.get_as("admin", &format!("/v1/bookings/{id}")).await.expect(200);
        assert_eq!((&answer["start_date"], &answer["end_date"]), (&start.into(), &end.into()));
        compared += 1;
    }
    assert!(compared > 100, "{compared}");

    // Revenue counts in the month of the payment, not of the import.
    let payments = world.rows("payments").await;
    let months: BTreeMap<_, _> = payments
        .values()
        .map(|(_, row)| (row["at"].as_str().unwrap()[..7].to_owned(), ()))
        .collect();
    assert!(months.len() > 4, "{months:?}");

    // Its history and its mail are in a booking's timeline.
    let mail = fs::read_to_string(Path::new(SEASON).join("inbox_emails.csv")).unwrap();
    let booking = mail.lines().nth(1).unwrap().split(',').nth(8).unwrap().to_owned();
    let timeline = world.get(&format!("/v1/bookings/{booking}/timeline")).await.expect(200);
    let kinds: Vec<_> = timeline["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    for kind in ["exodrive.booking.imported", "exodrive.booking.history_imported", "email"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}

/// Cars and bookings with an error in most rows.
const UNSOUND: [(&str, &str); 4] = [
    (
        "cars",
        "id,slug,name,category,created_at\n\
         00000000-0000-4000-8000-0000000000c1,one,One,Supercar,2026-01-01T00:00:00Z\n\
         00000000-0000-4000-8000-0000000000c2,one,Two,Supercar,2026-01-01T00:00:00Z\n\
         not-an-id,three,Three,Supercar,2026-01-01T00:00:00Z\n",
    ),
    (
        "car_pricing",
        "id,car_id,base_price\n\
         p1,00000000-0000-4000-8000-0000000000c1,100.00\n\
         p2,00000000-0000-4000-8000-0000000000c9,100.00\n",
    ),
    ("customers", "id,email,first_name,last_name\nu1,one@example.com,One,Customer\n"),
    (
        "bookings",
        "id,car_id,customer_id,start_date,end_date,total_price,overall_status,payment_status,contract_status\n\
         00000000-0000-4000-8000-0000000000b1,00000000-0000-4000-8000-0000000000c1,u1,2027-03-01,2027-03-03,300.00,upcoming,captured,signed\n\
         00000000-0000-4000-8000-0000000000b2,00000000-0000-4000-8000-0000000000c1,u1,2027-03-03,2027-03-04,200.00,upcoming,captured,signed\n\
         00000000-0000-4000-8000-0000000000b3,00000000-0000-4000-8000-0000000000c1,u1,2027-03-04,2027-03-03,200.00,upcoming,captured,signed\n\
         00000000-0000-4000-8000-0000000000b4,00000000-0000-4000-8000-0000000000c1,u1,2027-04-04,2027-04-05,2x0.00,upcoming,captured,signed\n\
         00000000-0000-4000-8000-0000000000b5,00000000-0000-4000-8000-0000000000c1,u9,2027-04-04,2027-04-05,200.00,upcoming,captured,signed\n\
         00000000-0000-4000-8000-0000000000b6,00000000-0000-4000-8000-0000000000c1,u1,2027-05-04,2027-05-05,200.00,upcoming,captured,sent\n\
         00000000-0000-4000-8000-0000000000b7,00000000-0000-4000-8000-0000000000c1,u1,2027-06-04,2027-06-05,200.00,paused,captured,signed\n",
    ),
];

#[tokio::test]
async fn rows_that_cannot_be_imported_are_reported_with_the_reason() {
    let world = InProcess::start().await;
    let folder = tempfile::tempdir().unwrap();
    for (table, csv) in UNSOUND {
        fs::write(folder.path().join(format!("{table}.csv")), csv).unwrap();
    }
    let folder = folder.path().to_str().unwrap().to_owned();
    let (rehearsed, _) = import(&world, &folder, &["--dry-run"]).await;
    let (report, success) = import(&world, &folder, &[]).await;
    assert!(!success);
    assert_eq!(rehearsed, report);
    assert_adds_up(&report);
    let reported = refused(&report);
    let expected = [
        ("bookings", 3, "2027-03-03 to 2027-03-03 are taken by booking"),
        ("bookings", 4, "the last day is before the first"),
        ("bookings", 5, "total_price is not a number"),
        ("bookings", 6, "customers.csv has no customer u9"),
        ("bookings", 8, "overall_status is unknown"),
        ("car_pricing", 3, "cars.csv has no car"),
        ("cars", 3, "another car has this slug"),
        ("cars", 4, "id cannot be read"),
    ];
    assert_eq!(reported.len(), expected.len(), "{reported:#?}");
    for ((table, line, why), found) in expected.into_iter().zip(reported) {
        assert_eq!((table, line), (found.0, found.1), "{found:?}");
        assert!(found.2.contains(why), "{found:?}");
    }
    // One is imported with its actual status, and the report says so.
    let remarks = report["remarks"].as_array().unwrap();
    let unsigned = remarks.iter().find(|it| it["table"] == "bookings").unwrap();
    assert_eq!(unsigned["line"], 7, "{report:#}");
    world.views_equal_a_fresh_fold().await;
    let rows = world.rows("bookings").await;
    assert_eq!(rows.len(), 2);
    let unsigned = &rows["00000000-0000-4000-8000-0000000000b6"].1["booking"];
    assert_eq!(unsigned["status"], "pending_contract");
}

#[tokio::test]
async fn an_import_that_was_killed_is_finished_by_the_next_one() {
    let world = InProcess::start().await;
    let (log, env) = (world.log().await, world.env().to_vec());
    let mut child = tokio::process::Command::new(exodrive_tests::program("exodrive"))
        .args(["import", SEASON, "--json"])
        .envs(env)
        .kill_on_drop(true)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    exodrive_tests::eventually("the import is under way", async || {
        (log.last_position().await.ok()? > 100).then_some(())
    })
    .await;
    child.kill().await.unwrap();
    let begun = log.last_position().await.unwrap();
    let (rest, success) = import(&world, SEASON, &[]).await;
    assert!(success, "{rest:#}");
    assert!(sum(&rest, "known") > 0, "killed at {begun}: {rest:#}");
    assert_eq!(sum(&rest, "known") + sum(&rest, "taken"), sum(&rest, "rows"));
    let ids: Vec<_> =
        world.views_equal_a_fresh_fold().await.into_iter().map(|it| it.envelope.id).collect();
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), ids.len(), "no event is stored twice");
}

/// A report as table, line and reason of each refused row.
fn refused(report: &Value) -> Vec<(&str, u64, &str)> {
    let problems = report["problems"].as_array().unwrap();
    problems
        .iter()
        .map(|it| {
            let text = |field: &str| it[field].as_str().unwrap();
            (text("table"), it["line"].as_u64().unwrap(), text("why"))
        })
        .collect()
}

/// Asserts that in every table the rows taken, known and refused add up.
fn assert_adds_up(report: &Value) {
    for (table, counts) in report["tables"].as_object().unwrap() {
        let of = |what: &str| counts[what].as_u64().unwrap();
        assert_eq!(of("rows"), of("taken") + of("known") + of("refused"), "{table}: {counts}");
    }
}

/// A folder with tables.
fn folder(tables: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (table, csv) in tables {
        fs::write(folder.path().join(format!("{table}.csv")), csv).unwrap();
    }
    folder
}

/// The id of a car or booking.
fn id(name: &str) -> String {
    format!("00000000-0000-4000-8000-0000000000{name}")
}

fn cars(names: &[&str]) -> String {
    let car = |name: &&str| format!("{},{name},Car {name},Supercar\n", id(name));
    format!("id,slug,name,category\n{}", names.iter().map(car).collect::<String>())
}

/// Bookings of one customer, a day each, from 1 March: name, car and notes.
fn bookings(rows: &[(&str, &str, &str)]) -> String {
    let mut csv = "id,car_id,customer_id,start_date,end_date,total_price,overall_status,\
                   payment_status,contract_status,notes\n"
        .to_owned();
    for (day, (name, car, notes)) in (1..).zip(rows) {
        let (booking, car, day) = (id(name), id(car), format!("2027-03-{day:02}"));
        csv += &format!("{booking},{car},u1,{day},{day},100.00,upcoming,captured,signed,{notes}\n");
    }
    csv
}

const CUSTOMER: &str = "id,email,first_name,last_name\nu1,one@example.com,One,Customer\n";

#[tokio::test]
async fn no_row_of_a_file_with_an_unclosed_quote_is_taken() {
    let world = InProcess::start().await;
    let rows =
        [("b1", "c1", ""), ("b2", "c1", "\"never closed"), ("b3", "c1", ""), ("b4", "c1", "")];
    let tables = [
        ("cars", cars(&["c1"])),
        ("customers", CUSTOMER.to_owned()),
        ("bookings", bookings(&rows)),
    ];
    let files = folder(&tables);
    let path = files.path().to_str().unwrap();
    let (rehearsed, _) = import(&world, path, &["--dry-run"]).await;
    let (report, success) = import(&world, path, &[]).await;
    assert!(!success);
    assert_eq!(rehearsed, report);
    assert_adds_up(&report);
    let counts = &report["tables"]["bookings"];
    assert_eq!((&counts["rows"], &counts["refused"]), (&4.into(), &4.into()), "{report:#}");
    let broken = &report["broken"][0];
    assert_eq!((&broken["table"], &broken["line"]), (&"bookings".into(), &3.into()));
    assert_eq!(world.rows("bookings").await.len(), 0);

    // Once the file is mended, the rest is taken.
    let closed = bookings(&rows).replace("never closed", "never closed\"");
    fs::write(files.path().join("bookings.csv"), closed).unwrap();
    let (mended, success) = import(&world, path, &[]).await;
    assert!(success, "{mended:#}");
    assert_adds_up(&mended);
    let counts = &mended["tables"]["bookings"];
    assert_eq!(counts["taken"], 4);
    assert_eq!(mended["tables"]["cars"]["known"], 1);
}

#[tokio::test]
async fn of_rows_that_say_one_thing_twice_the_first_is_taken() {
    let world = InProcess::start().await;
    let car = id("c1");
    let upper = id("C1");
    let tables = [
        ("cars", cars(&["c1"])),
        ("car_pricing", format!("id,car_id,base_price\np1,{car},100.00\np2,{upper},200.00\n")),
        ("customers", format!("{CUSTOMER}u1,other@example.com,Other,Customer\n")),
        ("bookings", bookings(&[("b1", "c1", ""), ("B1", "c1", "")])),
        (
            "car_availability",
            format!(
                "id,car_id,date,status\nd1,{car},2027-04-01,maintenance\n\
                 d2,{car},2027-04-01,maintenance\nd3,{upper},2027-04-02,maintenance\n"
            ),
        ),
    ];
    let files = folder(&tables);
    let path = files.path().to_str().unwrap();
    let (rehearsed, _) = import(&world, path, &["--dry-run"]).await;
    let (report, success) = import(&world, path, &[]).await;
    assert!(!success);
    assert_eq!(rehearsed, report);
    assert_adds_up(&report);
    let found = refused(&report);
    let expected = [
        ("bookings", 3, "line 2 has the same id"),
        ("car_availability", 3, "line 2 has the same day of the same car"),
        ("car_pricing", 3, "its car has a price already, at line 2"),
        ("customers", 3, "line 2 has the same id"),
    ];
    assert_eq!(found, expected);
    world.views_equal_a_fresh_fold().await;
    let customers = world.rows("customers").await;
    assert_eq!(customers.len(), 1);
    let answer = world.get_as("admin", &format!("/v1/cars/{car}")).await.expect(200);
    assert_eq!(answer["price"]["base_per_day_cents"], 10_000, "{answer:#}");
}

#[tokio::test]
async fn a_row_that_has_changed_since_is_refused() {
    let world = InProcess::start().await;
    let rows = bookings(&[("b1", "c1", "a note"), ("b2", "c1", "")]);
    let mut tables = [
        ("cars", cars(&["c1", "c2"])),
        ("customers", CUSTOMER.to_owned()),
        ("bookings", rows.clone()),
    ];
    let files = folder(&tables);
    let (report, success) = import(&world, files.path().to_str().unwrap(), &[]).await;
    assert!(success, "{report:#}");
    let before = world.events().await.len();

    // Another total of one booking, another name of one car, and a new booking of that car.
    tables[0].1 = tables[0].1.replace("Car c2", "Car two");
    tables[2].1 = format!("{}{}", rows.replacen("100.00", "99.00", 1), {
        let new = bookings(&[("b3", "c2", "")]);
        new.lines().nth(1).unwrap().to_owned() + "\n"
    });
    let files = folder(&tables);
    let path = files.path().to_str().unwrap();
    let (rehearsed, _) = import(&world, path, &["--dry-run"]).await;
    let (report, success) = import(&world, path, &[]).await;
    assert!(!success);
    assert_eq!(rehearsed, report);
    assert_adds_up(&report);
    let found = refused(&report);
    let places: Vec<_> = found.iter().map(|it| (it.0, it.1)).collect();
    assert_eq!(places, [("bookings", 2), ("cars", 3)], "{report:#}");
    assert!(found.iter().all(|it| it.2.contains("changed since the earlier import")));
    let counts = &report["tables"]["bookings"];
    assert_eq!((&counts["known"], &counts["taken"]), (&1.into(), &1.into()));
    assert_eq!(world.events().await.len(), before + 1, "only the new booking");
}

#[tokio::test]
async fn a_rehearsal_foresees_what_an_import_does_where_others_work() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("c1", 10_000).await;
    let body = exodrive_tests::booking_body(&car, exodrive_tests::day(0), exodrive_tests::day(1));
    let booking = admin.post("/v1/bookings", &body).await.expect(201);
    let made_here = booking["id"].as_str().unwrap();
    let (taken, free) = (exodrive_tests::day(1), exodrive_tests::day(9));
    let start = |day: String, name: &str, car: &str, customer: &str| {
        format!("{name},{car},{customer},{day},{day},100.00,upcoming,captured,signed,a note\n")
    };
    let header = bookings(&[]);
    let rows = [
        start(free.to_string(), made_here, &car, "u1"),
        start(taken.to_string(), &id("b2"), &car, "u1"),
        start(free.to_string(), &id("b3"), &car, "u2"),
        start(free.to_string(), &id("b4"), &id("c1"), "u1"),
        start(free.to_string(), &id("b5"), &id("c9"), "u1"),
    ];
    let event = |name: &str, booking: &str| format!("{name},{booking},x,2026-01-01T00:00:00Z\n");
    let tables = [
        // The slug of the first belongs to a car that is here.
        ("cars", cars(&["c1", "c2"])),
        ("car_pricing", format!("id,car_id,base_price\np1,{},1\np2,{},1\n", id("c1"), id("c2"))),
        ("customers", format!("{CUSTOMER}u2,two@example.com,Two,Customer\n")),
        ("bookings", format!("{header}{}", rows.concat())),
        (
            "booking_events",
            format!(
                "id,booking_id,event_type,timestamp\n{}{}{}",
                event("e1", made_here),
                event("e2", &id("b2")),
                event("e3", &id("b3"))
            ),
        ),
        (
            "car_availability",
            format!(
                "id,car_id,date,status\nd1,{car},{taken},maintenance\nd2,{},{free},maintenance\n\
                 d3,{},{free},maintenance\nd4,{},{free},maintenance\n",
                id("c1"),
                id("c2"),
                id("c9")
            ),
        ),
    ];
    let files = folder(&tables);
    let path = files.path().to_str().unwrap();
    let before = world.events().await.len();
    let (rehearsed, _) = import(&world, path, &["--dry-run"]).await;
    assert_eq!(world.events().await.len(), before);
    let (report, success) = import(&world, path, &[]).await;
    assert!(!success);
    assert_eq!(rehearsed, report);
    assert_adds_up(&report);
    let expected = [
        ("booking_events", 2, "its booking was refused: a booking with this id exists here"),
        ("booking_events", 3, "its booking was refused"),
        ("bookings", 2, "a booking with this id exists here"),
        ("bookings", 3, "taken by booking"),
        ("bookings", 5, "its car was refused: another car has this slug"),
        ("bookings", 6, "its car is not in this system"),
        ("car_availability", 2, "taken by booking"),
        ("car_availability", 3, "its car was refused: another car has this slug"),
        ("car_availability", 5, "its car is not in this system"),
        ("car_pricing", 2, "its car was refused: another car has this slug"),
        ("cars", 2, "another car has this slug"),
        ("customers", 2, "none of its bookings was taken"),
    ];
    let found = refused(&report);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((table, line, why), found) in expected.into_iter().zip(found) {
        assert_eq!((table, line), (found.0, found.1), "{found:?}");
        assert!(found.2.contains(why), "{found:?}");
    }
    // What is here was left alone.
    let answer = world.get_as("admin", &format!("/v1/bookings/{made_here}")).await.expect(200);
    assert_eq!(answer["status"], booking["status"]);
    let (again, _) = import(&world, path, &[]).await;
    assert_eq!(sum(&again, "taken"), 0);
    assert_eq!(sum(&again, "known"), sum(&report, "taken"));
}
