//! A message counts once, for ever. Three mechanisms ensure it; each is tested alone.

use exodrive_runtime::services::Service;
use exodrive_tests::{API, Answer, Delivery, World, email_body, eventually};
use reqwest::Method;

const LONG_AGO: &str = "2025-03-01T09:00:00Z";
/// Never older than the log's window, so that no view is queried for it.
const FAR_AHEAD: &str = "2099-01-01T00:00:00Z";

#[tokio::test]
async fn the_log_knows_a_repeat_after_restarts_without_asking_postgres() {
    let world = World::start().await;
    let now = chrono::Utc::now().to_rfc3339();
    let delivery = Delivery::new("msg_1", email_body("sent", "em-1", &now, ""));
    let old = Delivery::new("msg_old", email_body("sent", "em-2", LONG_AGO, ""));
    world.services.stop_service(Service::Postgres).await.unwrap();
    assert_eq!(world.stored(&delivery).await, 1);
    assert_eq!(world.stored(&old).await, 2);
    world.kill(API);
    world.kill_service(Service::Nats).await;
    world.start_api();
    for (delivery, position) in [(&delivery, 1), (&old, 2)] {
        let receipt = world.post_until_taken(delivery).await.json();
        assert_eq!((&receipt["position"], &receipt["duplicate"]), (&position.into(), &true.into()));
    }
    world.services.start_service(Service::Postgres).await.unwrap();
    assert_eq!(world.views_equal_a_fresh_fold().await.len(), 2);
    let email = detail(&world, "em-1", 2).await;
    assert_eq!((&email["events"], &email["repeats"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn past_the_logs_window_the_view_knows_a_repeat_and_without_it_the_folds_do() {
    let world = World::with(&[("EXODRIVE_DUPLICATE_WINDOW", "1s")]).await;
    let old = Delivery::new("msg_old", email_body("sent", "em-1", LONG_AGO, ""));
    assert_eq!(world.stored(&old).await, 1);
    world.settled().await;
    window_passes(&world, "msg_probe_1").await;
    let end = world.log().await.last_position().await.unwrap();

    // The second mechanism: the deliveries view.
    let receipt = world.post(&old).await.expect(200);
    assert_eq!((&receipt["position"], &receipt["duplicate"]), (&1.into(), &true.into()));
    let changed = Delivery::new("msg_old", email_body("failed", "em-1", LONG_AGO, ""));
    let receipt = world.post(&changed).await.expect(200);
    assert_eq!((&receipt["position"], &receipt["duplicate"]), (&1.into(), &true.into()));
    let counted = world.metric(API, "exodrive_webhook_duplicates_with_different_body_total").await;
    assert_eq!(counted, Some(1.0));
    assert_eq!(world.log().await.last_position().await.unwrap(), end, "nothing was stored");

    // The third mechanism: every fold.
    world.services.stop_service(Service::Postgres).await.unwrap();
    let receipt = world.post(&old).await.expect(200);
    assert_eq!(receipt["duplicate"], false, "its repeat is not recognised, so it is stored");
    let again = receipt["position"].as_u64().unwrap();
    assert!(again > end);
    world.services.start_service(Service::Postgres).await.unwrap();
    world.views_equal_a_fresh_fold().await;
    let email = detail(&world, "em-1", again).await;
    assert_eq!((&email["events"], &email["repeats"]), (&1.into(), &1.into()));
    assert_eq!(email["stages"][0]["count"], 1);
    let timeline = world.get("/v1/inbox/em-1/timeline").await.expect(200);
    assert_eq!(timeline["data"].as_array().unwrap().len(), 1);
    assert_eq!(timeline["data"][0]["repeats"], serde_json::json!([again]));
    let deliveries = world.get("/v1/inbox/em-1/deliveries").await.expect(200);
    assert_eq!(deliveries["data"].as_array().unwrap().len(), 1);
    let repeats = deliveries["data"][0]["repeats"].as_array().unwrap();
    assert_eq!(repeats.len(), 1);
    assert_eq!((&repeats[0]["position"], &repeats[0]["same_bytes"]), (&again.into(), &true.into()));
}

/// Waits until the log's server forgets a message that it has just stored, and so every message
/// that it stored before.
async fn window_passes(world: &World, id: &str) {
    let probe = Delivery::new(id, email_body("sent", "em-probe", FAR_AHEAD, ""));
    let first = world.stored(&probe).await;
    eventually("the log's window passes", async || {
        (world.stored(&probe).await != first).then_some(())
    })
    .await;
}

async fn detail(world: &World, email: &str, position: u64) -> serde_json::Value {
    let request = world
        .request(Method::GET, &format!("/v1/inbox/{email}"))
        .header("exodrive-min-position", position)
        .bearer_auth(world.token("auditor"));
    Answer::of(request).await.unwrap().expect(200)
}
