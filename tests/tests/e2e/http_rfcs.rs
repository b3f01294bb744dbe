//! HTTP by its RFCs: media types, conditional requests, proxies, heads, `Accept`, and who is asked
//! for a token before what they ask is looked at.

use crate::in_process::InProcess;
use exodrive_tests::{Answer, Client, Delivery, System, day, email_body};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The answer to these bytes on a connection of their own, byte for byte. The connection's writing
/// side stays open.
async fn answer_to(world: &System, sent: &[u8]) -> Answer {
    let began = Instant::now();
    let mut stream = TcpStream::connect(world.address(exodrive_tests::API)).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut read = Vec::new();
    let whole = async {
        loop {
            if let Some(answer) = parsed(&read, began) {
                return answer;
            }
            let mut part = [0; 4096];
            let length = stream.read(&mut part).await.unwrap();
            let so_far = String::from_utf8_lossy(&read).into_owned();
            assert!(length > 0, "the connection ended after {so_far:?}");
            read.extend_from_slice(&part[..length]);
        }
    };
    tokio::time::timeout(Duration::from_secs(5), whole).await.expect("an answer within 5 s")
}

/// A whole answer with its length.
fn parsed(read: &[u8], began: Instant) -> Option<Answer> {
    let end = read.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&read[..end]).unwrap();
    let body = &read[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let length: usize = headers.get("content-length")?.to_str().unwrap().parse().unwrap();
    (body.len() == length).then(|| Answer {
        status,
        headers,
        body: body.to_vec().into(),
        took: began.elapsed(),
    })
}

/// A GET of the list of cars with these header lines and no others.
async fn cars_with(world: &System, lines: &str) -> Answer {
    answer_to(world, format!("GET /v1/cars HTTP/1.1\r\n{lines}\r\n").as_bytes()).await
}

fn with_lines(request: reqwest::RequestBuilder, lines: &[(&str, &str)]) -> reqwest::RequestBuilder {
    lines.iter().fold(request, |it, (name, value)| it.header(*name, *value))
}

