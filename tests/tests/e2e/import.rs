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
    let problems = report["problems"].as_array().unwrap();
    let reported: Vec<_> = problems
        .iter()
        .map(|it| {
            let text = |field: &str| it[field].as_str().unwrap();
            (text("table"), it["line"].as_u64().unwrap(), text("why"))
        })
        .collect();
    let expected = [
        ("bookings", 3, "2027-03-03 to 2027-03-03 are taken by booking"),
        ("bookings", 4, "the last day is before the first"),
        ("bookings", 5, "total_price is not an amount"),
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
