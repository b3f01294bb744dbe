//! Telemetry: log lines that can be joined and hold nothing personal, and
//! metrics.

use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{API, Answer, Delivery, WORKER, World, email_body, eventually, fixtures};
use reqwest::Method;
use serde_json::Value;

/// Debug lines of everything, and every line of our own.
pub(crate) const LOUD: &str = "debug,exodrive_api=trace,exodrive_domain=trace,exodrive_log=trace,\
                    exodrive_projections=trace,exodrive_runtime=trace";

const CANARY: &str = "canary-7f3a";

/// Makes every kind of delivery, read and failure.
async fn live(world: &World) {
    let more = format!(
        r#","cc":["{CANARY}-cc@example.com"],"tags":{{"booking_id":"{CANARY}"}},"click":{{"link":"https://example.com/{CANARY}","ipAddress":"{CANARY}"}}"#
    );
    let body = email_body("clicked", "em-1", "2026-11-20T09:00:00Z", &more);
    let body = body
        .replace("guest@example.com", &format!("{CANARY}@example.com"))
        .replace("Your booking", &format!("{CANARY} subject"));
    let deliveries = [
        Delivery::new("msg_1", body.clone()),
        Delivery::new("msg_1", body.replace("clicked", "opened")),
        Delivery::new("msg_2", format!(r#"{{"type":"email.sent","data":"{CANARY}"#)),
        Delivery::new("msg_3", format!(r#"{{"type":"{CANARY}"}}"#)),
        Delivery::new("msg_4", body.replace("em-1", "em-4")),
    ];
    for delivery in &deliveries {
        world.post(delivery).await.expect(200);
    }
    world.settled().await;
    for path in ["/v1/inbox/em-1", "/v1/inbox/em-1/timeline", "/v1/deliveries/1/raw"] {
        assert_eq!(world.get(path).await.status, 200);
    }
    let found = world.get(&format!("/v1/inbox?q={CANARY}")).await.expect(200);
    assert_eq!(found["data"].as_array().unwrap().len(), 2);

    // Failures.
    world.get(&format!("/v1/inbox?q={CANARY}&limit=0")).await.problem(400, "invalid_request");
    world.get(&format!("/v1/inbox?{CANARY}=1")).await.problem(400, "invalid_request");
    world.get(&format!("/v1/inbox?after={CANARY}")).await.problem(400, "invalid_request");
    world.get(&format!("/v1/inbox/{CANARY}%40example.com")).await.problem(404, "not_found");
    world.get(&format!("/{CANARY}")).await.problem(404, "not_found");
    world.get_as("customer", "/v1/inbox/em-1").await.problem(403, "forbidden");
    let forged = format!("{CANARY}.{CANARY}.{CANARY}");
    let request = world.request(Method::GET, "/v1/inbox").bearer_auth(forged);
    Answer::of(request).await.unwrap().problem(401, "unauthenticated");
    let request = world.delivery_at(&deliveries[0], 1_000_000_000);
    Answer::of(request).await.unwrap().problem(401, "signature_invalid");
    let unsigned = world.request(Method::POST, "/v1/webhooks/resend").body(body.clone());
    Answer::of(unsigned).await.unwrap().problem(401, "signature_invalid");

    // Outages while requests come in.
    world.services.stop_service(Service::Redis).await.unwrap();
    world.services.stop_service(Service::Postgres).await.unwrap();
    world.post(&Delivery::new("msg_5", body.replace("em-1", "em-2"))).await.expect(200);
    world.get(&format!("/v1/inbox?q={CANARY}")).await.problem(503, "view_unavailable");
    world.services.start_service(Service::Postgres).await.unwrap();
    world.services.start_service(Service::Redis).await.unwrap();
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    world.post(&Delivery::new("msg_6", body.clone())).await.problem(503, "log_unavailable");
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    world.wait_until("ready").await;
    // Postgres rejects rows: its own message would quote them.
    let refuse = "alter table inbox_g1.inbox add constraint no_canary check (key <> 'em-refused')";
    sqlx::query(refuse).execute(world.database()).await.unwrap();
    world.post(&Delivery::new("msg_7", body.replace("em-1", "em-refused"))).await.expect(200);
    for (n, fixture) in fixtures().into_iter().enumerate() {
        world.post(&Delivery::new(format!("msg_f{n}"), fixture.body)).await.expect(200);
    }
    world.settled().await;
}

#[tokio::test]
async fn no_line_holds_an_address_a_payload_a_token_or_a_secret() {
    let world = World::with(&[("EXODRIVE_LOG", LOUD)]).await;
    live(&world).await;
    let lines = world.printed(API) + &world.printed(WORKER);
    assert!(lines.contains("\"DEBUG\"") && lines.contains("Projected"), "lines were written");
    assert!(lines.contains("Parked"), "and of failures, too");
    let token = world.token("auditor");
    let key = world.webhook_secret.trim_start_matches("whsec_");
    let password = |url: &str| {
        let (before, _) = url.rsplit_once('@').unwrap();
        before.rsplit_once(':').unwrap().1.to_owned()
    };
    let urls = world.urls();
    let secrets = [
        CANARY,
        "guest@example.com",
        token.rsplit_once('.').unwrap().1,
        token.split('.').nth(1).unwrap(),
        key,
        exodrive_tests::TOKEN_SECRET,
        &password(&urls.nats),
        &password(&urls.nats_worker),
        &password(&urls.nats_operator),
        &password(&urls.database),
        &password(&urls.database_worker),
        &password(&urls.database_operator),
        &password(&urls.redis),
        &password(&urls.redis_worker),
    ];
    for secret in secrets {
        assert!(secret.len() > 8);
        let line = lines.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "holds {secret:?}");
    }
    // The output does not have any address of the fixtures, either.
    let addresses = |text: &str| {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "@.+-_".contains(c)));
        words
            .filter(|word| word.contains('@') && word.len() > 4)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut known = 0;
    for fixture in fixtures() {
        for address in addresses(&String::from_utf8_lossy(&fixture.body)) {
            known += 1;
            assert!(!lines.contains(&address), "{address} of {}", fixture.name);
        }
    }
    assert!(known > 50);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string());
    }
}

