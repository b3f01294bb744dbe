//! Headers that keep an answer from being kept, guessed at, framed or told on: on every route.

use crate::in_process::InProcess;
use exodrive_tests::{Answer, Delivery, day, email_body};
use reqwest::{Method, header::HeaderMap};

/// Routes that show nothing personal, and say themselves how long their answers may be kept.
const KEPT: [&str; 4] = ["/v1/cars", "/v1/audit/checkpoint", "/v1/audit/keys", "/v1/audit/tile"];

fn is_safe(headers: &HeaderMap, path: &str, what: &str) {
    let header = |name| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header("referrer-policy"), "no-referrer", "{what}");
    assert!(header("content-security-policy").contains("frame-ancestors 'none'"), "{what}");
    let kept = header("cache-control");
    let may_be_kept = KEPT.iter().any(|known| path.starts_with(known));
    assert!(kept == "no-store" || may_be_kept && !kept.is_empty(), "{what}: {kept}");
}

#[tokio::test]
async fn every_answer_says_that_it_is_not_kept_guessed_at_framed_or_told_on() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let booking = admin.booked(&car, day(0), day(1)).await;
    let customer = booking["customer_id"].as_str().unwrap().to_owned();
    let body = email_body("sent", "em-1", "2026-11-20T09:00:00Z", "");
    world.stored(&Delivery::new("msg_1", body)).await;
    world.settled().await;
    let booking = booking["id"].as_str().unwrap().to_owned();
    let filled = |path: &str| {
        let step = |step: &str| match step {
            "{email_id}" => "em-1".to_owned(),
            step if step.starts_with('{') && path.starts_with("/v1/cars") => car.clone(),
            step if step.starts_with('{') && path.starts_with("/v1/bookings") => booking.clone(),
            step if step.starts_with('{') && path.starts_with("/v1/customers") => customer.clone(),
            step if step.starts_with('{') => "1".to_owned(),
            step => step.to_owned(),
        };
        path.split('/').map(step).collect::<Vec<_>>().join("/")
    };
    let description = world.get("/v1/openapi.json").await.expect(200);
    let (mut answers, mut shown) = (0, 0);
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            for role in [None, Some("admin"), Some("auditor")] {
                let request = world.request(method.clone(), &filled(path));
                let request =
                    role.iter().fold(request, |it, role| it.bearer_auth(world.token(role)));
                let answer = Answer::of(request).await.unwrap();
                is_safe(
                    &answer.headers,
                    path,
                    &format!("{method} {path} as {role:?}: {}", answer.status),
                );
                answers += 1;
                shown += usize::from(answer.status == 200);
            }
        }
    }
    assert!(answers > 200 && shown > 50, "{answers} answers, {shown} of them show something");
    for path in ["/", "/v2"] {
        let answer = Answer::of(world.request(Method::GET, path)).await.unwrap();
        is_safe(&answer.headers, path, path);
    }
    // The contract does not describe the documentation's page.
    let style = world.request(Method::GET, "/docs/swagger-ui.css").send().await.unwrap();
    is_safe(style.headers(), "/docs", "a style of the documentation");
    let page = world.request(Method::GET, "/docs/").send().await.unwrap();
    is_safe(page.headers(), "/docs", "the documentation");
    assert_eq!(page.status().as_u16(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self';"),
        "{policy}"
    );
    let page = page.text().await.unwrap();
    let inline = page.split("<script").skip(1).filter(|script| !script.contains("src="));
    assert_eq!(inline.count(), 0, "the page has no script of its own: {page}");
}

#[tokio::test]
async fn pages_of_the_origins_that_are_named_may_ask_and_no_others() {
    let own = "https://www.example.com";
    let named = InProcess::with(&[("EXODRIVE_CORS_ORIGINS", own)]).await;
    let unnamed = InProcess::start().await;
    for (world, origin, may) in [
        (&named, own, true),
        (&named, "https://www.example.com.evil.example", false),
        (&named, "null", false),
        (&unnamed, own, false),
    ] {
        let asked = world
            .request(Method::OPTIONS, "/v1/bookings")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,idempotency-key");
        let read = world.request(Method::GET, "/v1/cars").header("origin", origin);
        for request in [asked, read] {
            let answer = request.send().await.unwrap();
            let allowed = answer.headers().get("access-control-allow-origin");
            assert_eq!(allowed.is_some_and(|it| it == origin), may, "{origin}: {answer:?}");
            assert!(allowed.is_none_or(|it| it != "*"), "{origin}");
            assert!(answer.headers().get("access-control-allow-credentials").is_none());
        }
    }
}
