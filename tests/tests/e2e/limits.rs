//! Rate limits: every tier, the answers that callers get, and the identity that a request counts
//! for.

use crate::{in_process::InProcess, seal::sealed};
use exodrive_runtime::services::Service;
use exodrive_tests::{API, Answer, Delivery, World, email_body, eventually};
use futures::{StreamExt, stream};
use reqwest::Method;

/// One more request after this many that were not limited.
async fn limited_after(
    allowed: u32,
    policy: &str,
    request: impl Fn() -> reqwest::RequestBuilder,
) -> Answer {
    for n in 1..=allowed {
        let answer = Answer::of(request()).await.unwrap();
        assert_ne!(answer.status, 429, "{policy}: request {n}");
        assert_eq!(answer.header("ratelimit-policy"), policy);
        let (_, state) = answer.header("ratelimit").split_once(';').unwrap();
        let left = format!("r={};", allowed - n);
        assert!(state.starts_with(&left), "{policy}: {state} after {n}");
    }
    let answer = Answer::of(request()).await.unwrap();
    answer.problem(429, "rate_limited");
    assert_eq!(answer.header("ratelimit-policy"), policy);
    answer
}

#[tokio::test]
async fn every_tier_is_limited_by_its_own_rate_and_verified_webhooks_by_none() {
    let world = World::with(&[
        ("EXODRIVE_RATE_LIMIT_PUBLIC", "5/1h"),
        ("EXODRIVE_RATE_LIMIT_SIGNED_IN", "4/1h"),
        ("EXODRIVE_RATE_LIMIT_ADMIN", "6/1h"),
        ("EXODRIVE_RATE_LIMIT_FAILED_WEBHOOK", "3/1h"),
        ("EXODRIVE_TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.1/32"),
    ])
    .await;
    let from = |address: &'static str, path: &str| {
        world.request(Method::GET, path).header("x-forwarded-for", address)
    };

    // Without a token: by address, for any path.
    let public = "\"public\";q=5;w=3600";
    let refused = limited_after(5, public, || from("198.51.100.1", "/v1/inbox")).await;
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=720).contains(&seconds), "one more in a fifth of the hour: {seconds}");
    Answer::of(from("198.51.100.1", "/v1/nothing")).await.unwrap().problem(429, "rate_limited");
    let behind_proxy = from("198.51.100.2, 10.1.2.3", "/v1/inbox");
    assert_eq!(Answer::of(behind_proxy).await.unwrap().status, 401, "another address");
    // An invalid token counts as no token.
    limited_after(5, public, || from("198.51.100.3", "/v1/inbox").bearer_auth("garbage")).await;
    // An IPv6 user has a whole /64.
    limited_after(5, public, || {
        let address = format!("2001:db8::{:x}", rand::random::<u16>());
        world.request(Method::GET, "/v1/inbox").header("x-forwarded-for", address)
    })
    .await;

    // With a token: by user, from any address.
    let by_user = |subject: &'static str, role: &'static str| {
        let (world, token) = (&world, world.token_of(subject, role));
        move || {
            let address = format!("203.0.113.{}", rand::random::<u8>());
            world
                .request(Method::GET, "/v1/inbox")
                .header("x-forwarded-for", address)
                .bearer_auth(&token)
        }
    };
    limited_after(4, "\"signed-in\";q=4;w=3600", by_user("one", "customer")).await;
    limited_after(4, "\"signed-in\";q=4;w=3600", by_user("two", "customer")).await;
    limited_after(6, "\"admin\";q=6;w=3600", by_user("three", "admin")).await;
    limited_after(6, "\"admin\";q=6;w=3600", by_user("four", "operator")).await;

    // Webhooks: rejected ones by address; verified ones are never limited.
    let unsigned = || {
        world
            .request(Method::POST, "/v1/webhooks/resend")
            .header("x-forwarded-for", "198.51.100.9")
            .body("{}")
    };
    let refused = limited_after(3, "\"failed-webhook\";q=3;w=3600", unsigned).await;
    assert!(!refused.header("retry-after").is_empty());
    for n in 0..20 {
        let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
        let delivery = Delivery::new(format!("msg_{n}"), body);
        let request = world.delivery(&delivery).header("x-forwarded-for", "198.51.100.9");
        assert_eq!(Answer::of(request).await.unwrap().status, 200);
    }

    // The count is not in the process that counts.
    world.kill(API);
    world.start_api();
    world.wait_until("ready").await;
    let again = Answer::of(from("198.51.100.1", "/v1/inbox")).await.unwrap();
    again.problem(429, "rate_limited");
}

#[tokio::test]
async fn while_redis_is_down_each_process_counts_for_itself() {
    let world = World::with(&[
        ("EXODRIVE_RATE_LIMIT_PUBLIC", "5/1h"),
        ("EXODRIVE_RATE_LIMIT_FAILED_WEBHOOK", "3/1h"),
    ])
    .await;
    world.services.stop_service(Service::Redis).await.unwrap();
    world.wait_until("degraded").await;
    limited_after(5, "\"public\";q=5;w=3600", || world.request(Method::GET, "/v1/inbox")).await;
    let unsigned = || world.request(Method::POST, "/v1/webhooks/resend").body("{}");
    limited_after(3, "\"failed-webhook\";q=3;w=3600", unsigned).await;
    world.stored(&Delivery::new("msg_1", "{}")).await;
}

