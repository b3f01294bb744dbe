//! Who is let in by a token: secrets that nobody guesses, keys that the issuer publishes and
//! withdraws, and what a token must say.

use crate::in_process::InProcess;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use exodrive_tests::{Answer, TOKEN_SECRET, eventually, run};
use futures::future::join_all;
use reqwest::Method;
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::net::TcpListener;

const ISSUER: &str = "https://id.example.com";
const AUDIENCE: &str = "exodrive";
/// Age from which on a published key is not believed, in these tests.
const GREATEST_AGE: Duration = Duration::from_secs(3);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An identity provider: it publishes keys, and signs with any of them.
#[derive(Clone, Default)]
struct Issuer(Arc<Mutex<Published>>);

#[derive(Default)]
struct Published {
    /// The keys that are published; `None` during an outage.
    keys: Option<Vec<u8>>,
    fetches: usize,
}

impl Issuer {
    /// Starts it; gives its address too.
    async fn start(keys: Option<&[u8]>) -> (Self, String) {
        let issuer = Self::default();
        issuer.publish(keys);
        let app = Router::new().route("/jwks.json", get(Self::answer)).with_state(issuer.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (issuer, url)
    }

    async fn answer(State(issuer): State<Self>) -> (StatusCode, String) {
        let mut published = issuer.0.lock().unwrap();
        published.fetches += 1;
        let Some(keys) = &published.keys else {
            return (StatusCode::BAD_GATEWAY, "out of order".to_owned());
        };
        let keys: Vec<_> = keys.iter().map(|key| jwk(*key)).collect();
        (StatusCode::OK, json!({ "keys": keys }).to_string())
    }

    /// Publishes these keys and no other, or begins an outage.
    fn publish(&self, keys: Option<&[u8]>) {
        self.0.lock().unwrap().keys = keys.map(<[u8]>::to_vec);
    }

    fn fetches(&self) -> usize {
        self.0.lock().unwrap().fetches
    }
}

fn pair(key: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[key; 32]).unwrap()
}

fn jwk(key: u8) -> Value {
    let public = B64.encode(pair(key).public_key());
    json!({"kty": "OKP", "crv": "Ed25519", "kid": format!("key-{key}"), "x": public})
}

/// What stands before the signature of a token.
fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()))
}