async fn sent(request: reqwest::RequestBuilder, lines: &[(&str, &str)]) -> Answer {
    Answer::of(with_lines(request, lines)).await.unwrap()
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_sender_is_counted_for_themselves() {
    let world = InProcess::with(&[
        ("EXODRIVE_RATE_LIMIT_PUBLIC", "1/1h"),
        ("EXODRIVE_TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8"),
    ])
    .await;
    // Each line is the first request of its sender, and the next one is the second.
    for (first, second) in [
        (("x-forwarded-for", "203.0.113.1:4711"), ("x-forwarded-for", "203.0.113.1:4712")),
        (("x-forwarded-for", "[2001:db8:0:2::1]:4711"), ("x-forwarded-for", "2001:db8:0:2::9")),
        (("x-forwarded-for", "::ffff:203.0.113.3"), ("x-forwarded-for", "203.0.113.3")),
        (("forwarded", "for=203.0.113.4"), ("forwarded", "For=\"203.0.113.4:80\";proto=https")),
        (("forwarded", "for=\"[2001:db8:0:5::1]:4711\""), ("x-forwarded-for", "2001:db8:0:5::1")),
        (
            ("forwarded", "for=6.6.6.6, for=203.0.113.6, for=10.1.2.3"),
            ("forwarded", "for=203.0.113.6"),
        ),
        // These say no address: they count for the proxy that has written them.
        (("forwarded", "for=_hidden, for=10.0.0.7"), ("forwarded", "for=unknown, for=10.0.0.7")),
    ] {
        let cars = || world.request(Method::GET, "/v1/cars");
        assert_eq!(sent(cars(), &[first]).await.status, 200, "{first:?}");
        sent(cars(), &[second]).await.problem(429, "rate_limited");
    }
    // If both are there, they have to agree.
    let both = |x, standard| {
        let lines = [("x-forwarded-for", x), ("forwarded", standard)];
        let request = with_lines(world.request(Method::GET, "/v1/cars"), &lines);
        async move { Answer::of(request).await.unwrap().status }
    };
    assert_eq!(both("203.0.113.20", "for=\"203.0.113.20:1\"").await, 200);
    assert_eq!(both("203.0.113.21", "for=6.6.6.1").await, 200, "the first for the proxy");
    assert_eq!(both("203.0.113.22", "for=6.6.6.2").await, 429, "the second for the proxy");
}

/// A car with a booking, and its client.
async fn booked(world: &System) -> (Client, String, Value) {
    let admin = world.admin();
    let car = admin.add_car("one", 100_000).await;
    let booking = admin.booked(&car, day(0), day(2)).await;
    world.settled().await;
    (admin, car, booking)
}

#[tokio::test]
async fn if_match_compares_strongly_in_any_list() {
    let world = InProcess::start().await;
    let (admin, car, booking) = booked(&world).await;
    let booking = format!("/v1/bookings/{}", booking["id"].as_str().unwrap());
    let car = format!("/v1/cars/{car}");
    for (path, command, body) in [
        (&booking, format!("{booking}/notes"), json!({"text": "x"})),
        (&car, format!("{car}/price"), json!({"base_per_day_cents": 0})),
    ] {
        let mut price = 100_000;
        let mut command = async |tag: &dyn Fn(&str) -> Vec<String>| {
            world.settled().await;
            let etag = admin.get(path).await.header("etag").to_owned();
            assert!(etag.starts_with('"'), "a strong tag: {etag}");
            let mut body = body.clone();
            let mut request = admin.request(Method::POST, &command);
            if path == &car {
                price += 1;
                body["base_per_day_cents"] = price.into();
                request = admin.request(Method::PUT, &command);
            }
            let lines = tag(&etag);
            let lines: Vec<_> = lines.iter().map(|line| ("if-match", line.as_str())).collect();
            sent(request.json(&body), &lines).await
        };
        let line = |text: String| vec![text];
        // One tag for each representation: the answer has the one with which it is read.
        let changed = command(&|etag| line(etag.to_owned())).await;
        changed.expect(200);
        let position: u64 = changed.header("exodrive-position").parse().unwrap();
        let read = admin.get_from(position, path).await;
        assert_eq!(changed.header("etag"), read.header("etag"), "{path}");
        command(&|etag| line(format!("\"1\", {etag}"))).await.expect(200);
        command(&|etag| line(format!("W/\"a,b\",,\t{etag} ,"))).await.expect(200);
        command(&|etag| vec!["\"foreign\"".to_owned(), etag.to_owned()]).await.expect(200);
        command(&|_| line("*".to_owned())).await.expect(200);
        for other in [
            (|etag| format!("W/{etag}")) as fn(&str) -> String,
            |etag| format!("{}-gzip\"", etag.trim_end_matches('"')),
            |etag| format!("\"foreign-{}", etag.trim_start_matches('"')),
            |etag| format!("\"{}\"", etag.trim_matches('"').replace('-', ",")),
            |_| "\"1\"".to_owned(),
            |_| String::new(),
        ] {
            let answer = command(&|etag| line(other(etag))).await;
            assert!(answer.problem(412, "stale")["current"]["object"].is_string());
        }
        for wrong in ["yesterday", "\"1", "*, \"1\"", "\"1\" \"2\"", "w/\"1\""] {
            let problem =
                command(&|_| line(wrong.to_owned())).await.problem(400, "invalid_request");
            assert_eq!(problem["errors"][0]["pointer"], "If-Match", "{wrong}");
        }
        // A read is conditional as well.
        let read =
            async |tag: &str| sent(admin.request(Method::GET, path), &[("if-match", tag)]).await;
        let etag = admin.get(path).await.header("etag").to_owned();
        read(&etag).await.expect(200);
        read("*").await.expect(200);
        read("\"1\"").await.problem(412, "stale");
        read(&format!("W/{etag}")).await.problem(412, "stale");
        read("1").await.problem(400, "invalid_request");
    }
    // What has no tag matches none; and no command ignores a condition.
    let new = json!({"slug": "two", "name": "Two", "category": "Supercar"});
    let create = || admin.request(Method::POST, "/v1/cars").json(&new);
    sent(create(), &[("if-match", "\"1\"")]).await.problem(412, "stale");
    sent(create(), &[("if-none-match", "*")]).await.problem(400, "invalid_request");
    sent(create(), &[("if-match", "*")]).await.expect(201);
}

#[tokio::test]
async fn every_read_with_a_tag_is_answered_304_by_it() {
    let world = InProcess::start().await;
    let (admin, car, booking) = booked(&world).await;
    let posted = Delivery::new("msg_1", email_body("sent", "em-1", "2026-11-20T09:00:00Z", ""));
    world.stored(&posted).await;
    world.settled().await;
    let booking = format!("/v1/bookings/{}", booking["id"].as_str().unwrap());
    for path in [
        booking.clone(),
        format!("/v1/cars/{car}"),
        format!("/v1/cars/{car}/calendar"),
        "/v1/inbox/em-1".to_owned(),
    ] {
        let read =
            async |lines: &[(&str, &str)]| sent(admin.request(Method::GET, &path), lines).await;
        let whole = read(&[]).await;
        whole.expect(200);
        let etag = whole.header("etag");
        for lines in [
            &[("if-none-match", etag)][..],
            &[("if-none-match", &format!("W/{etag}"))],
            &[("if-none-match", &format!("\"a,b\", W/\"x\",{etag}"))],
            &[("if-none-match", "\"x\""), ("if-none-match", etag)],
            &[("if-none-match", "*")],
        ] {
            let unchanged = read(lines).await;
            assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{path} {lines:?}");
            for name in ["etag", "cache-control", "exodrive-position"] {
                assert_eq!(unchanged.header(name), whole.header(name), "{path} {name}");
            }
        }
        let gzip = format!("{}-gzip\"", etag.trim_end_matches('"'));
        for other in ["\"x\"", &gzip, etag.trim_matches('"'), ""] {
            assert_eq!(read(&[("if-none-match", other)]).await.status, 200, "{path} {other}");
        }
    }
    // Who sees another representation holds another tag.
    let of = async |role: &str| world.get_as(role, &booking).await.header("etag").to_owned();
    let tags = [of("admin").await, of("auditor").await];
    assert_ne!(tags[0], tags[1]);
    let auditor = world.user("auditor-user", "auditor");
    let request = auditor.request(Method::GET, &booking);
    assert_eq!(sent(request, &[("if-none-match", &tags[0])]).await.status, 200);
    // A change is seen.
    let noted = admin.post(&format!("{booking}/notes"), &json!({"text": "x"})).await;
    noted.expect(200);
    world.settled().await;
    let request = admin.request(Method::GET, &booking);
    let changed = sent(request, &[("if-none-match", &tags[0])]).await;
    changed.expect(200);
    assert_eq!(changed.header("etag"), noted.header("etag"));
}

#[tokio::test]
async fn a_body_is_json_by_its_exact_media_type_and_has_no_coding() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 100_000).await;
    let body = json!({"car_id": car, "start_date": day(0), "end_date": day(1)}).to_string();
    let quote = async |lines: &[(&str, &str)]| {
        let request = world.request(Method::POST, "/v1/quotes").body(body.clone());
        sent(request, lines).await
    };
    for kind in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json ;CHARSET=\"UTF-8\"",
        "application/json; version=1",
    ] {
        quote(&[("content-type", kind)]).await.expect(200);
        quote(&[("content-type", kind), ("content-encoding", "Identity")]).await.expect(200);
    }
    for kind in [
        "application/jsonx",
        "application/json-patch+json",
        "application/problem+json",
        "application/json; charset=utf-16",
        "text/plain",
        "json",
        "",
    ] {
        let refused = quote(&[("content-type", kind)]).await;
        refused.problem(415, "unsupported_media_type");
        assert!(!refused.headers.contains_key("accept-encoding"), "{kind}");
    }
    quote(&[]).await.problem(415, "unsupported_media_type");
    for coding in ["gzip", "zzz", "identity, br"] {
        let lines = [("content-type", "application/json"), ("content-encoding", coding)];
        let refused = quote(&lines).await;
        refused.problem(415, "unsupported_media_type");
        assert_eq!(refused.header("accept-encoding"), "identity", "{coding}");
    }
}