/// An export by this user from this process.
async fn exported(world: &World, user: &str, process: &str) -> Answer {
    let request = world.request_to(process, Method::GET, "/v1/audit/export");
    Answer::of(request.bearer_auth(world.token_of(user, "auditor"))).await.unwrap()
}

#[tokio::test]
async fn exports_have_a_budget_a_day_over_all_processes() {
    const OTHER: &str = "serve-2";
    const DAY: u64 = 86_400;
    /// Of about 4 MiB with their base64.
    const EVENTS: u64 = 5;
    let settings = [("EXODRIVE_EXPORT_BUDGET", "3"), ("EXODRIVE_EXPORT_BUDGET_TOTAL", "6")];
    let world = World::with(&settings).await;
    world.start_api_as(OTHER);
    let body = format!(r#"{{"filling":"{}"}}"#, "a".repeat(600 << 10));
    for n in 0..EVENTS {
        world.stored(&Delivery::new(format!("msg_{n}"), body.clone())).await;
    }
    sealed(&world, EVENTS).await;
    let whole = |answer: &Answer| {
        assert_eq!(answer.status, 200);
        assert!(answer.body.ends_with(b"}\n") && answer.body.len() > 3 << 20);
        let end = answer.body.trim_ascii().rsplit(|byte| *byte == b'\n').next().unwrap();
        assert!(String::from_utf8_lossy(end).contains(r#""object":"end""#), "it comes to its end");
    };
    let refused = |answer: &Answer, who: &str| {
        let detail = answer.problem(429, "rate_limited")["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(who), "{detail}");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=DAY).contains(&wait), "{wait}");
        let free = detail.rsplit(' ').next().unwrap().trim_end_matches('.');
        let free = exodrive_domain::time::parse(free).unwrap() - chrono::Utc::now();
        assert!(free.num_seconds().abs_diff(wait as i64) < 60, "{detail}, in {wait} s");
    };
    let ada = exported(&world, "ada", API).await;
    whole(&ada);
    assert!(ada.header("ratelimit-policy").contains(r#""export";q=3;w=86400"#));
    for process in [API, OTHER] {
        refused(&exported(&world, "ada", process).await, "You have exported");
        let request =
            world.request_to(process, Method::GET, "/v1/audit/history?since=2020-01-01T00:00:00Z");
        let lines = request.header("accept", "application/x-ndjson");
        let lines = Answer::of(lines.bearer_auth(world.token_of("ada", "auditor"))).await.unwrap();
        refused(&lines, "You have exported");
    }
    whole(&exported(&world, "bob", OTHER).await);
    refused(&exported(&world, "cyd", API).await, "All users together");
    // A page is no export.
    let page = world.request(Method::GET, "/v1/audit/events?limit=1");
    let page = Answer::of(page.bearer_auth(world.token_of("ada", "auditor"))).await.unwrap();
    page.expect(200);

    // Without Redis each process counts for itself, from nothing.
    world.services.stop_service(Service::Redis).await.unwrap();
    world.wait_until("degraded").await;
    for process in [API, OTHER] {
        whole(&exported(&world, "ada", process).await);
        refused(&exported(&world, "ada", process).await, "You have exported");
    }
}

#[tokio::test]
async fn without_a_trusted_proxy_no_client_can_pose_as_another_and_limits_recover() {
    let world = InProcess::with(&[
        ("EXODRIVE_RATE_LIMIT_PUBLIC", "5/1h"),
        ("EXODRIVE_RATE_LIMIT_ADMIN", "2/1s"),
    ])
    .await;
    limited_after(5, "\"public\";q=5;w=3600", || {
        let address = format!("198.51.100.{}", rand::random::<u8>());
        world.request(Method::GET, "/v1/inbox").header("x-forwarded-for", address)
    })
    .await;

    eventually("two quick requests use the limit up", async || {
        let answer = world.get_as("admin", "/v1/inbox").await;
        (answer.status == 429).then(|| assert_eq!(answer.header("retry-after"), "1"))
    })
    .await;
    eventually("a request is allowed again", async || {
        (world.get_as("admin", "/v1/inbox").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_requests_at_once_are_counted_exactly() {
    let world = InProcess::with(&[("EXODRIVE_RATE_LIMIT_ADMIN", "300/1h")]).await;
    let token = world.token_of("hasty", "admin");
    let one = async || {
        let request = world.request(Method::GET, "/v1/inbox/em-1").bearer_auth(&token);
        Answer::of(request).await.unwrap().status
    };
    let statuses: Vec<u16> =
        stream::iter(0..500).map(|_| one()).buffer_unordered(64).collect().await;
    let allowed = statuses.iter().filter(|status| **status != 429).count();
    // One more comes every 12 s.
    assert!((300..=302).contains(&allowed), "{allowed} of 300 went on");
}
