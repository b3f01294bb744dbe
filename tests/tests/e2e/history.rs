//! The history of email with all its evidence, for auditors.

use crate::in_process::InProcess;
use base64::{Engine, prelude::BASE64_STANDARD};
use exodrive_tests::{Answer, Delivery, System, day, email_body, eventually, sign};
use serde_json::{Value, json};

async fn history(world: &System, query: &str) -> Value {
    world.get(&format!("/v1/audit/history?{query}")).await.expect(200)
}

fn ids(history: &Value) -> Vec<&str> {
    history["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect()
}

/// The events of one email, as they reach us; the second event happened first.
fn deliveries() -> [Delivery; 3] {
    let of = |id: &str, kind: &str, at: &str, more: &str| {
        Delivery::new(id, email_body(kind, "em-1", at, more))
    };
    [
        of("msg_a", "delivered", "2026-11-20T09:02:00Z", ""),
        of("msg_b", "sent", "2026-11-20T09:01:00Z", ""),
        of("msg_c", "bounced", "2026-11-20T09:04:00Z", r#","bounce":{"type":"Permanent"}"#),
    ]
}

/// A delivery with an invalid signature.
async fn refused(world: &System, id: &str, body: &str) {
    let request = world
        .request(reqwest::Method::POST, "/v1/webhooks/resend")
        .header("svix-id", id)
        .header("svix-timestamp", chrono::Utc::now().timestamp().to_string())
        .header("svix-signature", "v1,bm90IHNpZ25lZA==")
        .body(body.to_owned());
    Answer::of(request).await.unwrap().problem(401, "signature_invalid");
}

#[tokio::test]
async fn every_delivery_of_an_email_is_reported_with_its_evidence() {
    let world = InProcess::with(&[("EXODRIVE_ACCESS_INTERVAL", "500ms")]).await;
    let mut positions = Vec::new();
    for delivery in deliveries() {
        positions.push(world.stored(&delivery).await);
        let other = email_body("sent", "em-2", "2026-11-20T09:00:00Z", "");
        world.stored(&Delivery::new(format!("{}2", delivery.id), other)).await;
    }
    // It came again, and another delivery with its id was rejected.
    for _ in 0..2 {
        assert_eq!(world.post(&deliveries()[0]).await.expect(200)["duplicate"], true);
    }
    refused(&world, "msg_a", "{}").await;
    refused(&world, "dana@example.com", r#"{"to":"dana@example.com"}"#).await;
    world.settled().await;
    world.get_as("admin", "/v1/inbox/em-1").await.expect(200);

    let reported = eventually("rejections and accesses are shown", async || {
        let reported = history(&world, "email=em-1").await;
        let email = &reported["emails"][0];
        let by_admin = |it: &&Value| it["actor"] == "admin:admin-user";
        let all = email["duplicates"] == 2
            && email["rejected"] == 1
            && email["accesses"].as_array().unwrap().iter().any(|it| by_admin(&it));
        all.then_some(reported)
    })
    .await;
    assert_eq!(ids(&reported), ["msg_a", "msg_b", "msg_c"]);
    assert_eq!((&reported["has_more"], &reported["next_cursor"]), (&json!(false), &Value::Null));
    let statuses = ["delivered", "delivered", "bounced"];
    for (n, delivery) in deliveries().iter().enumerate() {
        let entry = &reported["data"][n];
        let raw = BASE64_STANDARD.decode(entry["raw"].as_str().unwrap()).unwrap();
        assert_eq!(raw, delivery.body, "byte for byte");
        assert_eq!(entry["position"], positions[n]);
        assert_eq!(
            (&entry["object"], &entry["email_id"]),
            (&json!("email_delivery"), &json!("em-1"))
        );
        assert_eq!(entry["verdict"], "verified");
        assert_eq!(entry["state"]["status"], statuses[n]);
        let header = |name: &str| {
            let headers = entry["headers"].as_array().unwrap();
            let found = headers.iter().find(|header| header["name"] == name).unwrap();
            found["value"].as_str().unwrap().to_owned()
        };
        let at: i64 = header("svix-timestamp").parse().unwrap();
        let signature = sign(&world.webhook_secret, &delivery.id, at, &delivery.body);
        assert_eq!(header("svix-signature"), signature);
        let counts = if n == 0 { (2, 1) } else { (0, 0) };
        assert_eq!(
            (&entry["duplicates"], &entry["rejected"]),
            (&json!(counts.0), &json!(counts.1))
        );
    }
    let live = world.get("/v1/inbox/em-1").await.expect(200);
    assert_eq!(reported["data"][2]["state"], live, "the last state is that of the view");
    assert_eq!(reported["emails"][0]["deliveries"], 3);

    // Both orders, and the history as known at a point.
    let happened = history(&world, "email=em-1&order=happened").await;
    assert_eq!(ids(&happened), ["msg_b", "msg_a", "msg_c"]);
    assert_eq!(happened["data"][0]["state"]["status"], "sent");
    let known = history(&world, &format!("email=em-1&order=happened&at={}", positions[1])).await;
    assert_eq!(ids(&known), ["msg_b", "msg_a"]);
    let at = reported["data"][0]["received_at"].as_str().unwrap();
    assert_eq!(ids(&history(&world, &format!("email=em-1&at={at}")).await), ["msg_a"]);

    let diff =
        format!("/v1/audit/history/diff?email=em-1&from={}&to={}", positions[1], positions[2]);
    let diff = world.get(&diff).await.expect(200);
    let fields = diff["fields"].as_array().unwrap();
    let status = fields.iter().find(|field| field["pointer"] == "/status").unwrap();
    assert_eq!((&status["old"], &status["new"]), (&json!("delivered"), &json!("bounced")));
    assert_eq!(
        (&status["position"], &status["type"]),
        (&json!(positions[2]), &json!("email.bounced"))
    );

    // Rejections are counted, and hold nothing of a body or of an odd id.
    let rejected = world.get("/v1/audit/rejected-webhooks").await.expect(200);
    assert_eq!(rejected["object"], "rejected_webhooks");
    assert_eq!(rejected["counts"], json!({"duplicate": 2, "signature": 2}));
    let newest = &rejected["newest"][0];
    assert_eq!((&newest["reason"], &newest["claimed_id"]), (&json!("signature"), &Value::Null));
    assert!(!rejected.to_string().contains("dana"), "{rejected}");
    let since = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ");
    let later = format!("/v1/audit/rejected-webhooks?since={since}&until={since}");
    assert_eq!(world.get(&later).await.expect(200)["counts"], json!({}));

    for (query, wrong) in [
        ("", "?email"),
        ("email=em-1&address=a%40b.c", "?email"),
        ("email=em-1&since=2026-11-20T09:00:00Z", "?email"),
        ("email=em-1&order=odd", "?order"),
        ("email=em-1&at=noon", "?at"),
        ("booking=1", "?booking"),
        ("address=a%40b.c&after=odd", "?after"),
        ("email=em-1&odd=1", "?odd"),
    ] {
        let problem = world.get(&format!("/v1/audit/history?{query}")).await;
        let problem = problem.problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], wrong, "{query}");
    }
    world.get("/v1/audit/history?email=em-3").await.problem(404, "not_found");
}

#[tokio::test]
async fn history_is_reported_by_address_by_booking_and_by_time() {
    let world = InProcess::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 10_000).await;
    let booking = visitor.booked(&car, day(0), day(0)).await;
    let id = booking["id"].as_str().unwrap();
    admin.act(&booking, "notes", json!({"text": "window seat"})).await.expect(200);
    let mail = |n: usize, kind: &str, to: &str, more: &str| {
        let body = email_body(kind, &format!("em-{n}"), "2026-11-20T09:00:00Z", more);
        Delivery::new(format!("msg_{n}{kind}"), body.replace("guest@example.com", to))
    };
    let tag = format!(r#","tags":{{"booking_id":"{id}"}}"#);
    let between = chrono::Utc::now();
    world.stored(&mail(1, "sent", "Dana <DANA@example.com>", &tag)).await;
    world.stored(&mail(2, "sent", "ben@example.com", r#","bcc":["dana@example.com"]"#)).await;
    world.stored(&mail(3, "sent", "jordana@example.com", "")).await;
    world.stored(&mail(4, "sent", "cai@example.com", r#","reply_to":["Dana@example.com"]"#)).await;
    world.stored(&mail(1, "delivered", "dana@example.com", &tag)).await;
    world.stored(&Delivery::new("msg_odd", "no json")).await;
    world.settled().await;

    let reported = history(&world, "address=Dana%40Example.com").await;
    let mut emails: Vec<_> = reported["emails"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["email_id"].as_str().unwrap())
        .collect();
    emails.sort_unstable();
    assert_eq!(emails, ["em-1", "em-2", "em-4"]);
    assert_eq!(ids(&reported), ["msg_1sent", "msg_2sent", "msg_4sent", "msg_1delivered"]);
    // The pages together equal the whole, and so do the lines.
    let (mut after, mut paged) = (String::new(), Vec::new());
    loop {
        let page = history(&world, &format!("address=dana%40example.com&limit=1{after}")).await;
        paged.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next_cursor"].as_str() else { break };
        after = format!("&after={next}");
    }
    paged.sort_unstable();
    assert_eq!(paged, ["msg_1delivered", "msg_1sent", "msg_2sent", "msg_4sent"]);
    let lines = async |query: &str| -> Vec<Value> {
        let request = world
            .request(reqwest::Method::GET, &format!("/v1/audit/history?{query}"))
            .bearer_auth(world.token("auditor"))
            .header("accept", "application/x-ndjson");
        let answer = Answer::of(request).await.unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of_address = lines("address=dana%40example.com").await;
    assert_eq!(of_address.len(), 4 + 3);
    assert_eq!(of_address[..4], reported["data"].as_array().unwrap()[..]);

    let reported = history(&world, &format!("booking={id}&order=received")).await;
    let kinds: Vec<_> = reported["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    let booked = ["exodrive.booking.held", "exodrive.booking.note_added"];
    assert_eq!(kinds, [&booked[..], &["email.sent", "email.delivered"]].concat());
    assert_eq!(reported["data"][1]["actor"], "admin:admin-user");

    let range = format!("since={}", between.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
    let reported = history(&world, &range).await;
    let all = ["msg_1sent", "msg_2sent", "msg_3sent", "msg_4sent", "msg_1delivered", "msg_odd"];
    assert_eq!(ids(&reported), all);
    assert_eq!(reported["data"][4]["state"]["status"], "delivered");
    assert_eq!(
        (&reported["data"][5]["state"], &reported["data"][5]["verdict"]),
        (&Value::Null, &json!("verified"))
    );
    let page = history(&world, &format!("{range}&limit=4")).await;
    assert_eq!(ids(&page), all[..4]);
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&history(&world, &format!("{range}&after={next}")).await), all[4..]);
    assert_eq!(lines(&range).await.iter().filter(|it| it["object"] == "email_delivery").count(), 6);
    let before = format!("until={}", between.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
    assert_eq!(ids(&history(&world, &before).await), Vec::<&str>::new());
}

#[tokio::test]
async fn the_command_line_shows_the_same_history_and_unknown_secrets() {
    let mut world = InProcess::start().await;
    for delivery in deliveries() {
        world.stored(&delivery).await;
    }
    world.settled().await;
    let table = world.exodrive_prints(&["audit", "history", "--email", "em-1"]).await;
    for text in ["email.bounced", "verified", "bounced", "em-1: 3 deliveries", "No member of staff"]
    {
        assert!(table.contains(text), "{text} in\n{table}");
    }
    let lines = async |args: &[&str]| -> Vec<Value> {
        let text = world.exodrive_prints(&[&["audit", "history", "--json"], args].concat()).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("the command's own read is recorded", async || {
        let reported = lines(&["--email", "em-1", "--order", "happened"]).await;
        assert_eq!(reported[0]["id"], "msg_b");
        let accesses = reported.last().unwrap()["accesses"].as_array().unwrap().clone();
        let route = "exodrive audit history";
        accesses.iter().any(|it| it["routes"][route].as_u64() > Some(0)).then_some(())
    })
    .await;
    assert_eq!(lines(&["--address", "GUEST@example.com"]).await.len(), 4);
    assert_eq!(lines(&["--since", "2020-01-01T00:00:00Z", "--at", "2"]).await.len(), 3);
    let diff =
        world.exodrive_prints(&["audit", "history", "--email", "em-1", "--diff", "1", "now"]).await;
    assert!(diff.contains("/status") && diff.contains("email.bounced"), "{diff}");
    for wrong in [&["--email", "em-1", "--address", "a@b.c"][..], &["--diff", "1", "2"], &[]] {
        let args = [&["audit", "history"], wrong].concat();
        assert_eq!(world.exodrive(&args).await.status.code(), Some(2), "{wrong:?}");
    }
    let nobody = world.exodrive(&["audit", "history", "--email", "em-9"]).await;
    assert_eq!(nobody.status.code(), Some(1));

    // The secret is rotated, and the old one is gone.
    world.set("EXODRIVE_RESEND_WEBHOOK_SECRETS", "whsec_YW5vdGhlciBzZWNyZXQsIG9mIG1vcmUgYnl0ZXMh");
    let table = world.exodrive_prints(&["audit", "history", "--email", "em-1"]).await;
    assert!(table.contains("not verified by"), "{table}");
}
