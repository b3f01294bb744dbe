//! A connection never goes back to its pool inside a transaction, wherever a future is dropped.

use crate::in_process::InProcess;
use exodrive_projections::Transaction;
use futures::poll;
use sqlx::{Row, postgres::PgPoolOptions};
use std::{pin::pin, task::Poll, time::Duration};

/// Polls a future this often, with a moment between, and drops it. `None` if it was not ready.
async fn dropped_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(value) = poll!(&mut future) {
            return Some(value);
        }
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    None
}

#[tokio::test]
async fn no_connection_goes_back_to_its_pool_inside_a_transaction() {
    let world = InProcess::start().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(world.superuser()).await;
    let pool = pool.unwrap();
    sqlx::query("create table kept (n int)").execute(&pool).await.unwrap();
    let (mut dropped, mut rows) = (0, 0);
    for round in 0..200_u32 {
        let polls = round % 20;
        let begun = dropped_after(polls, Transaction::begin(&pool)).await;
        if let Some(transaction) = begun {
            let mut transaction = transaction.unwrap();
            let n = i32::try_from(round).unwrap();
            sqlx::query("insert into kept values ($1)")
                .bind(n)
                .execute(&mut *transaction)
                .await
                .unwrap();
            let ended = match round % 3 {
                0 => dropped_after(polls / 2, transaction.rollback()).await,
                _ => dropped_after(polls / 2, transaction.commit()).await,
            };
            dropped += u32::from(ended.is_none());
        } else {
            dropped += 1;
        }
        // In a transaction, now is when it began.
        let asked = sqlx::raw_sql("select now() = statement_timestamp()").fetch_one(&pool).await;
        let outside: bool = asked.unwrap().get(0);
        assert!(outside, "round {round}: the connection is inside a transaction");
        // So this lasts.
        sqlx::query("insert into kept values (-1)").execute(&pool).await.unwrap();
        rows += 1;
        let kept: i64 = sqlx::query_scalar("select count(*) from kept where n = -1")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(kept, rows, "round {round}");
    }
    assert!(dropped > 20, "{dropped} futures were dropped");
}

/// Statements of a whole system in a second in which nothing happens: each partition's heartbeat,
/// and the looks of ten projections for partitions that nobody writes.
const IDLE_PER_SECOND: i64 = 140;

#[tokio::test]
async fn an_idle_system_leaves_postgres_alone_but_for_its_heartbeats() {
    let world = InProcess::start().await;
    world.settled().await;
    let commits = async || {
        let commits = "select xact_commit from pg_stat_database where datname = current_database()";
        sqlx::query_scalar::<_, i64>(commits).fetch_one(world.database()).await.unwrap()
    };
    // A connection reports its statements once a second: some of before are counted too.
    let (before, period) = (commits().await, Duration::from_secs(10));
    tokio::time::sleep(period).await;
    let statements = (commits().await - before) / period.as_secs().cast_signed();
    assert!(statements > 10, "{statements} a second: nothing was counted");
    assert!(statements <= IDLE_PER_SECOND, "{statements} statements a second");
}