#[tokio::test]
async fn a_field_of_one_value_is_not_there_twice() {
    let world = InProcess::start().await;
    let (admin, _, booking) = booked(&world).await;
    let booking = format!("/v1/bookings/{}", booking["id"].as_str().unwrap());
    let note =
        || admin.request(Method::POST, &format!("{booking}/notes")).json(&json!({"text": "x"}));
    let read = || admin.request(Method::GET, &booking);
    let token = format!("Bearer {}", world.token("admin"));
    for (request, name, values) in [
        (note(), "Idempotency-Key", ["one", "one"]),
        (note(), "Content-Type", ["application/json", "application/json"]),
        (read(), "ExoDrive-Min-Position", ["1", "1"]),
        (read(), "ExoDrive-Booking-Token", ["a", "b"]),
        (world.request(Method::GET, &booking), "Authorization", [&token, &token]),
        (world.request(Method::GET, "/v1/cars"), "Authorization", ["Bearer x", "Basic y"]),
    ] {
        // The builder has set a content type for the body already.
        let lines = values.map(|value| (name, value));
        let lines = if name == "Content-Type" { &lines[..1] } else { &lines };
        let problem = sent(request, lines).await.problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], name);
    }
    // A webhook with two of a kind is not verified.
    let delivery = Delivery::new("msg_1", "{}");
    for name in ["svix-id", "svix-timestamp", "svix-signature"] {
        let twice = sent(world.delivery(&delivery), &[(name, "msg_1")]).await;
        twice.problem(401, "signature_invalid");
    }
    world.stored(&delivery).await;
}

