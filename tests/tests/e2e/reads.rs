//! Reads: the inbox, one email, its timeline and deliveries, roles, and the
//! form of every failure.

use crate::in_process::InProcess;
use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{API, Answer, Delivery, System, WORKER, World, email_body, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn ids(page: &Value) -> Vec<String> {
    let emails = page["data"].as_array().unwrap();
    emails.iter().map(|email| email["id"].as_str().unwrap().to_owned()).collect()
}

fn query(world: &System, parameters: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let query: Vec<_> = parameters
        .iter()
        .map(|(name, value)| {
            let encode = |byte: u8| format!("%{byte:02X}");
            format!("{name}={}", value.bytes().map(encode).collect::<String>())
        })
        .collect();
    let path = format!("/v1/inbox?{}", query.join("&"));
    world.request(Method::GET, &path).bearer_auth(world.token("admin"))
}

async fn list(world: &System, parameters: &[(&str, &str)]) -> Value {
    Answer::of(query(world, parameters)).await.unwrap().expect(200)
}

/// Makes many emails, some of the same second, in three statuses, and some that
/// are hard to find.
async fn fill(world: &System) {
    let mut deliveries = Vec::new();
    for n in 0..130 {
        let kind = ["sent", "delivered", "opened"][n % 3];
        let made = format!(r#","created_at":"2026-11-2{}T09:00:00.000Z""#, n % 4);
        let body = email_body(kind, &format!("em-{n:03}"), "2026-11-20T09:00:00Z", "");
        let body = body.replacen(r#","created_at":"2026-11-20T09:00:00.000Z""#, &made, 1);
        deliveries.push(Delivery::new(format!("msg_{n}"), body));
    }
    for (n, subject) in ODD_SUBJECTS.iter().enumerate() {
        let body = json!({
            "type": "email.bounced", "created_at": "2026-11-20T09:00:00Z",
            "data": {
                "email_id": format!("odd-{n}"), "created_at": "2026-11-19T09:00:00Z",
                "to": ["Zoë@example.com"], "subject": subject, "tags": {"booking_id": format!("BK-{n}")},
            },
        });
        deliveries.push(Delivery::new(format!("msg_odd_{n}"), body.to_string()));
    }
    let mut last = 0;
    for chunk in deliveries.chunks(32) {
        let posted = futures::future::join_all(chunk.iter().map(|it| world.stored(it))).await;
        last = posted.into_iter().fold(last, u64::max);
    }
    assert_eq!(last, 134);
    world.settled().await;
}

const ODD_SUBJECTS: [&str; 4] =
    ["100% off_season", "1000 off season", r#"it's "quoted" \ here"#, "ÄRGER"];

#[tokio::test]
async fn the_inbox_is_paged_filtered_searched_and_counted() {
    let world = InProcess::start().await;
    fill(&world).await;

    // Pages: every email once, newest first.
    let mut seen = Vec::new();
    let mut after = None::<String>;
    loop {
        let mut parameters = vec![("limit", "7")];
        parameters.extend(after.as_deref().map(|after| ("after", after)));
        let page = list(&world, &parameters).await;
        assert!(page["data"].as_array().unwrap().len() <= 7);
        seen.extend(page["data"].as_array().unwrap().clone());
        assert_eq!(page["has_more"], !page["next_cursor"].is_null());
        after = page["next_cursor"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    let order: Vec<_> = seen
        .iter()
        .map(|it| (it["created_at"].as_str().unwrap(), it["id"].as_str().unwrap()))
        .collect();
    assert!(order.is_sorted_by(|a, b| a > b), "newest first, and none twice");
    assert_eq!(order.len(), 134);
    assert_eq!(ids(&list(&world, &[]).await).len(), 20, "the default");

    // Statuses.
    let opened = list(&world, &[("status", "opened"), ("limit", "100")]).await;
    assert!(opened["data"].as_array().unwrap().iter().all(|email| email["status"] == "opened"));
    assert_eq!(ids(&opened).len(), 43);
    let counts = json!({"sent": 44, "delivered": 43, "opened": 43, "bounced": 4});
    assert_eq!(opened["counts"], counts, "of every status, whatever is asked for");
    let both = list(&world, &[("status", "bounced,opened"), ("limit", "100")]).await;
    assert_eq!(ids(&both).len(), 47);

    // Words are found by their beginnings, in any order and case; wildcards and quotes have no
    // special meaning.
    for (text, expected) in [
        ("100% OFF", vec!["odd-1", "odd-0"]),
        ("0_off", vec!["odd-0"]),
        ("off_season", vec!["odd-1", "odd-0"]),
        ("season off 1000", vec!["odd-1"]),
        ("season 100% off", vec!["odd-1", "odd-0"]),
        ("seas%", vec!["odd-1", "odd-0"]),
        ("eason", vec![]),
        (r#""quoted" \"#, vec!["odd-2"]),
        ("it's", vec!["odd-2"]),
        ("ärger", vec!["odd-3"]),
        ("A\u{308}RGER", vec!["odd-3"]),
        ("arg", vec!["odd-3"]),
        ("bk-3", vec!["odd-3"]),
        ("zoë@example.com", vec!["odd-3", "odd-2", "odd-1", "odd-0"]),
        ("em-007", vec!["em-007"]),
        ("'; drop table inbox; --", vec![]),
    ] {
        let found = list(&world, &[("q", text)]).await;
        assert_eq!(ids(&found), expected, "{text}");
        let counted: u64 =
            found["counts"].as_object().unwrap().values().map(|it| it.as_u64().unwrap()).sum();
        assert_eq!(counted, expected.len() as u64, "{text}");
        assert_eq!(found["counts_complete"], true, "{text}");
    }
    assert_eq!(ids(&list(&world, &[("q", "%"), ("limit", "100")]).await).len(), 100, "no word");
    let none = list(&world, &[("q", "em-"), ("status", "complained")]).await;
    assert_eq!((ids(&none).len(), &none["has_more"]), (0, &false.into()));

    for (name, value, named) in [
        ("colour", "red", "colour"),
        ("limit", "0", "limit"),
        ("limit", "101", "limit"),
        ("limit", "many", "limit"),
        ("after", "bm90IG91cnM", "after"),
        ("status", "teleported", "status"),
        ("q", "\0", "q"),
    ] {
        let answer = Answer::of(query(&world, &[(name, value)])).await.unwrap();
        let problem = answer.problem(400, "invalid_request");
        let errors = &problem["errors"];
        let pointer = errors[0]["pointer"].as_str().unwrap();
        assert!(pointer == format!("?{named}"), "{name}={value}: {errors}");
    }
}

#[tokio::test]
async fn an_email_has_detail_timeline_deliveries_and_raw_bytes() {
    let world = InProcess::start().await;
    let tags = r#","tags":{"booking_id":"BK-7"}"#;
    let bounce = r#","bounce":{"type":"Permanent","subType":"General","message":"no such user","diagnosticCode":["550 5.1.1"]}"#;
    let posted = [
        Delivery::new("msg_late", email_body("bounced", "em-1", "2026-11-20T09:05:00Z", bounce)),
        Delivery::new("msg_early", email_body("sent", "em-1", "2026-11-20T09:01:00Z", tags)),
        Delivery::new("msg_unknown", email_body("framed", "em-1", "2026-11-20T09:03:00Z", "")),
    ];
    for delivery in &posted {
        world.stored(delivery).await;
    }
    world
        .stored(&Delivery::new("msg_other", email_body("sent", "em-2", "2026-11-20T09:00:00Z", "")))
        .await;
    world.settled().await;

    let email = world.get("/v1/inbox/em-1").await.expect(200);
    assert_eq!(email["status"], "bounced");
    assert_eq!(email["booking_id"], "BK-7");
    assert_eq!(email["to"], json!([{"address": "guest@example.com", "status": "bounced"}]));
    assert_eq!(email["bounce"]["message"], "no such user");
    assert_eq!(email["bounce"]["diagnostic_codes"], json!(["550 5.1.1"]));
    let stages: Vec<_> =
        email["stages"].as_array().unwrap().iter().map(|it| &it["status"]).collect();
    assert_eq!(stages, ["sent", "bounced"]);
    assert_eq!(email["stages"][0]["first_at"], "2026-11-20T09:01:00.000000Z");
    assert_eq!((&email["events"], &email["repeats"]), (&2.into(), &0.into()));

    let order = async |query: &str| -> Vec<String> {
        ids(&world.get(&format!("/v1/inbox/em-1/timeline{query}")).await.expect(200))
    };
    let happened = ["msg_early", "msg_unknown", "msg_late"];
    assert_eq!(order("").await, happened);
    assert_eq!(order("?order=happened").await, happened);
    assert_eq!(order("?order=received").await, ["msg_late", "msg_early", "msg_unknown"]);
    world.get("/v1/inbox/em-1/timeline?order=backwards").await.problem(400, "invalid_request");

    let deliveries = world.get("/v1/inbox/em-1/deliveries").await.expect(200);
    assert_eq!(ids(&deliveries), ["msg_late", "msg_early", "msg_unknown"]);
    for (row, delivery) in deliveries["data"].as_array().unwrap().iter().zip(&posted) {
        assert_eq!(row["size"], delivery.body.len());
        let digest = ring::digest::digest(&ring::digest::SHA256, &delivery.body);
        assert_eq!(row["sha256"], hex::encode(digest));
        let raw = world.get(&format!("/v1/deliveries/{}/raw", row["position"])).await;
        assert_eq!((raw.status, &raw.body), (200, &delivery.body));
        assert_eq!(raw.header("exodrive-received-svix-id"), delivery.id);
        assert!(raw.header("exodrive-received-svix-signature").starts_with("v1,"));
        assert!(!raw.header("exodrive-received-svix-timestamp").is_empty());
        assert_eq!(raw.header("exodrive-received-at"), row["received_at"].as_str().unwrap());
        assert_eq!(raw.header("content-type"), "application/octet-stream");
    }
    for nowhere in [
        "/v1/inbox/em-unknown",
        "/v1/inbox/em-unknown/timeline",
        "/v1/inbox/em-unknown/deliveries",
        "/v1/inbox/%00",
        "/v1/deliveries/0/raw",
        "/v1/deliveries/99/raw",
        "/v1/deliveries/-1/raw",
        "/v1/deliveries/first/raw",
        "/v1/nothing",
        "/",
    ] {
        world.get(nowhere).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn only_admins_and_auditors_read_email() {
    let world = InProcess::start().await;
    world
        .stored(&Delivery::new("msg_1", email_body("sent", "em-1", "2026-11-20T09:00:00Z", "")))
        .await;
    world.settled().await;
    let paths = [
        "/v1/inbox",
        "/v1/inbox/em-1",
        "/v1/inbox/em-1/timeline",
        "/v1/inbox/em-1/deliveries",
        "/v1/deliveries/1/raw",
    ];
    for path in paths {
        for role in ["admin", "auditor"] {
            assert_eq!(world.get_as(role, path).await.status, 200, "{role} {path}");
        }
        // There is no role of the last name.
        for role in ["customer", "operator", "emperor"] {
            world.get_as(role, path).await.problem(403, "forbidden");
        }
        let anonymous = Answer::of(world.request(Method::GET, path)).await.unwrap();
        anonymous.problem(401, "unauthenticated");
        assert_eq!(anonymous.header("www-authenticate"), "Bearer");
        let forged = exodrive_tests::token("another secret", "admin-user", "admin", 3_600);
        for token in ["garbage".to_owned(), world.expired_token("admin"), forged] {
            let request = world.request(Method::GET, path).bearer_auth(token);
            Answer::of(request).await.unwrap().problem(401, "unauthenticated");
        }
    }
}

#[tokio::test]
async fn a_reader_can_wait_for_what_was_just_written_and_ask_what_has_changed() {
    let world = InProcess::start().await;
    let get = |name: &'static str, value: String| {
        let request =
            world.request(Method::GET, "/v1/inbox/em-1").bearer_auth(world.token("admin"));
        let request = request.header(name, value);
        async { Answer::of(request).await.unwrap() }
    };
    let first = Delivery::new("msg_1", email_body("sent", "em-1", "2026-11-20T09:00:00Z", ""));
    let position = world.stored(&first).await;
    let answer = get("exodrive-min-position", position.to_string()).await;
    assert_eq!(answer.expect(200)["status"], "sent");
    assert_eq!(answer.header("exodrive-position"), position.to_string());

    let etag = answer.header("etag").to_owned();
    let unchanged = get("if-none-match", etag.clone()).await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.header("etag"), etag);
    assert_eq!(get("if-none-match", "\"0\"".to_owned()).await.status, 200);
    let second = Delivery::new("msg_2", email_body("opened", "em-1", "2026-11-20T09:01:00Z", ""));
    world.stored(&second).await;
    let changed = eventually("the tag changes with the email", async || {
        let answer = get("if-none-match", etag.clone()).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(changed.json()["status"], "opened");
    assert_ne!(changed.header("etag"), etag);

    let operator = world.user("operator-user", "operator");
    let pause = json!({"reason": "a test"});
    operator.post("/v1/operator/projections/inbox/pause", &pause).await.expect(200);
    let mut n = 2;
    // Its writer learns of it a moment later.
    let behind = eventually("the view stands", async || {
        n += 1;
        let body = email_body("clicked", "em-1", "2026-11-20T09:02:00Z", "");
        let beyond = world.stored(&Delivery::new(format!("msg_{n}"), body)).await;
        let behind = get("exodrive-min-position", beyond.to_string()).await;
        (behind.status == 503).then_some(behind)
    })
    .await;
    behind.problem(503, "view_behind");
    assert_eq!(behind.header("retry-after"), "1");
    get("exodrive-min-position", "soon".to_owned()).await.problem(400, "invalid_request");
}

#[tokio::test]
async fn an_email_is_read_from_memory_or_redis_and_without_them_from_postgres() {
    let world = World::start().await;
    let delivery = |n: u32, kind: &str| {
        let at = format!("2026-11-20T09:0{n}:00Z");
        Delivery::new(format!("msg_{n}"), email_body(kind, "em-1", &at, ""))
    };
    let cached_status = async |status: &str| {
        eventually("Redis has the newest view", async || {
            let answer = world.get("/v1/inbox/em-1").await;
            let hit = answer.status == 200 && answer.header("x-cache") != "MISS";
            (hit && answer.json()["status"] == status).then_some(answer)
        })
        .await
    };
    // The cache in memory is used only while Redis and the worker send
    // heartbeats.
    let from_postgres = async || {
        eventually("the API stops trusting its memory", async || {
            let answer = world.get("/v1/inbox/em-1").await;
            (answer.header("x-cache") == "MISS").then_some(answer)
        })
        .await
    };
    world.stored(&delivery(1, "sent")).await;
    let hit = cached_status("sent").await;
    eventually("the API keeps it in memory", async || {
        (world.get("/v1/inbox/em-1").await.header("x-cache") == "L1").then_some(())
    })
    .await;

    // Redis has forgotten the view, and no worker publishes.
    world.signal(WORKER, Signal::SIGSTOP);
    let client = redis::Client::open(world.redis()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    let miss = from_postgres().await;
    assert_eq!(miss.status, 200);
    assert_eq!(miss.body, hit.body, "the same answer, byte for byte");
    assert_eq!(miss.header("etag"), hit.header("etag"));
    world.signal(WORKER, Signal::SIGCONT);
    cached_status("sent").await;

    // Redis hangs: it has an old view and takes no new one.
    world.services.signal(Service::Redis, Signal::SIGSTOP).unwrap();
    world.stored(&delivery(2, "delivered")).await;
    world.settled().await;
    assert_eq!(from_postgres().await.expect(200)["status"], "delivered");
    world.services.signal(Service::Redis, Signal::SIGCONT).unwrap();
    cached_status("delivered").await;

    // Redis is stopped.
    world.services.stop_service(Service::Redis).await.unwrap();
    world.stored(&delivery(3, "opened")).await;
    world.settled().await;
    assert_eq!(from_postgres().await.expect(200)["status"], "opened");
    world.wait_until("degraded").await;
    world.services.start_service(Service::Redis).await.unwrap();
    cached_status("opened").await;
    world.wait_until("ready").await;
    assert!(world.metric(API, "exodrive_cache_hits_total").await.unwrap() >= 4.0);
    assert!(world.metric(API, "exodrive_cache_misses_total").await.unwrap() >= 3.0);
}

#[tokio::test]
async fn readiness_says_what_is_wrong() {
    let world = World::start().await;
    let ready = async || Answer::of(world.request(Method::GET, "/readyz")).await.unwrap();
    let checks = ready().await.expect(200)["checks"].clone();
    for part in ["log", "postgres", "migrations", "redis"] {
        assert_eq!(checks[part]["ok"], true, "{checks}");
    }
    let names: BTreeSet<_> = checks["projections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    let all: BTreeSet<_> = exodrive_projections::names().into_iter().collect();
    assert_eq!(names, all);

    world.services.stop_service(Service::Redis).await.unwrap();
    assert_eq!(world.wait_until("degraded").await["checks"]["redis"]["ok"], false);
    assert_eq!(ready().await.status, 200, "degraded is ready");
    world.services.start_service(Service::Redis).await.unwrap();
    world.wait_until("ready").await;

    world.services.stop_service(Service::Postgres).await.unwrap();
    assert_eq!(world.wait_until("not_ready").await["checks"]["postgres"]["ok"], false);
    assert_eq!(ready().await.status, 503);
    world.get("/v1/inbox").await.problem(503, "view_unavailable");
    world.services.start_service(Service::Postgres).await.unwrap();
    world.wait_until("ready").await;

    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    assert_eq!(world.wait_until("not_ready").await["checks"]["log"]["ok"], false);
    assert_eq!(ready().await.status, 503);
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();
    world.wait_until("ready").await;

    world.kill(WORKER);
    eventually("every projection misses its worker", async || {
        let readiness = world.wait_until("not_ready").await;
        let projections = readiness["checks"]["projections"].as_array().unwrap();
        projections.iter().all(|projection| projection["ok"] == false).then_some(())
    })
    .await;
    assert_eq!(ready().await.status, 503);
    assert_eq!(Answer::of(world.request(Method::GET, "/livez")).await.unwrap().status, 200);
}

#[tokio::test]
async fn every_failure_is_a_problem_whose_request_is_found_in_the_log() {
    let world = World::start().await;
    let post = |path: &str| world.request(Method::POST, path);
    let large = Delivery::new("msg_1", vec![b'x'; (1 << 20) + 1]);
    let mut problems = Vec::new();
    for (request, status, code) in [
        (world.request(Method::GET, "/v2"), 404, "not_found"),
        (post("/livez"), 405, "method_not_allowed"),
        (post("/v1/inbox"), 405, "method_not_allowed"),
        (world.request(Method::GET, "/v1/webhooks/resend"), 405, "method_not_allowed"),
        (world.request(Method::DELETE, "/v1/inbox/em-1"), 405, "method_not_allowed"),
        (world.delivery(&large), 413, "body_too_large"),
        (post("/v1/webhooks/resend").body("{}"), 401, "signature_invalid"),
        (world.request(Method::GET, "/v1/inbox"), 401, "unauthenticated"),
    ] {
        let answer = Answer::of(request).await.unwrap();
        if status == 405 {
            assert!(!answer.header("allow").is_empty());
        }
        problems.push(answer.problem(status, code));
    }
    for problem in &problems {
        let page = problem["type"].as_str().unwrap();
        let page = Answer::of(world.request(Method::GET, page)).await.unwrap();
        assert_eq!(page.status, 200, "the problem's type can be followed");
    }
    let ids: BTreeSet<_> = problems.iter().map(|it| it["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), problems.len(), "each request has an id of its own");
    let log = world.printed(API);
    for id in ids {
        assert!(log.contains(id), "{id} is in the log");
    }
}

#[tokio::test]
async fn an_imported_email_has_no_deliveries() {
    let world = InProcess::start().await;
    let season = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/season");
    world.exodrive_prints(&["import", season, "--json"]).await;
    world.settled().await;
    let emails = ids(&world.get("/v1/inbox").await.expect(200));
    assert!(!emails.is_empty());
    for email in emails {
        let path = format!("/v1/inbox/{email}");
        let deliveries = world.get(&format!("{path}/deliveries")).await.expect(200);
        assert_eq!(deliveries["data"], json!([]), "{email}");
        world.get(&format!("{path}/timeline")).await.expect(200);
    }
}