#[tokio::test]
async fn one_trace_joins_the_webhook_its_append_and_every_projection() {
    let world = World::with(&[("EXODRIVE_LOG", "debug")]).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let delivery = Delivery::new("msg_1", email_body("sent", "em-1", "2026-11-20T09:00:00Z", ""));
    let request = world.delivery(&delivery);
    let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let answer = Answer::of(request).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.header("traceparent").starts_with(&format!("00-{trace}-")));
    world.settled().await;
    let events = world.events().await;
    let saved = events[0].envelope.traceparent.as_deref().unwrap();
    assert!(saved.starts_with(&format!("00-{trace}-")));
    assert_eq!(events[0].envelope.correlation.as_deref(), Some(answer.header("request-id")));

    let joined = |process: &str, message: &str| {
        let printed = world.printed(process);
        let lines = printed.lines().filter(|line| line.contains(trace) && line.contains(message));
        lines.count()
    };
    assert_eq!(joined(API, "Stored a delivery"), 1);
    assert_eq!(joined(API, "Request answered"), 1);
    assert!(joined(API, answer.header("request-id")) >= 2, "both under the request's id");
    // Projections that read email log this event, and the others may.
    let of_email = ["booking_timeline", "deliveries", "email_timeline", "inbox"];
    eventually("every projection of email logs the event", async || {
        let printed = world.printed(WORKER);
        let lines: Vec<_> = printed
            .lines()
            .filter(|line| line.contains(trace) && line.contains("Projected"))
            .collect();
        let logs = |name: &str| {
            let to = format!("to `{name}`");
            lines.iter().filter(|line| line.contains(&to)).count() == 1
        };
        of_email.iter().all(|name| logs(name)).then_some(())
    })
    .await;

    // A request with no trace, or an invalid one, gets its own.
    let request = world.request(Method::GET, "/livez").header("traceparent", "nonsense");
    let own = Answer::of(request).await.unwrap().header("traceparent").to_owned();
    assert_eq!((own.len(), &own[..3]), (55, "00-"));
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let world = World::start().await;
    let delivery = |n: u32| {
        let at = chrono::Utc::now().to_rfc3339();
        Delivery::new(format!("msg_{n}"), email_body("sent", &format!("em-{n}"), &at, ""))
    };
    for n in 0..5 {
        world.stored(&delivery(n)).await;
    }
    world.stored(&delivery(0)).await;
    let unsigned = world.request(Method::POST, "/v1/webhooks/resend").body("{}");
    Answer::of(unsigned).await.unwrap().problem(401, "signature_invalid");
    world.settled().await;
    eventually("the cache answers", async || {
        (world.get("/v1/inbox/em-1").await.header("x-cache") != "MISS").then_some(())
    })
    .await;
    for (name, value) in [
        ("exodrive_webhook_appended_total", 5.0),
        ("exodrive_webhook_duplicates_total", 1.0),
        ("exodrive_webhook_rejected_total", 1.0),
        ("exodrive_cache_hits_total", 1.0),
        ("exodrive_log_append_seconds_count", 6.0),
    ] {
        assert_eq!(world.metric(API, name).await, Some(value), "{name}");
    }
    let text = world.metrics(API).await;
    let route = r#"route="/v1/webhooks/resend""#;
    for status in ["200", "401"] {
        let sample = text.lines().find(|line| {
            line.starts_with("exodrive_http_request_seconds_count")
                && line.contains(route)
                && line.contains(&format!("status=\"{status}\""))
        });
        assert!(sample.is_some(), "{status} of the webhook:\n{text}");
    }
    assert!(text.contains("exodrive_http_request_seconds_bucket"));

    for projection in ["deliveries", "email_timeline", "inbox"] {
        for (name, value) in [
            ("exodrive_projection_lag_events", "0"),
            ("exodrive_projection_events_total", "5"),
            ("exodrive_projection_position", "5"),
        ] {
            let sample = format!("{name}{{projection=\"{projection}\"}} {value}");
            eventually(&sample, async || {
                world.metrics(WORKER).await.lines().any(|line| line == sample).then_some(())
            })
            .await;
        }
    }
}