#[tokio::test]
async fn a_request_names_one_host() {
    let world = InProcess::start().await;
    for (lines, status) in [
        ("Host: a\r\n", 200),
        ("Host: 127.0.0.1:80\r\n", 200),
        ("", 400),
        ("Host: a\r\nHost: b\r\n", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: user@a\r\n", 400),
    ] {
        let answer = cars_with(&world, lines).await;
        assert_eq!(answer.status, status, "{lines:?}");
        if status == 400 {
            let problem = answer.problem(400, "invalid_request");
            assert_eq!(problem["errors"][0]["pointer"], "Host");
        }
    }
    // HTTP/1.0 had no Host.
    assert_eq!(answer_to(&world, b"GET /v1/cars HTTP/1.0\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_large_is_refused_at_once() {
    let world = InProcess::start().await;
    for path in ["/v1/quotes", "/v1/bookings", "/v1/webhooks/resend"] {
        for expect in ["", "Expect: 100-continue\r\n"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                 Content-Length: 67108864\r\n{expect}\r\n"
            );
            let refused = answer_to(&world, head.as_bytes()).await;
            refused.problem(413, "body_too_large");
            assert!(refused.took < Duration::from_secs(2), "{path}: {:?}", refused.took);
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_or_malformed_is_a_problem() {
    let world = InProcess::start().await;
    let request = |uri: &str, lines: &str| {
        format!("GET {uri} HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
    };
    let long = |length: usize| "a".repeat(length);
    let many: String = (0..120).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (sent, status, code) in [
        (request(&format!("/{}", long(9_000)), ""), 414, "uri_too_long"),
        (request(&format!("/{}", long(70_000)), ""), 414, "uri_too_long"),
        (request("/v1/cars", &format!("x: {}\r\n", long(33_000))), 431, "headers_too_large"),
        (request("/v1/cars", &format!("x: {}\r\n", long(300_000))), 431, "headers_too_large"),
        (request("/v1/cars", &many), 431, "headers_too_large"),
        (request("/v1/cars", "no colon\r\n"), 400, "invalid_request"),
        (request("/v1/cars", "a b: c\r\n"), 400, "invalid_request"),
        (request("/v1/c\u{1}rs", ""), 400, "invalid_request"),
        (b"nonsense\r\n\r\n".to_vec(), 400, "invalid_request"),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n".to_vec(), 400, "invalid_request"),
    ] {
        let answer = answer_to(&world, &sent).await;
        let shown = String::from_utf8_lossy(&sent[..sent.len().min(60)]).into_owned();
        assert_eq!(answer.status, status, "{shown}");
        answer.problem(status, code);
    }
    // What is within the bounds is answered.
    let near = request("/v1/cars", &format!("x: {}\r\n", long(32_000)));
    assert_eq!(answer_to(&world, &near).await.status, 200);
    // Also as the second request of a connection.
    let mut both = request("/livez", "");
    both.extend_from_slice(b"nonsense\r\n\r\n");
    let mut stream = TcpStream::connect(world.address(exodrive_tests::API)).await.unwrap();
    stream.write_all(&both).await.unwrap();
    let mut read = String::new();
    stream.read_to_string(&mut read).await.unwrap();
    assert!(read.starts_with("HTTP/1.1 200 OK\r\n"), "{read}");
    assert!(read.contains("HTTP/1.1 400 Bad Request\r\n"), "{read}");
    assert!(read.contains(r#""code":"invalid_request""#), "{read}");
}

#[tokio::test]
async fn json_is_sent_unless_accept_excludes_it() {
    let world = InProcess::start().await;
    let car = world.admin().add_car("one", 100_000).await;
    let quote = json!({"car_id": car, "start_date": day(0), "end_date": day(1)});
    let visitor = world.visitor();
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for accept in [browser, "text/html", "*/*", "application/problem+json", "Application/JSON"] {
        for request in
            [visitor.request(Method::GET, "/v1/cars"), visitor.command("/v1/quotes", &quote)]
        {
            let answer = sent(request, &[("accept", accept)]).await;
            answer.expect(200);
            assert_eq!(answer.header("content-type"), "application/json", "{accept}");
        }
    }
    for accept in ["application/json;q=0", "*/*;q=0", "text/html, application/* ; Q=0.0"] {
        for request in
            [visitor.request(Method::GET, "/v1/cars"), visitor.command("/v1/quotes", &quote)]
        {
            sent(request, &[("accept", accept)]).await.problem(406, "not_acceptable");
        }
    }
    // Nothing is executed for an answer that is not accepted.
    let new = json!({"slug": "two", "name": "Two", "category": "Supercar"});
    let events = world.events().await.len();
    let create = world.admin().command("/v1/cars", &new);
    sent(create, &[("accept", "application/json;q=0")]).await.problem(406, "not_acceptable");
    assert_eq!(world.events().await.len(), events);
    // Who asks for lines by name gets them, and nobody else does.
    let auditor = world.user("auditor-user", "auditor");
    let from_log = async |accept: &str| {
        let request = auditor.request(Method::GET, "/v1/audit/events");
        sent(request, &[("accept", accept)]).await
    };
    for accept in ["application/x-ndjsonx", "application/json, application/x-ndjson;q=0.1", "*/*"] {
        assert_eq!(from_log(accept).await.header("content-type"), "application/json", "{accept}");
    }
    from_log("application/json;q=0").await.problem(406, "not_acceptable");
}

/// A path with something that is no id in place of each variable.
fn filled(path: &str) -> String {
    let step = |step: &str| if step.starts_with('{') { "%FF".to_owned() } else { step.to_owned() };
    path.split('/').map(step).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn who_may_not_ask_is_told_so_whatever_they_ask() {
    let world = InProcess::start().await;
    let description = world.get("/v1/openapi.json").await.expect(200);
    let no_role = exodrive_tests::token(exodrive_tests::TOKEN_SECRET, "u1", "nothing", 60);
    let mut staffs = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let what = format!("{method} {path}");
            // Everything about it is wrong.
            let faulty = |token: Option<&str>| {
                let target = format!("{}?nonsense=%FF", filled(path));
                let request = world.request(method.clone(), &target).body("nonsense");
                let request = with_lines(
                    request,
                    &[
                        ("content-type", "text/plain"),
                        ("content-encoding", "zzz"),
                        ("if-match", "nonsense"),
                        ("exodrive-min-position", "nonsense"),
                        ("idempotency-key", "one"),
                        ("idempotency-key", "two"),
                        ("accept", "application/json;q=0"),
                    ],
                );
                let request = token.iter().fold(request, |it, token| it.bearer_auth(token));
                async move { Answer::of(request).await.unwrap() }
            };
            let security = operation["security"].as_array();
            let public = security.is_none_or(|it| it.iter().any(|it| *it == json!({})));
            let (visitor, someone) = (faulty(None).await, faulty(Some(&no_role)).await);
            if public {
                assert_eq!(someone.status, visitor.status, "{what}");
                continue;
            }
            staffs += 1;
            assert_eq!(visitor.status, 401, "{what}: {}", visitor.json());
            assert_eq!(visitor.header("www-authenticate"), "Bearer", "{what}");
            assert_eq!(someone.status, 403, "{what}: {}", someone.json());
            assert_eq!(faulty(Some("garbage")).await.status, 401, "{what}");
        }
    }
    assert!(staffs > 50, "{staffs} routes of staff");
    // Someone without a role is a visitor elsewhere.
    let someone = world.request(Method::GET, "/v1/cars").bearer_auth(&no_role);
    Answer::of(someone).await.unwrap().expect(200);
    let car = world.admin().add_car("one", 100_000).await;
    let body = exodrive_tests::booking_body(&car, day(0), day(0));
    let booked = world.request(Method::POST, "/v1/bookings").bearer_auth(&no_role).json(&body);
    let booked = Answer::of(booked).await.unwrap().expect(201);
    assert!(booked["access_link"]["token"].is_string());
}

#[tokio::test]
async fn a_token_names_the_issuer_and_the_audience_that_are_configured() {
    let configured =
        [("EXODRIVE_JWT_ISSUER", "https://id.example.com"), ("EXODRIVE_JWT_AUDIENCE", "exodrive")];
    let world = InProcess::with(&configured).await;
    world.get("/v1/inbox").await.problem(401, "unauthenticated");
    let token = world.exodrive_prints(&["token", "--role", "auditor"]).await;
    let read = world.request(Method::GET, "/v1/inbox").bearer_auth(token.trim());
    Answer::of(read).await.unwrap().expect(200);
    for other in [&["--jwt-issuer", "other"], &["--jwt-audience", "other"]] {
        let args = [&["token", "--role", "auditor"], &other[..]].concat();
        let token = world.exodrive_prints(&args).await;
        let read = world.request(Method::GET, "/v1/inbox").bearer_auth(token.trim());
        Answer::of(read).await.unwrap().problem(401, "unauthenticated");
    }
}
