//! Row-level security: a check that a handler forgets leaks nothing.

use crate::in_process::InProcess;
use exodrive_projections::names;
use exodrive_tests::{Delivery, day, email_body};
use ring::digest;
use serde_json::json;
use sqlx::{Connection, PgConnection};

#[tokio::test]
async fn the_reading_role_sees_only_rows_that_its_identity_may_see() {
    let world = InProcess::start().await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1".to_owned(), body)).await;
    world.settled().await;

    let mut reader = PgConnection::connect(&world.urls().database).await.unwrap();
    sqlx::raw_sql("set role exodrive_reader").execute(&mut reader).await.unwrap();
    for (identity, rows) in
        [("", 0), ("customer", 0), ("operator", 0), ("auditor", 1), ("admin", 1)]
    {
        sqlx::query("select set_config('exodrive.identity', $1, false)")
            .bind(identity)
            .execute(&mut reader)
            .await
            .unwrap();
        for count in [
            "select count(*) from inbox",
            "select count(*) from email_timeline",
            "select count(*) from deliveries",
            "select count(*) from inbox_g1.inbox",
        ] {
            let found: i64 = sqlx::query_scalar(count).fetch_one(&mut reader).await.unwrap();
            assert_eq!(found, rows, "as {identity:?}: {count}");
        }
    }
    let write = sqlx::query("update inbox_g1.inbox set position = 0").execute(&mut reader).await;
    assert!(write.unwrap_err().to_string().contains("permission denied"));
}

/// The rows of a view that an identity and subject see.
async fn count(reader: &mut PgConnection, (identity, subject): (&str, &str), view: &str) -> i64 {
    for (name, value) in [("identity", identity), ("subject", subject)] {
        let set = sqlx::query("select set_config('exodrive.' || $1, $2, false)");
        set.bind(name).bind(value).execute(&mut *reader).await.unwrap();
    }
    let sql = sqlx::AssertSqlSafe(format!("select count(*) from {view}"));
    sqlx::query_scalar(sql).fetch_one(reader).await.unwrap()
}

#[tokio::test]
async fn a_booking_is_read_by_whom_it_belongs_to_and_by_staff() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("shown", 10_000).await;
    admin.add_car("hidden", 10_000).await;
    admin.post("/v1/cars/hidden/hide", &json!({})).await.expect(200);
    let guests = visitor.booked(&car, day(0), day(0)).await;
    for (n, user) in [(1, "ada"), (2, "ada"), (3, "ben")] {
        let booking = world.user(user, "customer").booked(&car, day(n), day(n)).await;
        admin.act(&booking, "capture-payment", json!({})).await.expect(200);
    }
    world.settled().await;
    let token = guests["access_link"]["token"].as_str().unwrap();
    let link = hex::encode(digest::digest(&digest::SHA256, token.as_bytes()));

    let mut reader = PgConnection::connect(&world.urls().database).await.unwrap();
    sqlx::raw_sql("set role exodrive_reader").execute(&mut reader).await.unwrap();
    // No view shows anything to somebody else than staff unless it stands here.
    for view in names().into_iter().filter(|view| !["bookings", "calendar", "cars"].contains(view))
    {
        for identity in ["", "public", "customer", "guest", "operator"] {
            let found = count(&mut reader, (identity, "ada"), view).await;
            assert_eq!(found, 0, "as {identity:?}: {view}");
        }
    }
    // The identity, and the numbers of bookings, cars and other rows that it
    // sees.
    let staff = |cars| (4, cars, true);
    for (identity, subject, (bookings, cars, all)) in [
        ("", "", (0, 1, false)),
        ("public", "", (0, 1, false)),
        ("public", "ada", (0, 1, false)),
        ("customer", "", (0, 1, false)),
        ("customer", "ada", (2, 1, false)),
        ("customer", "ben", (1, 1, false)),
        ("customer", "ADA", (0, 1, false)),
        ("customer", &link, (0, 1, false)),
        ("guest", "", (0, 1, false)),
        ("guest", "ada", (0, 1, false)),
        ("guest", token, (0, 1, false)),
        ("guest", &link, (1, 1, false)),
        ("operator", "ada", (0, 1, false)),
        ("auditor", "", staff(2)),
        ("admin", "", staff(2)),
    ] {
        let others = [
            ("customers", 1),
            ("payments", 3),
            ("booking_timeline", 7),
            ("booking_timeline_g1.booking_timeline", 7),
        ];
        let expected = [("bookings", bookings), ("bookings_g1.bookings", bookings), ("cars", cars)]
            .into_iter()
            .chain(others.map(|(view, rows)| (view, if all { rows } else { 0 })))
            .chain([("calendar", 1)]);
        for (view, rows) in expected {
            let found = count(&mut reader, (identity, subject), view).await;
            assert_eq!(found, rows, "as {identity:?} {subject:?}: {view}");
        }
    }
}
