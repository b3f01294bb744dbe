//! Events that cannot be folded are parked in order, with the reason, and hold
//! up no others.

use chrono::Utc;
use exodrive_domain::{Envelope, Subject, WEBHOOK_RECEIVED};
use exodrive_log::NewEvent;
use exodrive_tests::{Delivery, System, WORKER, World, email_body, eventually};
use serde_json::Value;
use sqlx::Row;

fn delivery(n: u32, kind: &str, email: &str) -> Delivery {
    let at = format!("2026-11-20T09:{n:02}:00Z");
    Delivery::new(format!("msg_{n}"), email_body(kind, email, &at, ""))
}

/// The parked events of a projection: key, position, and true if the event is
/// the cause and does not only wait.
async fn parked(world: &System, projection: &str) -> Vec<(String, i64, bool)> {
    let sql =
        "select key, position, error from parked_events where projection = $1 order by position";
    let rows = sqlx::query(sql).bind(projection).fetch_all(world.database()).await.unwrap();
    let of = |row: &sqlx::postgres::PgRow| {
        let error: String = row.get("error");
        (row.get("key"), row.get("position"), !error.is_empty())
    };
    rows.iter().map(of).collect()
}

async fn listed(world: &System, projection: &str) -> Value {
    let list = world.exodrive_prints(&["projections", "list", "--json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    list.as_array().unwrap().iter().find(|it| it["name"] == projection).unwrap().clone()
}

async fn status(world: &System, email: &str) -> Value {
    let rows = world.rows("inbox").await;
    rows.get(email).map_or(Value::Null, |(_, row)| row["status"].clone())
}

/// Number of retries that the worker has made, whatever their outcome.
fn retries(world: &World) -> usize {
    let printed = world.printed(WORKER);
    printed.matches("Retried parked events").count() + printed.matches("stays parked").count()
}

/// Asks for a retry and waits until the worker has made it.
async fn retry(world: &World, projection: &str) {
    let before = retries(world);
    world.exodrive_prints(&["projections", "retry", projection]).await;
    eventually("the worker retries", async || {
        let now = retries(world);
        let requested = "select count(*) from parked_events where retry_wanted";
        let requested: i64 =
            sqlx::query_scalar(requested).fetch_one(world.database()).await.unwrap();
        (now > before && requested == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_of_a_newer_release_blocks_its_subject_and_no_other() {
    let world = World::start().await;
    world.stored(&delivery(1, "sent", "em-1")).await;
    let newer = NewEvent {
        subject: Subject::Email("em-1".parse().unwrap()),
        envelope: Envelope {
            id: "msg_newer".to_owned(),
            kind: WEBHOOK_RECEIVED.to_owned(),
            version: 99,
            source: "resend".to_owned(),
            time: Utc::now(),
            traceparent: None,
            causation: None,
            correlation: None,
            actor: None,
        },
        provider_headers: Vec::new(),
        body: email_body("failed", "em-1", "2026-11-20T09:02:00Z", "").into(),
    };
    assert_eq!(world.log().await.append_fact(&newer).await.unwrap().position, 2);
    world.stored(&delivery(3, "delivered", "em-1")).await;
    world.stored(&delivery(4, "delivered", "em-2")).await;
    world.stored(&delivery(5, "opened", "em-1")).await;
    world.settled().await;

    let subject = "exo.email.em-1".to_owned();
    let waiting =
        [(subject.clone(), 2, true), (subject.clone(), 3, false), (subject.clone(), 5, false)];
    for projection in ["inbox", "email_timeline", "deliveries"] {
        assert_eq!(parked(&world, projection).await, waiting, "{projection}");
        assert_eq!(listed(&world, projection).await["parked"], 3);
    }
    assert_eq!(status(&world, "em-1").await, "sent", "nothing is folded past it");
    assert_eq!(status(&world, "em-2").await, "delivered");
    for path in ["/v1/inbox", "/v1/inbox/em-2/deliveries"] {
        eventually("a list says how many of its rows wait", async || {
            let blocked = world.get(path).await.header("exodrive-blocked-rows").to_owned();
            // Of the joined views each has one.
            let expected = if path == "/v1/inbox" { "1" } else { "2" };
            if blocked == expected { Ok(()) } else { Err(blocked) }
        })
        .await;
    }
    assert_eq!(world.get("/v1/customers").await.header("exodrive-blocked-rows"), "");
    assert!(
        world.printed(WORKER).contains("newer than this release"),
        "the log line has the reason"
    );
    eventually("readiness reports it, and stays ready", async || {
        let ready = world.wait_until("ready").await;
        let projections = ready["checks"]["projections"].as_array().unwrap();
        let of_email = ["inbox", "email_timeline", "deliveries"];
        let waits =
            |name: &str| projections.iter().any(|it| it["name"] == name && it["parked"] == 3);
        of_email.iter().all(|name| waits(name)).then_some(())
    })
    .await;

    // This release still cannot read it: all of the events stay parked, in
    // order.
    retry(&world, "inbox").await;
    assert_eq!(parked(&world, "inbox").await, waiting);
    assert_eq!(status(&world, "em-1").await, "sent");
    world.stored(&delivery(6, "opened", "em-2")).await;
    world.settled().await;
    assert_eq!(status(&world, "em-2").await, "opened");

    // The block outlives the worker.
    world.kill(WORKER);
    world.start_worker(WORKER);
    world.stored(&delivery(7, "clicked", "em-1")).await;
    world.settled().await;
    assert_eq!(status(&world, "em-1").await, "sent");
    assert_eq!(parked(&world, "inbox").await.len(), 4);
}

#[tokio::test]
async fn a_row_that_postgres_rejects_is_parked_and_folded_in_order_after_the_fix() {
    let world = World::start().await;
    let refuse = "alter table inbox_g1.inbox add constraint odd check (key <> 'em-1')";
    sqlx::query(refuse).execute(world.database()).await.unwrap();
    for event in
        [delivery(1, "delivered", "em-1"), delivery(2, "sent", "em-2"), delivery(3, "sent", "em-1")]
    {
        world.stored(&event).await;
    }
    world.settled().await;
    assert_eq!(
        parked(&world, "inbox").await,
        [("em-1".into(), 1, true), ("em-1".into(), 3, false)]
    );
    assert_eq!(parked(&world, "deliveries").await, [], "other projections fold it");
    assert_eq!(
        (status(&world, "em-1").await, status(&world, "em-2").await),
        (Value::Null, "sent".into())
    );

    // The cause is still there: the row is rejected again, and others are still
    // folded.
    retry(&world, "inbox").await;
    assert_eq!(
        parked(&world, "inbox").await,
        [("em-1".into(), 1, true), ("em-1".into(), 3, false)]
    );
    world.stored(&delivery(4, "opened", "em-2")).await;
    world.settled().await;
    assert_eq!(status(&world, "em-2").await, "opened");

    let mend = "alter table inbox_g1.inbox drop constraint odd";
    sqlx::query(mend).execute(world.database()).await.unwrap();
    retry(&world, "inbox").await;
    assert_eq!(parked(&world, "inbox").await, []);
    world.views_equal_a_fresh_fold().await;
    eventually("and it reaches the cache", async || {
        let answer = world.get("/v1/inbox/em-1").await;
        (answer.header("x-cache") != "MISS" && answer.json()["events"] == 2).then_some(())
    })
    .await;
}
