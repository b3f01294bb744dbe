//! A database or a key store that comes back from a backup while processes run.

use exodrive_domain::personal::ERASED;
use exodrive_runtime::services::Signal;
use exodrive_tests::{Delivery, WORKER, World, email_body, eventually};
use serde_json::Value;

const ADDRESS: &str = "back@example.com";
const SUBJECT: &str = "exo-keys.email.em-1";
const MAIL: &str = "/v1/inbox/em-1";

async fn execute(world: &World, sql: &'static str) {
    sqlx::raw_sql(sql).execute(world.database()).await.unwrap();
}

async fn until_shut(world: &World) {
    eventually("reads are rejected", async || {
        let answer = world.get(MAIL).await;
        let shut = answer.status == 503 && answer.json()["code"] == "view_unavailable";
        if shut { Ok(()) } else { Err(format!("{} {:?}", answer.status, answer.body)) }
    })
    .await;
    let taken = Delivery::new("msg_2", email_body("sent", "em-2", "2026-11-20T09:00:00Z", ""));
    assert_eq!(world.post(&taken).await.status, 200, "webhooks go on");
}

async fn until_open(world: &World) {
    let answer = eventually("reads are answered", async || {
        let answer = world.get(MAIL).await;
        if answer.status == 200 { Ok(answer) } else { Err(format!("{:?}", answer.body)) }
    })
    .await;
    assert_eq!(answer.json()["subject"], ERASED);
    let rows = format!("{:?}", world.rows("inbox").await);
    assert!(!rows.contains(ADDRESS), "{rows}");
}

#[tokio::test]
async fn nothing_is_shown_that_comes_back_from_a_backup_while_processes_run() {
    let world = World::start().await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    let body = body.replace("guest@example.com", ADDRESS);
    world.stored(&Delivery::new("msg_1", body)).await;
    world.settled().await;
    execute(&world, "create table kept as select key, data from inbox_g1.inbox").await;
    let operator = world.jetstream().await;
    let keys = operator.get_stream("EXODRIVE_KEYS").await.unwrap();
    let key = keys.get_last_raw_message_by_subject(SUBJECT).await.unwrap();
    let ask = ["audit", "erase", "--email-address", ADDRESS, "--reason=asked", "--json"];
    let asked: Value = serde_json::from_str(&world.exodrive_prints(&ask).await).unwrap();
    let id = asked["id"].as_str().unwrap();
    world.exodrive_prints(&["audit", "approve", id, "--single-handed"]).await;
    world.settled().await;
    until_open(&world).await;

    // The database: its rows, and what it knows of the erasure.
    world.signal(WORKER, Signal::SIGSTOP);
    execute(
        &world,
        "update inbox_g1.inbox set data = kept.data from kept where inbox.key = kept.key;
         update erasures set applied_at = null;
         delete from refolds; delete from refolds_due",
    )
    .await;
    until_shut(&world).await;
    world.signal(WORKER, Signal::SIGCONT);
    until_open(&world).await;

    // The key store: the key is there, and nothing says that it was destroyed.
    world.signal(WORKER, Signal::SIGSTOP);
    let tombstone = keys.get_last_raw_message_by_subject("exo-tombstones.email.em-1").await;
    keys.delete_message(tombstone.unwrap().sequence).await.unwrap();
    operator.publish(SUBJECT, key.payload).await.unwrap().await.unwrap();
    until_shut(&world).await;
    world.signal(WORKER, Signal::SIGCONT);
    until_open(&world).await;
    assert!(keys.get_last_raw_message_by_subject(SUBJECT).await.is_err(), "destroyed again");
}
