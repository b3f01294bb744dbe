//! Reads by the staff: recorded beside the reads, shown to auditors.

use crate::in_process::InProcess;
use exodrive_domain::{Subject, access::ACCESS_RECORDED};
use exodrive_tests::{API, Delivery, System, World, day, email_body, eventually};
use serde_json::Value;
use std::time::Duration;

const SECOND: (&str, &str) = ("EXODRIVE_ACCESS_INTERVAL", "1s");
async fn mail(world: &System) -> u64 {
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    let position = world.stored(&Delivery::new("msg_1", body)).await;
    world.settled().await;
    position
}

async fn accesses(world: &System, query: &str) -> Vec<Value> {
    let list = world.get(&format!("/v1/audit/accesses?{query}")).await.expect(200);
    list["data"].as_array().unwrap().clone()
}

/// The row of a reader and a record, once it is there.
async fn seen(world: &System, actor: &str, resource: &str, key: &str) -> Value {
    let query = format!("actor={actor}&resource={resource}&key={key}");
    eventually("a read is recorded", async || accesses(world, &query).await.pop()).await
}

#[tokio::test]
async fn reads_by_staff_are_shown_to_auditors() {
    let world = InProcess::with(&[SECOND]).await;
    let position = mail(&world).await;
    world.get("/v1/inbox/em-1").await.expect(200);
    let row = seen(&world, "auditor:auditor-user", "email", "em-1").await;
    assert_eq!((&row["object"], &row["count"]), (&"access".into(), &1.into()), "{row}");
    assert_eq!(row["routes"]["GET /v1/inbox/{email_id}"], 1);
    assert!(row["request_id"].as_str().unwrap().starts_with("req_"));

    for path in ["/v1/inbox/em-1/timeline", "/v1/inbox/em-1/deliveries", "/v1/inbox/em-1"] {
        world.get_as("admin", path).await.expect(200);
    }
    let raw = format!("/v1/deliveries/{position}/raw");
    assert_eq!(world.get_as("admin", &raw).await.status, 200);
    world.get_as("admin", "/v1/replay/inbox/em-1").await.expect(200);
    seen(&world, "admin:admin-user", "delivery", &position.to_string()).await;
    let row = eventually("all of them are recorded", async || {
        let row = seen(&world, "admin:admin-user", "email", "em-1").await;
        (row["count"] == 5).then_some(row)
    })
    .await;
    assert_eq!(row["routes"]["GET /v1/replay/{view}/{key}"], 1, "{row}");

    // A search is recorded, its text is not.
    world.get_as("admin", "/v1/inbox?q=guest%40example.com").await.expect(200);
    world.get_as("admin", "/v1/customers/dana%40example.com").await.problem(404, "not_found");
    eventually("a list is recorded", async || {
        accesses(&world, "actor=admin:admin-user&resource=inbox").await.pop()
    })
    .await;
    // The reading of this list is recorded too.
    eventually("the auditor's read is recorded too", async || {
        accesses(&world, "actor=auditor:auditor-user&resource=access").await.pop()
    })
    .await;
    world.settled().await;
    let records: Vec<_> = world
        .views_equal_a_fresh_fold()
        .await
        .into_iter()
        .filter(|event| event.subject == Subject::Access.to_string())
        .collect();
    assert!(!records.is_empty());
    for record in records {
        assert_eq!(record.envelope.kind, ACCESS_RECORDED);
        assert!(!String::from_utf8_lossy(&record.body).contains("example.com"));
    }
}

#[tokio::test]
async fn only_reads_of_personal_data_by_staff_are_recorded() {
    let world = InProcess::with(&[("EXODRIVE_ACCESS_INTERVAL", "100ms")]).await;
    mail(&world).await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let booking = world.user("ada", "customer").booked(&car, day(0), day(0)).await;
    let path = format!("/v1/bookings/{}", booking["id"].as_str().unwrap());
    world.get_as("customer", &path).await;
    let own = world.user("ada", "customer").get(&path).await;
    own.expect(200);
    visitor.get("/v1/cars/one").await.expect(200);
    admin.get("/v1/cars/one/calendar").await.expect(200);
    admin.get("/v1/dashboard").await.expect(200);
    world.get_as("operator", "/v1/operator/projections").await.expect(200);
    // Rejected: nothing was shown.
    world.get_as("customer", "/v1/inbox/em-1").await.problem(403, "forbidden");
    world.get_as("operator", "/v1/inbox/em-1").await.problem(403, "forbidden");
    world.get("/v1/inbox/em-2").await.problem(404, "not_found");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let is_record = |subject: &str| subject.starts_with("exo.access.");
    assert!(!world.events().await.iter().any(|event| is_record(&event.subject)));
    // Proof that the test would see a record:
    admin.get(&path).await.expect(200);
    let id = booking["id"].as_str().unwrap();
    seen(&world, "admin:admin-user", "booking", id).await;
    for role in ["admin", "operator", "customer"] {
        for path in
            ["/v1/audit/accesses", "/v1/audit/rejected-webhooks", "/v1/audit/history?email=em-1"]
        {
            world.get_as(role, path).await.problem(403, "forbidden");
        }
    }
    let row = accesses(&world, &format!("resource=booking&key={id}")).await.pop().unwrap();
    let day = &row["first_at"].as_str().unwrap()[..10];
    let key = format!("booking%2F{id}%2F{day}%2Fadmin:admin-user");
    let replay = format!("/v1/replay/accesses/{key}");
    world.get_as("admin", &replay).await.problem(403, "forbidden");
    assert_eq!(world.get(&replay).await.expect(200)["state"]["count"], 1);
}

#[tokio::test]
async fn records_wait_while_the_log_is_away_and_are_appended_at_the_end() {
    use exodrive_runtime::services::{Service, Signal};
    let world = World::with(&[("EXODRIVE_ACCESS_INTERVAL", "300ms")]).await;
    mail(&world).await;
    world.get("/v1/inbox/em-1").await.expect(200);
    seen(&world, "auditor:auditor-user", "email", "em-1").await;
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    // From Redis: this needs no log.
    world.get_as("admin", "/v1/inbox/em-1").await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    let row = seen(&world, "admin:admin-user", "email", "em-1").await;
    assert_eq!(row["count"], 1, "appended once: {row}");

    let world = World::start().await;
    mail(&world).await;
    world.get("/v1/inbox/em-1").await.expect(200);
    world.signal(API, Signal::SIGTERM);
    eventually("the last records are appended", async || {
        let events = world.events().await;
        events.iter().any(|event| event.subject == "exo.access.api").then_some(())
    })
    .await;
}

#[tokio::test]
async fn reads_by_the_command_line_are_recorded() {
    let world = InProcess::start().await;
    mail(&world).await;
    world.exodrive_prints(&["replay", "email", "em-1"]).await;
    world.exodrive_prints(&["replay", "inbox", "em-1"]).await;
    world.exodrive_prints(&["replay", "inbox", "em-1", "--diff", "0", "now"]).await;
    world.settled().await;
    let row = accesses(&world, "resource=email&key=em-1").await.pop().unwrap();
    assert_eq!((&row["count"], &row["routes"]["exodrive replay"]), (&3.into(), &3.into()), "{row}");
    let actor = row["actor"].as_str().unwrap();
    assert!(actor.starts_with("operator:") && actor.ends_with("@cli"), "{actor}");
}
