//! Service keys: what they may do, that they are shown once, and that they can be taken back; and
//! the sign-out of users.

use crate::in_process::InProcess;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{
    API, Answer, Client, Delivery, System, TOKEN_SECRET, World, booking_body, day, email_body,
    eventually, key,
};
use reqwest::Method;
use ring::{digest, hmac};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const KEYS: &str = "/v1/service-keys";

/// A request for a key with these scopes.
fn asked(scopes: &[&str]) -> Value {
    json!({"name": "website", "scopes": scopes})
}

/// Creates a key; gives it, and a client that has it.
async fn created(world: &System, scopes: &[&str]) -> (Value, Client) {
    let made = world.admin().post(KEYS, &asked(scopes)).await.expect(201);
    let client = world.visitor().with_token(made["secret"].as_str().unwrap());
    (made, client)
}

async fn get(client: &Client, path: &str) -> Answer {
    Answer::of(client.request(Method::GET, path)).await.unwrap()
}

/// The text of a key with another secret, and the checksum of that.
fn forged(secret: &str) -> String {
    let (body, _) = secret.split_at(secret.len() - 8);
    let last = if body.ends_with('0') { "1" } else { "0" };
    let body = format!("{}{last}", &body[..body.len() - 1]);
    let sum = hex::encode(digest::digest(&digest::SHA256, body.as_bytes()));
    format!("{body}{}", &sum[..8])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token that says when it was issued.
fn issued(subject: &str, role: &str, at: u64) -> String {
    let part = |value: Value| B64.encode(value.to_string());
    let claims = json!({
        "sub": subject, "iat": at, "exp": at + 3_600, "app_metadata": {"role": role},
    });
    let signed = format!("{}.{}", part(json!({"alg": "HS256"})), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, TOKEN_SECRET.as_bytes());
    format!("{signed}.{}", B64.encode(hmac::sign(&key, signed.as_bytes())))
}

#[tokio::test]
async fn a_key_does_what_its_scopes_name_as_itself() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let (made, program) = created(&world, &["bookings:write", "fleet:read"]).await;
    assert_eq!(made["scopes"], json!(["fleet:read", "bookings:write"]), "in one order");
    assert_eq!(
        (&made["status"], &made["created_by"]),
        (&"active".into(), &"admin:admin-user".into())
    );
    let id = made["id"].as_str().unwrap();

    // It books as staff does: for an account, and without a limit.
    let mut body = booking_body(&car, day(0), day(1));
    body["customer"]["user_id"] = json!("ada");
    let booked = program.post("/v1/bookings", &body).await;
    let position: u64 = booked.header("exodrive-position").parse().unwrap();
    let booking = booked.expect(201);
    let events = world.events().await;
    let event = events.iter().find(|event| event.position == position).unwrap();
    assert_eq!(event.envelope.actor, Some(format!("key:{id}")));
    get(&program, &format!("/v1/cars/{car}")).await.expect(200);

    let shown = format!("/v1/bookings/{}", booking["id"].as_str().unwrap());
    let refused = get(&program, &shown).await.problem(403, "forbidden");
    assert!(refused["detail"].as_str().unwrap().contains("bookings:read"), "{refused}");
    // What has no scope is closed: also to who has them all.
    for path in [KEYS, "/v1/operator/projections", "/v1/audit/checkpoint", "/v1/nothing"] {
        get(&program, path).await.problem(403, "forbidden");
    }
    program.post(KEYS, &asked(&["fleet:read"])).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_key_is_shown_once_and_stored_nowhere() {
    let world = InProcess::start().await;
    let (admin, retry) = (world.admin(), key());
    let body = asked(&["inbox:read"]);
    let made = admin.post_as(&retry, KEYS, &body).await.expect(201);
    let text = made["secret"].as_str().unwrap().to_owned();
    assert!(text.starts_with(made["prefix"].as_str().unwrap()), "{made}");

    let again = admin.post_as(&retry, KEYS, &body).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    let again = again.expect(201);
    assert_eq!((&again["id"], &again["secret"]), (&made["id"], &Value::Null));
    // The log recognises the repeat as well as Redis does.
    let client = redis::Client::open(world.redis()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    let secret = &text[text.len() - 72..text.len() - 8];
    let mut answers = 0;
    for key in keys {
        answers += usize::from(key.starts_with("exo:command:"));
        let held = redis::cmd("GET").arg(&key).query_async(&mut redis).await;
        let held: Vec<u8> = held.unwrap_or_default();
        assert!(!String::from_utf8_lossy(&held).contains(secret), "{key}");
    }
    assert!(answers > 0, "the answer is kept for repeats");
    let _: () = redis::cmd("FLUSHDB").query_async(&mut redis).await.unwrap();
    let again = admin.post_as(&retry, KEYS, &body).await.expect(201);
    assert_eq!((&again["id"], &again["secret"]), (&made["id"], &Value::Null));
    let _: () = redis::cmd("FLUSHDB").query_async(&mut redis).await.unwrap();
    let other = admin.post_as(&retry, KEYS, &asked(&["audit:read"])).await;
    other.problem(422, "idempotency_key_reused");

    let list = get(&admin, KEYS).await.expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert!(!list.to_string().contains(secret));
    for event in world.events().await {
        let body = String::from_utf8_lossy(&event.body).into_owned();
        assert!(!body.contains(secret), "{body}");
    }
    let one = get(&admin, &format!("{KEYS}/{}", made["id"].as_str().unwrap())).await.expect(200);
    assert_eq!(one, list["data"][0]);
}

#[tokio::test]
async fn a_key_that_cannot_be_is_refused() {
    let world = InProcess::start().await;
    let admin = world.admin();
    for (body, pointer) in [
        (asked(&[]), "/scopes"),
        (asked(&["fleet:read", "fleet:*"]), "/scopes/1"),
        (json!({"name": "x", "scopes": ["fleet:read"], "expires_at": "soon"}), "/expires_at"),
        (
            json!({"name": "x", "scopes": ["fleet:read"], "expires_at": "2020-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (json!({"name": " ", "scopes": ["fleet:read"]}), "/name"),
    ] {
        let refused = admin.post(KEYS, &body).await.problem(422, "validation_failed");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
    let reason = json!({"reason": "leaked"});
    for id in ["0198f3a6-c1f0-7d5a-b0c4-a2f3e1d2c3b4", "none"] {
        admin.post(&format!("{KEYS}/{id}/revoke"), &reason).await.problem(404, "not_found");
        get(&admin, &format!("{KEYS}/{id}")).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_every_process_and_only_its_holder_learns_why() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let (made, program) = created(&world, &["inbox:read"]).await;
    let everywhere: Vec<_> = names.iter().map(|name| program.at(&world, name)).collect();
    for program in &everywhere {
        eventually("the key is known to every process", async || {
            let answer = get(program, "/v1/inbox").await;
            (answer.status == 200).then_some(()).ok_or_else(|| answer.json())
        })
        .await;
    }
    let text = made["secret"].as_str().unwrap();
    let said = async |text: &str| {
        let answer = get(&world.visitor().with_token(text), "/v1/inbox").await;
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        answer.problem(401, "unauthenticated")["detail"].as_str().unwrap().to_owned()
    };
    let (stranger, mistyped) = (forged(text), format!("{}x", &text[..text.len() - 1]));
    assert!(said(&stranger).await.contains("not valid"));
    assert!(said(&mistyped).await.contains("mistyped"));

    let path = format!("{KEYS}/{}/revoke", made["id"].as_str().unwrap());
    let reason = json!({"reason": "found in a log file"});
    let revoked = world.admin().post(&path, &reason).await.expect(200);
    assert_eq!(revoked["status"], "revoked", "{revoked}");
    assert!(said(text).await.contains("revoked"), "at once where it was revoked");
    for program in &everywhere {
        eventually("the key is refused by every process", async || {
            let answer = get(program, "/v1/inbox").await;
            (answer.status == 401).then_some(()).ok_or(answer.status)
        })
        .await;
    }
    assert!(said(&stranger).await.contains("not valid"), "a stranger learns nothing");
    // Once more changes nothing.
    let again = world.admin().post(&path, &json!({"reason": "again"})).await.expect(200);
    assert_eq!(again["revoked_because"], "found in a log file", "{again}");
}

#[tokio::test]
async fn a_key_ends_when_it_says_so() {
    let world = InProcess::start().await;
    let end = chrono::Utc::now() + chrono::TimeDelta::seconds(3);
    let mut body = asked(&["fleet:read"]);
    body["expires_at"] = json!(end.to_rfc3339());
    let made = world.admin().post(KEYS, &body).await.expect(201);
    let program = world.visitor().with_token(made["secret"].as_str().unwrap());
    let refused = eventually("the key has expired", async || {
        let answer = get(&program, "/v1/cars").await;
        if answer.status == 200 {
            return Err(answer.status);
        }
        Ok(answer.problem(401, "unauthenticated"))
    })
    .await;
    assert!(chrono::Utc::now() >= end, "not before");
    assert!(refused["detail"].as_str().unwrap().contains("expired"), "{refused}");
    let list = get(&world.admin(), KEYS).await.expect(200);
    assert_eq!(list["data"][0]["status"], "expired");
}

#[tokio::test]
async fn reads_by_a_key_are_recorded_as_its_own() {
    let world = InProcess::with(&[("EXODRIVE_ACCESS_INTERVAL", "1s")]).await;
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
    world.settled().await;
    let (made, program) = created(&world, &["inbox:read"]).await;
    get(&program, "/v1/inbox/em-1").await.expect(200);
    let id = made["id"].as_str().unwrap();
    let row = eventually("the read is recorded", async || {
        let path = format!("/v1/audit/accesses?actor=key:{id}&resource=email");
        world.get(&path).await.expect(200)["data"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!((&row["key"], &row["count"]), (&"em-1".into(), &1.into()), "{row}");
}

#[tokio::test]
async fn each_key_has_a_rate_limit_of_its_own() {
    let world = InProcess::with(&[("EXODRIVE_RATE_LIMIT_ADMIN", "6/1h")]).await;
    let (_, one) = created(&world, &["fleet:read"]).await;
    let (_, other) = created(&world, &["fleet:read"]).await;
    for _ in 0..6 {
        get(&one, "/v1/cars").await.expect(200);
    }
    get(&one, "/v1/cars").await.problem(429, "rate_limited");
    get(&other, "/v1/cars").await.expect(200);
}

#[tokio::test]
async fn a_user_who_is_signed_out_is_refused_by_every_process_until_they_sign_in_again() {
    let world = InProcess::start().await;
    let names = world.serve_from(2).await;
    let before = [issued("ada", "auditor", now() - 60), issued("ada", "customer", now())];
    let everywhere: Vec<_> = names
        .iter()
        .flat_map(|name| {
            before.iter().map(|token| world.visitor().with_token(token).at(&world, name))
        })
        .collect();
    let (ben, silent) = (issued("ben", "auditor", now() - 60), world.user("ada", "auditor"));
    let path = "/v1/bookings";
    for client in &everywhere {
        get(client, path).await.expect(200);
    }
    get(&silent, path).await.expect(200);

    let (admin, retry) = (world.admin(), key());
    let reason = json!({"reason": "a lost phone"});
    let done = admin.post_as(&retry, "/v1/users/ada/sign-out", &reason).await.expect(200);
    assert_eq!((&done["object"], &done["user_id"]), (&"sign_out".into(), &"ada".into()), "{done}");
    let refused = get(&everywhere[0], path).await.problem(401, "unauthenticated");
    assert!(refused["detail"].as_str().unwrap().contains("signed out"), "at once: {refused}");
    for client in everywhere.iter().chain([&silent]) {
        eventually("the tokens are refused by every process", async || {
            let answer = get(client, path).await;
            (answer.status == 401).then_some(()).ok_or(answer.status)
        })
        .await;
    }
    let again = admin.post_as(&retry, "/v1/users/ada/sign-out", &reason).await.expect(200);
    assert_eq!(again["issued_before"], done["issued_before"], "a repeat signs nobody out again");
    // Tokens say the second only.
    for name in &names {
        let ada = world.visitor().with_token(&issued("ada", "auditor", now() + 1));
        get(&ada.at(&world, name), path).await.expect(200);
        get(&world.visitor().with_token(&ben).at(&world, name), path).await.expect(200);
    }
    // A program's token on the command line is refused as well.
    let erase = ["audit", "erase", "--email-address", "x@example.com", "--reason", "r", "--as"];
    let token = issued("ada", "operator", now() - 60);
    let output = world.exodrive(&[&erase[..], &[&token]].concat()).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("signed out"), "{said}");
    admin.post("/v1/users/a%0Ab/sign-out", &reason).await.problem(404, "not_found");
}

#[tokio::test]
async fn while_nobody_can_know_what_was_revoked_no_key_is_let_in_for_long() {
    let world = World::start().await;
    let (_, program) = created(&world, &["fleet:read"]).await;
    let admin = world.admin();
    get(&program, "/v1/cars").await.expect(200);
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    eventually("keys are refused", async || {
        let answer = get(&program, "/v1/cars").await;
        if answer.status == 200 {
            return Err(answer.status);
        }
        answer.problem(503, "identity_unavailable");
        assert!(!answer.header("retry-after").is_empty());
        Ok(())
    })
    .await;
    // Who is signed in goes on: nobody can be signed out while the log is away.
    get(&admin, "/v1/cars").await.expect(200);
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    eventually("keys are let in again", async || {
        let answer = get(&program, "/v1/cars").await;
        (answer.status == 200).then_some(()).ok_or(answer.status)
    })
    .await;
    assert!(!world.printed(API).contains("panicked"));
}

#[tokio::test]
async fn the_command_line_creates_lists_and_revokes_keys() {
    let world = InProcess::start().await;
    let create = ["keys", "create", "--name", "website", "--scope", "fleet:read"];
    let text = world.exodrive_prints(&create).await.trim().to_owned();
    let program = world.visitor().with_token(&text);
    eventually("the key is known", async || {
        let answer = get(&program, "/v1/cars").await;
        (answer.status == 200).then_some(()).ok_or(answer.status)
    })
    .await;
    let list = world.exodrive_prints(&["keys", "list", "--json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(list[0]["scopes"], json!(["fleet:read"]));
    let table = world.exodrive_prints(&["keys", "list"]).await;
    assert!(table.contains(id) && table.contains("active"), "{table}");

    let token = world.token("admin");
    let revoke = ["keys", "revoke", id, "--reason", "leaked", "--as", &token, "--json"];
    let revoked: Value = serde_json::from_str(&world.exodrive_prints(&revoke).await).unwrap();
    assert_eq!(revoked["revoked_by"], "admin:admin-user", "{revoked}");
    eventually("the key is refused", async || {
        let answer = get(&program, "/v1/cars").await;
        (answer.status == 401).then_some(()).ok_or(answer.status)
    })
    .await;
    let wrong = world.exodrive(&["keys", "create", "--name", "x", "--scope", "all"]).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("is no scope"));
    let operator = world.token("operator");
    let wrong = world.exodrive(&[&create[..], &["--as", &operator]].concat()).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("admin is needed"));
}