/// A token of an admin, signed by this key, and named after another one if `kid` says so.
fn signed_by(key: u8, kid: &str) -> String {
    let claims = json!({
        "sub": "someone", "exp": now() + 600, "iss": ISSUER, "aud": AUDIENCE,
        "app_metadata": {"role": "admin"},
    });
    let text = unsigned(&json!({"alg": "EdDSA", "kid": kid}), &claims);
    let signature = B64.encode(pair(key).sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn token(key: u8) -> String {
    signed_by(key, &format!("key-{key}"))
}

async fn trusting(url: &str, settings: &[(&str, &str)]) -> InProcess {
    let trust = [
        ("EXODRIVE_JWT_JWKS", url),
        ("EXODRIVE_JWT_ALGORITHM", "EdDSA"),
        ("EXODRIVE_JWT_ISSUER", ISSUER),
        ("EXODRIVE_JWT_AUDIENCE", AUDIENCE),
        ("EXODRIVE_JWT_JWKS_MAX_AGE", "3s"),
    ];
    InProcess::with(&[&trust, settings].concat()).await
}

async fn inbox(world: &InProcess, token: &str) -> Answer {
    let request = world.request(Method::GET, "/v1/inbox").bearer_auth(token);
    Answer::of(request).await.unwrap()
}

async fn becomes(world: &InProcess, what: &str, token: &str, status: u16) {
    eventually(what, async || {
        let answer = inbox(world, token).await.status;
        if answer == status { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_withdrawn_key_is_not_believed_for_long_though_its_successor_was_published_before() {
    let (issuer, url) = Issuer::start(Some(&[1])).await;
    let world = trusting(&url, &[("EXODRIVE_JWT_JWKS_REFRESH", "1s")]).await;
    inbox(&world, &token(1)).await.expect(200);
    inbox(&world, &signed_by(2, "key-1")).await.problem(401, "unauthenticated");

    // Rotation: the successor is published first, and nobody is kept out at any time.
    issuer.publish(Some(&[1, 2]));
    becomes(&world, "the successor is believed", &token(2), 200).await;
    inbox(&world, &token(1)).await.expect(200);

    // No token with an unknown key comes that could cause a fetch.
    let withdrawn = token(1);
    inbox(&world, &withdrawn).await.expect(200);
    issuer.publish(Some(&[2]));
    tokio::time::sleep(GREATEST_AGE).await;
    for one in [withdrawn, token(1)] {
        inbox(&world, &one).await.problem(401, "unauthenticated");
    }
    inbox(&world, &token(2)).await.expect(200);
}

#[tokio::test]
async fn an_outage_of_the_identity_provider_is_told_as_such() {
    let (issuer, url) = Issuer::start(None).await;
    let world = trusting(&url, &[("EXODRIVE_JWT_JWKS_REFRESH", "500ms")]).await;
    let refused = inbox(&world, &token(1)).await;
    refused.problem(503, "identity_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    inbox(&world, "garbage").await.problem(401, "unauthenticated");
    let visitor = Answer::of(world.request(Method::GET, "/v1/cars")).await.unwrap();
    visitor.expect(200);

    issuer.publish(Some(&[1]));
    becomes(&world, "the keys are read when they can be", &token(1), 200).await;
    // The keys that were read are believed for a while, and no longer.
    let believed = token(1);
    inbox(&world, &believed).await.expect(200);
    issuer.publish(None);
    inbox(&world, &believed).await.expect(200);
    tokio::time::sleep(GREATEST_AGE).await;
    for one in [believed, token(1)] {
        inbox(&world, &one).await.problem(503, "identity_unavailable");
    }
    issuer.publish(Some(&[1]));
    becomes(&world, "it recovers by itself", &token(1), 200).await;
}

#[tokio::test]
async fn forty_unknown_keys_at_once_cause_one_fetch() {
    let (issuer, url) = Issuer::start(Some(&[1])).await;
    // Nothing but an unknown key causes a fetch during the test.
    let ages = [("EXODRIVE_JWT_JWKS_REFRESH", "4m"), ("EXODRIVE_JWT_JWKS_MAX_AGE", "15m")];
    let world = trusting(&url, &ages).await;
    inbox(&world, &token(1)).await.expect(200);
    assert_eq!(issuer.fetches(), 1);
    let strangers = (0..40).map(|n| signed_by(9, &format!("stranger-{n}")));
    let strangers: Vec<_> = strangers.collect();
    for answer in join_all(strangers.iter().map(|token| inbox(&world, token))).await {
        answer.problem(401, "unauthenticated");
    }
    assert_eq!(issuer.fetches(), 2);
    // Nor does the next one, a moment later.
    inbox(&world, &signed_by(9, "one more")).await.problem(401, "unauthenticated");
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_key_that_is_published_just_now_is_believed_at_once() {
    let (issuer, url) = Issuer::start(Some(&[1])).await;
    let ages = [("EXODRIVE_JWT_JWKS_REFRESH", "4m"), ("EXODRIVE_JWT_JWKS_MAX_AGE", "15m")];
    let world = trusting(&url, &ages).await;
    inbox(&world, &token(1)).await.expect(200);
    issuer.publish(Some(&[2]));
    inbox(&world, &token(2)).await.expect(200);
    inbox(&world, &token(1)).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_token_says_who_for_how_long_and_nothing_that_is_not_understood() {
    let world = InProcess::start().await;
    let day = 24 * 3_600;
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let claims = json!({
        "sub": "someone", "exp": now() + 600, "app_metadata": {"role": "auditor"},
    });
    let with = |base: &Value, changes: Value| {
        let mut changed = base.clone();
        changed.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        changed
    };
    let table = [
        ("nothing special", json!({}), json!({}), 200),
        ("a day long", json!({}), json!({"iat": now(), "exp": now() + day}), 200),
        ("longer", json!({}), json!({"iat": now(), "exp": now() + day + 60}), 401),
        ("longer, begun before", json!({}), json!({"iat": now() - day, "exp": now() + 60}), 401),
        ("longer, no begin", json!({}), json!({"exp": now() + day + 60}), 401),
        ("for ever", json!({}), json!({"exp": u64::MAX}), 401),
        (
            "a begin in the future",
            json!({}),
            json!({"iat": now() + 9 * day, "exp": now() + 9 * day + 60}),
            401,
        ),
        ("something critical", json!({"crit": ["b64"], "b64": false}), json!({}), 401),
        ("nothing critical", json!({"crit": []}), json!({}), 401),
        ("nobody", json!({}), json!({"sub": ""}), 401),
        ("a line feed in the id", json!({}), json!({"sub": "some\none"}), 401),
        ("255 characters", json!({}), json!({"sub": "u".repeat(255)}), 200),
        ("256 characters", json!({}), json!({"sub": "u".repeat(256)}), 401),
        ("no text", json!({}), json!({"sub": 7}), 401),
    ];
    let key = hmac::Key::new(hmac::HMAC_SHA256, TOKEN_SECRET.as_bytes());
    for (what, header_changes, claim_changes, status) in table {
        let text = unsigned(&with(&header, header_changes), &with(&claims, claim_changes));
        let token = format!("{text}.{}", B64.encode(hmac::sign(&key, text.as_bytes())));
        assert_eq!(inbox(&world, &token).await.status, status, "{what}");
    }

    // `exodrive token` makes none that would be refused.
    let made = world.exodrive(&["token", "--role", "auditor", "--ttl", "25h"]).await;
    assert_eq!(made.status.code(), Some(1));
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(said.contains("EXODRIVE_JWT_MAX_LIFETIME"), "{said}");
}

#[tokio::test]
async fn who_sends_requests_is_not_in_redis_in_clear() {
    // So slow that Redis remembers each request until the end of the test.
    let slow = [
        ("EXODRIVE_RATE_LIMIT_PUBLIC", "100/1h"),
        ("EXODRIVE_RATE_LIMIT_ADMIN", "100/1h"),
        ("EXODRIVE_RATE_LIMIT_SIGNED_IN", "100/1h"),
    ];
    let world = InProcess::with(&slow).await;
    for role in ["customer", "auditor"] {
        let cars = world.request(Method::GET, "/v1/cars");
        let cars = cars.bearer_auth(world.token_of(&"é:someone ".repeat(25), role));
        Answer::of(cars).await.unwrap().problem(401, "unauthenticated");
        let cars = world.request(Method::GET, "/v1/cars").bearer_auth(world.token(role));
        Answer::of(cars).await.unwrap().expect(200);
    }
    let redis = redis::Client::open(world.redis()).unwrap();
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    let names: Vec<String> =
        redis::cmd("KEYS").arg("exo:limit:*").query_async(&mut connection).await.unwrap();
    assert_eq!(names.len(), 3, "{names:?}");
    // Whoever reads Redis cannot try all users and addresses.
    let guessed = ["customer-user", "auditor-user", "customer", "auditor", "127.0.0.1"]
        .map(|who| ring::digest::digest(&ring::digest::SHA256, who.as_bytes()))
        .map(|hash| hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    for name in names {
        let who = name.rsplit(':').next().unwrap();
        assert!(!guessed.iter().any(|guess| guess == who), "{name}");
        let is_hash = who.len() == 64 && who.chars().all(|digit| digit.is_ascii_hexdigit());
        assert!(is_hash, "{name}");
    }
}

/// A start with this setting ends with an error that names it and does not show it.
async fn is_refused(command: &str, env: &[(String, String)], name: &str, value: &str) {
    let mut env = env.to_vec();
    env.retain(|(known, _)| known != name);
    env.push((name.to_owned(), value.to_owned()));
    let done = run(&[command], &env).await;
    assert!(!done.status.success(), "{command} with {name}={value:?}");
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(name), "{command} with {name}={value:?}: {said}");
    let shown = value.split(',').any(|part| part.trim().len() > 4 && said.contains(part));
    assert!(!shown, "{command} with {name}={value:?}: {said}");
}

#[tokio::test]
async fn a_secret_that_is_empty_or_can_be_guessed_is_refused_by_name() {
    let world = InProcess::start().await;
    let file = world.folder().join("keys");
    std::fs::write(&file, "1:c2VjcmV0\n").unwrap();
    let file = file.to_str().unwrap();
    let of_both: &[_] = &["up", "serve", "work"];
    let of_the_api: &[_] = &["up", "serve"];
    let wrong: [(&str, &[&str], &[&str]); 5] = [
        ("EXODRIVE_JWT_SECRET", &["hunter2hunter2", "31 bytes are one byte too few.."], of_the_api),
        ("EXODRIVE_LINK_SECRET", &["hunter2hunter2"], of_the_api),
        (
            "EXODRIVE_RESEND_WEBHOOK_SECRETS",
            &[
                "hunter2hunter2",
                "whsec_c2VjcmV0c2VjcmV0",
                ",",
                "whsec_ZTJlIHdlYmhvb2sgc2VjcmV0IG9mIDMyIGJ5dGVzISE=,",
            ],
            of_the_api,
        ),
        ("EXODRIVE_DATA_KEYS", &["hunter2hunter2", "1:c2VjcmV0"], of_both),
        ("EXODRIVE_SEAL_KEYS", &["hunter2hunter2", "c2VjcmV0", ","], &["up", "work"]),
    ];
    for (name, values, commands) in wrong {
        for value in ["", "   "].iter().chain(values) {
            for command in commands {
                is_refused(command, world.env(), name, value).await;
            }
        }
    }
    let mut env = world.env().to_vec();
    env.retain(|(name, _)| name != "EXODRIVE_DATA_KEYS");
    env.push(("EXODRIVE_DATA_KEYS_FILE".to_owned(), file.to_owned()));
    for command in of_both {
        let done = run(&[command], &env).await;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains("EXODRIVE_DATA_KEYS_FILE"), "{said}");
    }
}

#[tokio::test]
async fn published_keys_need_an_issuer_and_an_audience() {
    let world = InProcess::start().await;
    let mut env = world.env().to_vec();
    env.retain(|(name, _)| name != "EXODRIVE_JWT_SECRET");
    let complete = [
        ("EXODRIVE_JWT_JWKS", "http://127.0.0.1:9/jwks.json"),
        ("EXODRIVE_JWT_ISSUER", ISSUER),
        ("EXODRIVE_JWT_AUDIENCE", AUDIENCE),
    ];
    env.extend(complete.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for command in ["up", "serve"] {
        for name in ["EXODRIVE_JWT_ISSUER", "EXODRIVE_JWT_AUDIENCE"] {
            is_refused(command, &env, name, "").await;
            let without: Vec<_> = env.iter().filter(|(known, _)| known != name).cloned().collect();
            let done = run(&[command], &without).await;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success() && said.contains(name), "{said}");
        }
        is_refused(command, &env, "EXODRIVE_JWT_JWKS_REFRESH", "0s").await;
    }
}
