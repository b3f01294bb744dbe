//! `exodrive replay email` needs only the log.

use exodrive_runtime::services::Service;
use exodrive_tests::{API, Delivery, WORKER, World, email_body};
use serde_json::Value;

#[tokio::test]
async fn history_is_reported_from_the_log_alone() {
    let world = World::start().await;
    let delivery = |id: &str, kind: &str, at: &str, more: &str| {
        Delivery::new(id, email_body(kind, "em-1", at, more))
    };
    let posted = [
        delivery("msg_a", "delivered", "2026-11-20T09:02:00Z", ""),
        delivery("msg_b", "sent", "2026-11-20T09:01:00Z", ""),
        delivery("msg_c", "framed", "2026-11-20T09:03:00Z", ""),
        delivery("msg_d", "bounced", "2026-11-20T09:04:00Z", r#","bounce":{"type":"Permanent"}"#),
    ];
    for delivery in &posted {
        world.stored(delivery).await;
        // Events of other emails lie between them.
        let other = email_body("sent", "em-2", "2026-11-20T09:00:00Z", "");
        world.stored(&Delivery::new(format!("{}_other", delivery.id), other)).await;
    }
    world.settled().await;
    let live = world.get("/v1/inbox/em-1").await.expect(200);
    world.kill(API);
    world.kill(WORKER);
    world.services.stop_service(Service::Postgres).await.unwrap();
    world.services.stop_service(Service::Redis).await.unwrap();

    let frames = async |more: &[&str]| -> Vec<Value> {
        let args = [&["replay", "email", "em-1", "--json"], more].concat();
        serde_json::from_str(&world.exodrive_prints(&args).await).unwrap()
    };
    let reported = |frames: &[Value]| -> Vec<(String, Value)> {
        let of = |frame: &Value| {
            (frame["event_id"].as_str().unwrap().to_owned(), frame["status"].clone())
        };
        frames.iter().map(of).collect()
    };
    let steps = |steps: &[(&str, &str)]| -> Vec<(String, Value)> {
        steps.iter().map(|(id, status)| ((*id).to_owned(), (*status).into())).collect()
    };

    let received = frames(&[]).await;
    let as_received = steps(&[
        ("msg_a", "delivered"),
        ("msg_b", "delivered"),
        ("msg_c", "delivered"),
        ("msg_d", "bounced"),
    ]);
    assert_eq!(reported(&received), as_received);
    let positions: Vec<_> =
        received.iter().map(|frame| frame["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, [1, 3, 5, 7]);
    assert_eq!(received[3]["state"], live, "the last state is that of the live view");
    assert_eq!(received[1]["happened_at"], "2026-11-20T09:01:00.000000Z");
    assert_eq!(received[2]["type"], "email.framed");

    let happened = frames(&["--order", "happened"]).await;
    let as_happened = steps(&[
        ("msg_b", "sent"),
        ("msg_a", "delivered"),
        ("msg_c", "delivered"),
        ("msg_d", "bounced"),
    ]);
    assert_eq!(reported(&happened), as_happened);

    assert_eq!(reported(&frames(&["--at", "3"]).await), as_received[..2]);
    assert_eq!(reported(&frames(&["--at", "4"]).await), as_received[..2]);
    let at_noon = ["--order", "happened", "--at", "2026-11-20T09:02:00Z"];
    assert_eq!(reported(&frames(&at_noon).await), as_happened[..2]);
    let arrival = received[2]["received_at"].as_str().unwrap();
    assert_eq!(reported(&frames(&["--at", arrival]).await), as_received[..3]);

    let raw = world.exodrive_prints(&["replay", "email", "em-1", "--raw"]).await;
    for delivery in &posted {
        assert!(raw.contains(&format!("svix-id: {}\n", delivery.id)));
        assert!(raw.contains(std::str::from_utf8(&delivery.body).unwrap()));
    }
    let table = world.exodrive_prints(&["replay", "email", "em-1"]).await;
    for text in ["email.delivered", "BOUNCED", "guest@example.com", "4 events"] {
        assert!(table.contains(text), "{text} in\n{table}");
    }

    let nobody = world.exodrive(&["replay", "email", "em-unknown", "--json"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(String::from_utf8(nobody.stdout).unwrap().trim(), "[]");
    let wrong = world.exodrive(&["replay", "email", "em-1", "--at", "noon"]).await;
    assert_eq!(wrong.status.code(), Some(2), "wrong usage");
}
