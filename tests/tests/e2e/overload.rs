//! What strangers send keeps nobody else from being answered.

use crate::{bounded::most_memory, in_process::InProcess};
use exodrive_tests::{API, Answer, Delivery, World};
use reqwest::Method;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

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
    let kinds = [[foreign; 10].join(" "), vec!["v1,"; 8_000].join(" "), "v".repeat(5_000)];
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

/// A connection from this address, which must be of this machine.
async fn connect_from(address: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((address, 0).into())?;
    socket.connect(to).await
}

/// Waits for the end of a connection; gives what was received before.
async fn received_until_end(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut received).await;
    received
}

const ALIVE: &[u8] = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends a whole request, and reads the beginning of its answer.
async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(ALIVE).await.unwrap();
    let mut answer = vec![0; 4_096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_keep_no_place() {
    const HEAD: Duration = Duration::from_secs(14);
    const IDLE: Duration = Duration::from_secs(4);
    const NETWORKS: u8 = 8;
    const EACH: usize = 260;
    exodrive_runtime::descriptors::raise_limit();
    let world =
        World::with(&[("EXODRIVE_HEAD_TIMEOUT", "14s"), ("EXODRIVE_IDLE_TIMEOUT", "4s")]).await;
    let api = world.address(API);
    let began = Instant::now();
    // Silent from the beginning, and after half a head.
    let mut silent = Vec::new();
    for network in 1..=NETWORKS {
        for n in 0..EACH {
            let mut stream = connect_from([127, 0, 1, network], api).await.unwrap();
            if n % 2 == 0 {
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHo").await;
            }
            silent.push(stream);
        }
    }
    let connected = began.elapsed();
    assert!(connected < HEAD / 2, "the machine is too slow for this test: {connected:?}");

    // Others are answered meanwhile.
    for n in 0..10 {
        let answer = world.post(&Delivery::new(format!("msg_{n}"), "{}")).await;
        answer.expect(200);
        assert!(answer.took < AT_ONCE, "{:?}", answer.took);
    }
    let refused = world.metric(API, "exodrive_http_connections_refused_total").await.unwrap();
    assert_eq!(refused, f64::from(NETWORKS) * (EACH - 256) as f64);
    let open = world.metric(API, "exodrive_http_connections").await.unwrap();
    assert!((2_048.0..2_060.0).contains(&open), "{open}");

    // After a request, a connection may wait as long as it may be idle, and then a head has its own
    // time, however slowly it comes.
    let mut idle = TcpStream::connect(api).await.unwrap();
    assert!(ask(&mut idle).await.starts_with("HTTP/1.1 200 OK"));
    let idle = async {
        let waited = Instant::now();
        received_until_end(idle).await;
        waited.elapsed()
    };
    let mut slow = TcpStream::connect(api).await.unwrap();
    assert!(ask(&mut slow).await.starts_with("HTTP/1.1 200 OK"));
    let slow = async {
        tokio::time::sleep(IDLE / 2).await;
        let waited = Instant::now();
        for byte in b"GET /livez HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".iter()
        {
            let sent = slow.write_all(&[*byte]).await;
            if sent.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        waited.elapsed()
    };
    let closed = async {
        futures::future::join_all(silent.into_iter().map(received_until_end)).await;
        began.elapsed()
    };
    let (idle, slow, closed) =
        tokio::time::timeout(HEAD * 3, async { tokio::join!(idle, slow, closed) }).await.unwrap();
    let within = |limit: Duration| limit.mul_f32(0.9)..limit + AT_ONCE * 2;
    assert!(within(IDLE).contains(&idle), "{idle:?}");
    assert!(within(HEAD).contains(&slow), "{slow:?}");
    assert!((HEAD..HEAD + connected + AT_ONCE * 2).contains(&closed), "{closed:?}");
    println!("connected in {connected:?}, closed after {closed:?}, idle {idle:?}, slow {slow:?}");
}

#[tokio::test]
async fn beyond_the_limit_of_connections_those_that_are_open_are_answered() {
    let world = InProcess::with(&[("EXODRIVE_MAX_CONNECTIONS", "20")]).await;
    let api = world.address(API);
    let mut known = TcpStream::connect(api).await.unwrap();
    assert!(ask(&mut known).await.starts_with("HTTP/1.1 200 OK"));
    let mut others = Vec::new();
    for _ in 0..30 {
        others.push(connect_from([127, 0, 1, 1], api).await.unwrap());
    }
    let mut closed = 0;
    for stream in &mut others {
        let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0])).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    assert!((11..30).contains(&closed), "{closed} were closed");
    assert!(ask(&mut known).await.starts_with("HTTP/1.1 200 OK"));
    drop(others);
    exodrive_tests::eventually("a new connection is answered", async || {
        let mut stream = TcpStream::connect(api).await.unwrap();
        let asked = stream.write_all(ALIVE).await;
        let mut answer = [0; 15];
        let read = stream.read_exact(&mut answer).await;
        (asked.is_ok() && read.is_ok() && &answer == b"HTTP/1.1 200 OK").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_bodies_take_a_bounded_memory() {
    /// Bodies have 64 MiB together, and buffers that grow take up to twice of it. Without the
    /// bound, it would be more than 600 MiB.
    const MOST_MIB: u64 = 256;
    let world = World::start().await;
    let (api, pid) = (world.address(API), world.pid(API));
    let before = most_memory(pid);
    let now = chrono::Utc::now().timestamp();
    let head = format!(
        "POST /v1/webhooks/resend HTTP/1.1\r\nHost: a\r\nsvix-id: msg_1\r\n\
         svix-timestamp: {now}\r\nsvix-signature: v1,AAAA\r\nContent-Length: 1048576\r\n\r\n"
    );
    let half = [head.as_bytes(), &vec![b'a'; 900 << 10]].concat();
    let attack = futures::future::join_all((0..400_usize).map(|n| {
        let half = &half;
        async move {
            let network = u8::try_from(n % 4).unwrap() + 1;
            let mut stream = connect_from([127, 0, 1, network], api).await.unwrap();
            let _ = stream.write_all(half).await;
            stream
        }
    }));
    let streams = tokio::time::timeout(Duration::from_secs(8), attack).await.unwrap();
    Answer::of(world.request(Method::GET, "/livez")).await.unwrap().expect(200);
    let most = most_memory(pid) - before;
    println!("{most} MiB more than {before} MiB");
    assert!(most < MOST_MIB, "{most} MiB more than {before} MiB");
    drop(streams);
    world.post_until_taken(&Delivery::new("msg_2", "{}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_is_full_is_refused_and_no_other() {
    let world =
        InProcess::with(&[("EXODRIVE_MAX_READS", "4"), ("EXODRIVE_MAX_WEBHOOKS", "3")]).await;
    let api = world.address(API);
    let now = chrono::Utc::now().timestamp();
    let head = format!(
        "POST /v1/webhooks/resend HTTP/1.1\r\nHost: a\r\nsvix-id: msg_1\r\n\
         svix-timestamp: {now}\r\nsvix-signature: v1,AAAA\r\nContent-Length: 10\r\n\r\n"
    );
    let mut half = Vec::new();
    let delivery = Delivery::new("msg_2", "{}");
    let refused = exodrive_tests::eventually("there is no room for a webhook", async || {
        // One that meets a delivery in the last place is refused itself.
        for _ in 0..3 {
            let mut stream = TcpStream::connect(api).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            half.push(stream);
        }
        let answer = world.post(&delivery).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    refused.problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    world.get("/v1/cars").await.expect(200);
    drop(half);
    world.post_until_taken(&delivery).await;

    // Postgres answers no read of cars: each has its time, and its place until then.
    let mut locking = world.database().acquire().await.unwrap();
    let lock = "begin; lock table cars in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut *locking).await.unwrap();
    let reads = futures::future::join_all((0..40).map(|_| world.get("/v1/cars")));
    let others = async {
        Answer::of(world.request(Method::GET, "/livez")).await.unwrap().expect(200);
        world.stored(&Delivery::new("msg_3", "{}")).await;
    };
    let (reads, ()) = tokio::join!(reads, others);
    let there_is_room = |read: &&Answer| read.json()["code"] == "view_unavailable";
    assert!((1..40).contains(&reads.iter().filter(there_is_room).count()));
    for read in reads {
        let code = if there_is_room(&&read) { "view_unavailable" } else { "overloaded" };
        read.problem(503, code);
        assert!(read.took < Duration::from_secs(10) + AT_ONCE, "{:?}", read.took);
    }
    sqlx::raw_sql("rollback").execute(&mut *locking).await.unwrap();
    world.get("/v1/cars").await.expect(200);
}
