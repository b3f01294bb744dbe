//! Row-level security: a check forgotten in a handler leaks nothing.

use exodrive_tests::{Delivery, World, email_body};
use sqlx::{Connection, PgConnection};

#[tokio::test]
async fn the_reading_role_sees_rows_only_as_somebody_who_may() {
    let world = World::start().await;
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
