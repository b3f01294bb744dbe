//! What strangers send keeps nobody else from being answered.

use crate::in_process::InProcess;
use exodrive_tests::{API, Answer, Delivery, World};
use reqwest::Method;
use std::time::Duration;

/// A time within which a request is answered that nothing keeps from it, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_without_end_keep_nobody_waiting() {
    let world = World::start().await;
    let now = chrono::Utc::now().timestamp();
    let body = vec![b'a'; 1 << 20];
    let forged = |signatures: String| {
        let request = world
            .request(Method::POST, "/v1/webhooks/resend")
            .header("svix-id", "msg_1")
            .header("svix-timestamp", now)
            .header("svix-signature", signatures)
            .body(body.clone());
        async { Answer::of(request).await }
    };
    // As many signatures as are looked at, as many as a header of ours may have, and one that is
    // as long as a signature may be.
    let foreign = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let kinds = [vec![foreign; 10].join(" "), vec!["v1,"; 8_000].join(" "), "v".repeat(5_000)];
    let attack = futures::future::join_all((0..30).map(|n| forged(kinds[n % 3].clone())));
    let watch = async {
        for _ in 0..20 {
            let alive = Answer::of(world.request(Method::GET, "/livez")).await.unwrap();
            alive.expect(200);
            assert!(alive.took < AT_ONCE, "/livez took {:?}", alive.took);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (answers, ()) = tokio::join!(attack, watch);
    for (n, answer) in answers.into_iter().enumerate() {
        // Who is refused by the head may find the connection closed while the body is sent.
        match answer {
            Ok(answer) => drop(answer.problem(401, "signature_invalid")),
            Err(error) => assert!(n % 3 > 0, "{error}"),
        }
    }
    world.stored(&Delivery::new("msg_2", "{}")).await;
    assert_eq!(world.metric(API, "exodrive_webhook_rejected_total").await, Some(30.0));
}

#[tokio::test]
async fn what_is_too_large_is_recorded_within_the_limit() {
    let world = InProcess::with(&[("EXODRIVE_RATE_LIMIT_FAILED_WEBHOOK", "3/1h")]).await;
    for n in 0..6 {
        let large = Delivery::new(format!("msg_{n}"), vec![b'a'; (1 << 20) + 1]);
        let answer = world.post(&large).await;
        match n < 3 {
            true => answer.problem(413, "body_too_large"),
            false => answer.problem(429, "rate_limited"),
        };
    }
    // The sender is heard all the same if a signature is valid.
    world.stored(&Delivery::new("msg_signed", "{}")).await;
    exodrive_tests::eventually("three are recorded", async || {
        let recorded = world.get("/v1/audit/rejected-webhooks").await.expect(200);
        let counts = recorded["counts"].clone();
        let expected = counts == serde_json::json!({"body_too_large": 3});
        expected.then_some(()).ok_or(counts)
    })
    .await;
}
