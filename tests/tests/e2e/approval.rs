//! Who approves an erasure on the command line.

use crate::in_process::InProcess;
use exodrive_tests::{Delivery, email_body};
use serde_json::{Value, json};

#[tokio::test]
async fn two_people_are_needed_on_the_command_line_too() {
    let world = InProcess::start().await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
    let (ann, ben) = (world.token_of("ann", "operator"), world.token_of("ben", "operator"));
    let ask =
        ["audit", "erase", "--email-address", "guest@example.com", "--reason=asked", "--json"];
    let ask_as = async |token: Option<&str>| {
        let token = token.map(|token| vec!["--as", token]).unwrap_or_default();
        let asked = world.exodrive_prints(&[&ask[..], &token].concat()).await;
        let asked: Value = serde_json::from_str(&asked).unwrap();
        (asked["id"].as_str().unwrap().to_owned(), asked["requested_by"].clone())
    };
    let refused = async |id: &str, more: &[&str], says: &str| {
        let approve = ["audit", "approve", id, "--no-wait"];
        let done = world.exodrive(&[&approve[..], more].concat()).await;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(1) && said.contains(says), "{more:?}: {said}");
    };
    let (id, by) = ask_as(Some(&ann)).await;
    assert_eq!(by, "operator:ann");
    refused(&id, &["--as", &ann], "operator:ann").await;
    refused(&id, &[], "--single-handed").await;
    refused(&id, &["--as", &world.token_of("eve", "admin")], "role admin").await;
    refused(&id, &["--as", "junk"], "not valid").await;
    // One whose requester has shown nobody who they are.
    let (unproven, _) = ask_as(None).await;
    refused(&unproven, &["--as", &ben], "--single-handed").await;
    let approve = ["audit", "approve", &id, "--no-wait", "--json", "--as", &ben];
    let done: Value = serde_json::from_str(&world.exodrive_prints(&approve).await).unwrap();
    assert_eq!(
        (&done["approved_by"], &done["single_handed"]),
        (&json!("operator:ben"), &json!(false))
    );
    // What one person does alone is in the log for ever.
    let approve = ["audit", "approve", &unproven, "--no-wait", "--json", "--single-handed"];
    let done: Value = serde_json::from_str(&world.exodrive_prints(&approve).await).unwrap();
    assert_eq!(done["single_handed"], true);
    let approvals = world.events().await.into_iter().filter(|event| {
        event.envelope.kind == "exodrive.erasure.approved" && event.subject.contains(&unproven)
    });
    let bodies: Vec<Value> =
        approvals.map(|event| serde_json::from_slice(&event.body).unwrap()).collect();
    assert_eq!(bodies.len(), 1);
    assert_eq!(bodies[0]["single_handed"], true);
}
