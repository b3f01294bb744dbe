//! What grows without end is answered in pieces, in bounded memory, and keeps nobody waiting.

use crate::{in_process::InProcess, seal::sealed};
use exodrive_projections::Transaction;
use exodrive_tests::{
    API, Answer, Delivery, System, TOKEN_SECRET, WORKER, World, email_body, eventually, reports,
    token,
};
use futures::{StreamExt, future::join_all, stream};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// A time within which a request is answered that nothing keeps from it, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The most memory that a process has had, in MiB.
pub(crate) fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib >> 10
}

/// Posts deliveries, 64 at a time.
async fn post_all(world: &System, deliveries: impl Iterator<Item = Delivery>) {
    let posts = deliveries.map(|delivery| async move { world.post_until_taken(&delivery).await });
    let mut posts = stream::iter(posts).buffer_unordered(64);
    while posts.next().await.is_some() {}
}

/// Every id on the pages of a list, and the number of pages. No page is larger than `most` bytes.
async fn walk(world: &System, path: &str, most: usize) -> (Vec<String>, usize) {
    let (mut ids, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let answer = world.get(&format!("{path}{after}")).await;
        let page = answer.expect(200);
        assert!(answer.body.len() < most, "{} bytes of {path}", answer.body.len());
        let data = page["data"].as_array().unwrap();
        ids.extend(data.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
        pages += 1;
        let next = page["next_cursor"].as_str();
        assert_eq!(page["has_more"], next.is_some(), "{page}");
        let Some(next) = next else { return (ids, pages) };
        after = format!("&after={next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_ten_thousand_events_is_answered_in_pieces_and_bounded_memory() {
    const EVENTS: usize = 10_000;
    /// Two histories at a time, with a batch of events each. Without bounds it would be more than
    /// 1,000 MiB for half as many events.
    const MOST_MIB: u64 = 192;
    const LARGEST_PAGE: usize = 128 << 10;
    let world = World::start().await;
    let opened = |n: usize| {
        let at = format!("2026-11-20T{:02}:{:02}:{:02}Z", n / 3_600, n / 60 % 60, n % 60);
        Delivery::new(format!("msg_{n}"), email_body("opened", "em-1", &at, ""))
    };
    post_all(&world, (0..EVENTS).map(opened)).await;
    world
        .stored(&Delivery::new("msg_other", email_body("sent", "em-2", "2026-11-20T09:00:00Z", "")))
        .await;
    world.settled().await;
    let (_, row) = &world.rows("inbox").await["em-1"];
    assert_eq!(reports(row), EVENTS);
    assert!(row.to_string().len() < 16 * EVENTS, "{} bytes", row.to_string().len());

    let before = most_memory(world.pid(API));
    let began = Instant::now();
    // Five at once: two have room.
    let path = "/v1/replay/inbox/em-1?limit=100";
    let histories = async {
        let asked = Instant::now();
        (join_all((0..5).map(|_| world.get(path))).await, asked.elapsed())
    };
    let others = async {
        while began.elapsed() < Duration::from_secs(1) {
            for answer in [
                Answer::of(world.request(Method::GET, "/livez")).await.unwrap(),
                world.get("/v1/inbox/em-2").await,
                world.get("/v1/replay/inbox/em-2").await,
            ] {
                answer.expect(200);
                assert!(answer.took < AT_ONCE, "{:?}", answer.took);
            }
        }
    };
    let ((histories, took), ()) = tokio::join!(histories, others);
    let (answered, busy): (Vec<_>, Vec<_>) = histories.iter().partition(|it| it.status == 200);
    assert!(!answered.is_empty() && answered.len() < 5, "{} were answered", answered.len());
    busy.iter().for_each(|it| drop(it.problem(503, "busy")));
    for answer in answered {
        let page = answer.expect(200);
        assert!(answer.body.len() < 3 * LARGEST_PAGE, "{} bytes", answer.body.len());
        assert_eq!((&page["events_count"], &page["has_more"]), (&json!(EVENTS), &json!(true)));
        let events = page["events"].as_array().unwrap();
        assert_eq!(events.len(), 100);
        assert_eq!((&events[0]["changed"], &events[0]["changed_count"]), (&json!([""]), &json!(1)));
        let changed = events[1]["changed"].as_array().unwrap();
        assert!(changed.contains(&json!("/email/event_ids")) && changed.len() <= 20, "{changed:?}");
        assert_eq!(page["next_cursor"], events[99]["position"].to_string());
    }
    // The last page.
    let last = world.get(&format!("{path}&after={}", EVENTS - 30)).await.expect(200);
    assert_eq!(last["events"].as_array().unwrap().len(), 30);
    assert_eq!((&last["has_more"], &last["next_cursor"]), (&json!(false), &Value::Null));
    assert_eq!(last["state"]["email"], row["email"]);
    let diff = world.get("/v1/replay/inbox/em-1?from=5&to=3000").await;
    assert!(diff.body.len() < 2 * 16 * EVENTS, "{} bytes", diff.body.len());
    let fields = diff.expect(200)["fields"].clone();
    let counted = |it: &&Value| it["pointer"] == "/email/stages/opened/count";
    let counted = fields.as_array().unwrap().iter().find(counted).unwrap_or(&Value::Null);
    assert_eq!((&counted["new"], &counted["position"]), (&json!(3_000), &json!(3_000)), "{fields}");
    for query in ["?from=1&to=2&limit=1", "?from=1&to=2&after=1", "?after=odd", "?limit=101"] {
        let path = format!("/v1/replay/inbox/em-1{query}");
        world.get(&path).await.problem(400, "invalid_request");
    }

    let (ids, pages) = walk(&world, "/v1/inbox/em-1/timeline?limit=100", LARGEST_PAGE).await;
    assert_eq!((ids.len(), pages), (EVENTS, EVENTS / 100));
    assert!((0..EVENTS).all(|n| ids[n] == format!("msg_{n}")), "in the order that they happened");
    let (ids, _) = walk(&world, "/v1/inbox/em-1/deliveries?limit=100", LARGEST_PAGE).await;
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), EVENTS);
    let evidence = "/v1/audit/history?email=em-1&limit=50";
    let first = world.get(evidence).await;
    assert!(first.body.len() < 4 * LARGEST_PAGE, "{} bytes", first.body.len());
    let first = first.expect(200);
    assert_eq!(first["emails"][0]["deliveries"], EVENTS);
    let next = first["next_cursor"].as_str().unwrap();
    let second = world.get(&format!("{evidence}&after={next}")).await.expect(200);
    assert_eq!(second["data"][0]["position"], 51);
    assert_eq!(second["data"][0]["state"]["events"], 51);
    // In the order in which they happened: the next pages, and the last one.
    let happened = format!("{evidence}&order=happened");
    let mut after = String::new();
    for begin in [0, 50] {
        let page = world.get(&format!("{happened}{after}")).await.expect(200);
        for (n, entry) in (begin..).zip(page["data"].as_array().unwrap()) {
            let of = (&entry["id"], &entry["state"]["events"]);
            assert_eq!(of, (&json!(format!("msg_{n}")), &json!(n + 1)));
        }
        assert_eq!(page["emails"][0]["deliveries"], EVENTS);
        after = format!("&after={}", page["next_cursor"].as_str().unwrap());
    }
    let end = world.get(&format!("{happened}&after=0.{}.", EVENTS - 10)).await.expect(200);
    assert_eq!((end["data"].as_array().unwrap().len(), &end["has_more"]), (10, &json!(false)));
    assert_eq!(end["data"][9]["state"]["events"], EVENTS);

    let most = most_memory(world.pid(API)) - before;
    println!("{most} MiB more than {before} MiB; five histories took {took:?}");
    assert!(most < MOST_MIB, "{most} MiB more than {before} MiB");
}

#[tokio::test]
async fn a_timeline_of_a_booking_comes_in_pages() {
    let world = InProcess::start().await;
    let admin = world.admin();
    let car = admin.add_car("one", 10_000).await;
    let booking = admin.booked(&car, exodrive_tests::day(0), exodrive_tests::day(1)).await;
    let id = booking["id"].as_str().unwrap();
    for n in 0..6 {
        admin.act(&booking, "notes", json!({"text": format!("note {n}")})).await.expect(200);
    }
    let tag = format!(r#","tags":{{"booking_id":"{id}"}}"#);
    let mail = email_body("sent", "em-1", "2026-11-20T09:00:00Z", &tag);
    world.stored(&Delivery::new("msg_1", mail)).await;
    world.settled().await;
    let path = format!("/v1/bookings/{id}/timeline");
    let whole = world.get(&path).await.expect(200);
    assert_eq!((whole["data"].as_array().unwrap().len(), &whole["has_more"]), (8, &json!(false)));
    let (ids, pages) = walk(&world, &format!("{path}?limit=3"), 8 << 10).await;
    let all: Vec<_> = whole["data"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
    assert_eq!((json!(ids), pages), (json!(all), 3));
    for query in ["after=odd", "limit=0", "limit=101"] {
        world.get(&format!("{path}?{query}")).await.problem(400, "invalid_request");
    }
    // The evidence of it, with everything about the email.
    let mut entries = 0;
    let mut after = String::new();
    loop {
        let query = format!("/v1/audit/history?booking={id}&limit=3{after}");
        let page = world.get(&query).await.expect(200);
        entries += page["data"].as_array().unwrap().len();
        let Some(next) = page["next_cursor"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(entries, 8);
}

/// Asks for an export and takes nothing of it but its head.
async fn stalled_export(world: &System, user: &str) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(world.address(API)).await.unwrap();
    let token = world.token_of(user, "auditor");
    let request = format!(
        "GET /v1/audit/export?content=true HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; 1_024];
    let length = stream.read(&mut head).await.unwrap();
    (stream, String::from_utf8_lossy(&head[..length]).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_that_nobody_takes_hold_little_and_not_for_long() {
    /// Two at a time, with a batch of events each.
    const MOST_MIB: u64 = 128;
    const EVENTS: u64 = 40;
    let world = World::with(&[("EXODRIVE_WRITE_TIMEOUT", "20s")]).await;
    let large = |n| Delivery::new(format!("msg_{n}"), vec![b'a' + (n % 26) as u8; 900 << 10]);
    for n in 0..EVENTS {
        world.stored(&large(n)).await;
    }
    sealed(&world, EVENTS).await;
    let before = most_memory(world.pid(API));
    let mut stalled = Vec::new();
    for user in ["ada", "bob"] {
        let (stream, head) = stalled_export(&world, user).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stalled.push(stream);
    }
    let began = Instant::now();
    for (user, why) in [("ada", "another export"), ("cyd", "Others are reading")] {
        for _ in 0..5 {
            let request = world.request(Method::GET, "/v1/audit/export");
            let refused = request.bearer_auth(world.token_of(user, "auditor"));
            let refused = Answer::of(refused).await.unwrap();
            let detail = refused.problem(503, "busy")["detail"].to_string();
            assert!(detail.contains(why), "{detail}");
            assert_eq!(refused.header("retry-after"), "5");
        }
    }
    assert!(began.elapsed() < Duration::from_secs(20), "the machine is too slow for this test");
    // Nobody takes anything of them, so they end, and others have their places.
    let whole = eventually("another has room", async || {
        let request = world.request(Method::GET, "/v1/audit/export?content=true");
        let answer = Answer::of(request.bearer_auth(world.token_of("cyd", "auditor"))).await;
        answer.ok().filter(|answer| answer.status == 200)
    })
    .await;
    let mut lines = whole.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let end: Value = serde_json::from_slice(lines.next_back().unwrap()).unwrap();
    assert_eq!(end["object"], "end", "it is whole");
    assert!(world.metric(API, "exodrive_http_stalled_total").await.unwrap() >= 1.0);
    let most = most_memory(world.pid(API)) - before;
    println!("{most} MiB more than {before} MiB; an export has {} MiB", whole.body.len() >> 20);
    assert!(most < MOST_MIB, "{most} MiB more than {before} MiB");
    for mut stream in stalled {
        let (mut taken, mut part) = (0, vec![0; 64 << 10]);
        // A reset is an end as well.
        while let Ok(length @ 1..) = stream.read(&mut part).await {
            taken += length;
        }
        assert!(taken < whole.body.len(), "it broke off");
    }
}

#[tokio::test]
async fn however_many_wait_for_a_view_postgres_is_asked_for_one() {
    const WAITING: i64 = 50;
    /// Of one who asks every 5 ms for 2 s, and of the tasks of the API and the workers. Each of
    /// those who wait used to ask 400 times.
    const MOST_STATEMENTS: i64 = 3_000;
    let world = InProcess::start().await;
    world.admin().add_car("one", 10_000).await;
    world.settled().await;
    let statements = async || {
        // Sessions report what they have done once a second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let query = "select xact_commit + xact_rollback from pg_stat_database
                     where datname = current_database()";
        let count: i64 = sqlx::query_scalar(query).fetch_one(world.database()).await.unwrap();
        count
    };
    let before = statements().await;
    // The view's writer waits as long as somebody else has its checkpoint.
    let mut holding = Transaction::begin(world.database()).await.unwrap();
    let hold = "select from checkpoints where projection = 'cars' for update";
    sqlx::query(hold).execute(&mut *holding).await.unwrap();
    let position = world.stored(&Delivery::new("msg_1", "{}")).await;
    let waiting = (0..WAITING).map(|_| {
        let request = world.request(Method::GET, "/v1/cars");
        Answer::of(request.header("ExoDrive-Min-Position", position))
    });
    for answer in join_all(waiting).await {
        let behind = answer.unwrap();
        behind.problem(503, "view_behind");
    }
    holding.rollback().await.unwrap();
    let asked = statements().await - before;
    println!("{asked} statements");
    assert!(asked < MOST_STATEMENTS, "{asked} statements");
}

#[tokio::test]
async fn a_heavy_request_counts_as_ten() {
    let world = InProcess::with(&[("EXODRIVE_RATE_LIMIT_ADMIN", "25/1h")]).await;
    let left = |answer: &Answer| answer.header("ratelimit").to_owned();
    let replay = "/v1/replay/inbox/em-1";
    for expected in ["r=15", "r=5"] {
        let answer = world.get(replay).await;
        answer.problem(404, "not_found");
        assert!(left(&answer).contains(expected), "{}", left(&answer));
    }
    for path in [replay, "/v1/audit/events", "/v1/audit/rejected-webhooks", "/v1/audit/export"] {
        let refused = world.get(path).await;
        refused.problem(429, "rate_limited");
        assert!(left(&refused).contains("r=5"), "{}", left(&refused));
    }
    let light = world.get("/v1/inbox").await;
    light.expect(200);
    assert!(left(&light).contains("r=4"), "{}", left(&light));
}

#[tokio::test]
async fn rejected_webhooks_are_looked_at_in_pages() {
    const EARLIER: u64 = 50;
    const LOOKED_AT: u64 = 20_000;
    let world = InProcess::start().await;
    let jetstream = world.jetstream().await;
    let publish = async |reason: &str, number: u64| {
        let at = chrono::Utc::now();
        let refusal = exodrive_log::RejectedDelivery::new(at, reason, None, Some(1));
        let body = serde_json::to_vec(&refusal).unwrap();
        let mut last = None;
        for _ in 0..number {
            let subject = "exo-refusals.resend";
            last = Some(jetstream.publish(subject, body.clone().into()).await.unwrap());
        }
        last.unwrap().await.unwrap();
    };
    publish("earlier", EARLIER).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let between = exodrive_domain::time::format(&chrono::Utc::now());
    tokio::time::sleep(Duration::from_millis(5)).await;
    publish("signature", LOOKED_AT).await;

    let path = "/v1/audit/rejected-webhooks";
    let first = world.get(path).await.expect(200);
    assert_eq!(first["counts"], json!({"signature": LOOKED_AT}));
    assert_eq!(
        (first["newest"].as_array().unwrap().len(), &first["has_more"]),
        (100, &json!(true))
    );
    let next = first["next_cursor"].as_str().unwrap();
    let second = world.get(&format!("{path}?after={next}")).await.expect(200);
    assert_eq!(second["counts"], json!({"earlier": EARLIER}));
    assert_eq!((&second["has_more"], &second["next_cursor"]), (&json!(false), &Value::Null));
    let until = world.get(&format!("{path}?until={between}")).await.expect(200);
    assert_eq!(
        (&until["counts"], &until["has_more"]),
        (&json!({"earlier": EARLIER}), &json!(false))
    );
    let since = world.get(&format!("{path}?since={between}")).await.expect(200);
    assert_eq!(since["counts"], json!({"signature": LOOKED_AT}));
    let none = world.get(&format!("{path}?since={between}&after={next}")).await.expect(200);
    assert_eq!((&none["counts"], &none["has_more"]), (&json!({}), &json!(false)));
    world.get(&format!("{path}?after=odd")).await.problem(400, "invalid_request");
}

#[tokio::test]
async fn who_follows_a_rebuild_has_bounds() {
    const FOLLOWED: usize = 4;
    let world = World::start().await;
    world.kill(WORKER);
    let operator = world.user("operator-user", "operator");
    let body = json!({"reason": "a test"});
    let rebuild = operator.post("/v1/operator/projections/cars/rebuild", &body).await.expect(202);
    let path = format!("/v1/operator/rebuilds/{}/events", rebuild["id"].as_str().unwrap());
    let follow = async |token: &str| {
        let request = world.request(Method::GET, &path).bearer_auth(token.to_owned());
        request.send().await.unwrap()
    };
    let token_of = |user: &str| world.token_of(user, "operator");
    let mut followed = Vec::new();
    for _ in 0..FOLLOWED {
        let mut stream = follow(&token_of("ada")).await;
        let first = stream.chunk().await.unwrap().unwrap();
        assert!(first.starts_with(b"event: rebuild"), "{first:?}");
        followed.push(stream);
    }
    let one_more = world.request(Method::GET, &path).bearer_auth(token_of("ada"));
    Answer::of(one_more).await.unwrap().problem(503, "busy");
    assert_eq!(follow(&token_of("bob")).await.status(), 200);
    drop(followed);
    eventually("there is room again", async || {
        (follow(&token_of("ada")).await.status() == 200).then_some(())
    })
    .await;

    // A token that ends takes the stream with it.
    let began = Instant::now();
    let stream = follow(&token(TOKEN_SECRET, "cyd", "operator", 3)).await;
    let text = tokio::time::timeout(Duration::from_secs(30), stream.text()).await.unwrap().unwrap();
    assert!(text.starts_with("event: rebuild"), "{text}");
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    // So does the sign-out of its reader.
    let stream = follow(&token_of("dee")).await;
    let reason = json!({"reason": "a test"});
    world.admin().post("/v1/users/dee/sign-out", &reason).await.expect(200);
    let text = tokio::time::timeout(Duration::from_secs(30), stream.text()).await.unwrap().unwrap();
    assert!(text.starts_with("event: rebuild"), "{text}");
}
