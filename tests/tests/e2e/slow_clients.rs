//! Clients that are silent or slow, by the thousand, and a process that may open few files.

use crate::bounded::most_memory;
use exodrive_tests::{API, Answer, Delivery, World, eventually, within};
use reqwest::Method;
use std::{
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// A time within which a request is answered that nothing keeps from it, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A connection from this address, which must be of this machine.
async fn connect_from(address: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((address, 0).into())?;
    socket.connect(to).await
}

/// Waits for the end of a connection; gives what was received before. A reset is an end as well.
async fn received_until_end(mut stream: TcpStream) -> String {
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received).await;
    String::from_utf8_lossy(&received).into_owned()
}

/// How long `/livez` takes: the median and the longest of some.
async fn livez(world: &World) -> (Duration, Duration) {
    let mut took = Vec::new();
    for _ in 0..20 {
        let answer = Answer::of(world.request(Method::GET, "/livez")).await.unwrap();
        answer.expect(200);
        took.push(answer.took);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() - 1])
}

/// The connections that the API says it has.
async fn open(world: &World) -> f64 {
    world.metric(API, "exodrive_http_connections").await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_silent_clients_take_a_bounded_memory_and_nobody_elses_place() {
    const NETWORKS: u8 = 50;
    const EACH: u32 = 200;
    const ALL: f64 = NETWORKS as f64 * EACH as f64;
    const HEAD: Duration = Duration::from_secs(60);
    /// 32 KiB for each connection.
    const MOST_MIB: u64 = 320;
    exodrive_runtime::descriptors::raise_limit();
    let world =
        World::with(&[("EXODRIVE_MAX_CONNECTIONS", "10500"), ("EXODRIVE_HEAD_TIMEOUT", "60s")])
            .await;
    let (api, before) = (world.address(API), most_memory(world.pid(API)));
    let began = Instant::now();
    let mut silent = Vec::new();
    for network in 1..=NETWORKS {
        for n in 0..EACH {
            let mut stream = connect_from([127, 0, 2, network], api).await.unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHo").await.unwrap();
            }
            silent.push(stream);
        }
    }
    let connected = began.elapsed();
    assert!(connected < HEAD * 3 / 4, "the machine is too slow for this test: {connected:?}");
    eventually("all are connected", async || {
        let open = open(&world).await;
        if open >= ALL { Ok(()) } else { Err(open) }
    })
    .await;
    let (median, longest) = livez(&world).await;
    assert!(longest < AT_ONCE, "/livez took {longest:?}");
    for n in 0..10 {
        let answer = world.post(&Delivery::new(format!("msg_{n}"), "{}")).await;
        answer.expect(200);
        world.get("/v1/cars").await.expect(200);
        assert!(answer.took < AT_ONCE, "{:?}", answer.took);
    }
    let asked = began.elapsed();
    let most = most_memory(world.pid(API)) - before;
    println!(
        "connected in {connected:?}; /livez {median:?}, at most {longest:?}; {most} MiB more than \
         {before} MiB"
    );
    assert!(asked < HEAD, "the machine is too slow for this test: {asked:?}");
    assert!(most < MOST_MIB, "{most} MiB more than {before} MiB");
    within(HEAD * 2, "all are disconnected", async || {
        let open = open(&world).await;
        if open < 100.0 { Ok(()) } else { Err(open) }
    })
    .await;
    for stream in silent {
        let received = received_until_end(stream).await;
        assert!(received.is_empty() || received.starts_with("HTTP/1.1 4"), "{received}");
    }
    world.stored(&Delivery::new("msg_last", "{}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_one_byte_a_second_end_in_time_and_others_are_taken_meanwhile() {
    const CLIENTS: u32 = 500;
    const BODY: Duration = Duration::from_secs(10);
    let world = World::start().await;
    let api = world.address(API);
    let now = chrono::Utc::now().timestamp();
    let slow = |n: u32| async move {
        let network = u8::try_from(n % 4).unwrap() + 1;
        let mut stream = connect_from([127, 0, 3, network], api).await.unwrap();
        let head = format!(
            "POST /v1/webhooks/resend HTTP/1.1\r\nHost: a\r\nsvix-id: msg_{n}\r\n\
             svix-timestamp: {now}\r\nsvix-signature: v1,AAAA\r\nContent-Length: 1000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let began = Instant::now();
        let (mut reading, mut writing) = stream.into_split();
        let write = async {
            while writing.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let mut answer = vec![0; 4_096];
        let read = tokio::select! {
            read = reading.read(&mut answer) => read.unwrap_or(0),
            () = write => 0,
        };
        let status = String::from_utf8_lossy(&answer[..read.min(12)]).into_owned();
        (status, began.elapsed())
    };
    let attack = futures::future::join_all((0..CLIENTS).map(slow));
    let others = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let livez = livez(&world).await;
        for n in 0..10 {
            let answer = world.post(&Delivery::new(format!("msg_good_{n}"), "{}")).await;
            answer.expect(200);
            assert!(answer.took < AT_ONCE, "{:?}", answer.took);
        }
        livez
    };
    let (slow, (median, longest)) = tokio::join!(attack, others);
    println!("/livez {median:?}, at most {longest:?}");
    assert!(longest < AT_ONCE, "/livez took {longest:?}");
    for (status, took) in slow {
        assert_eq!(status, "HTTP/1.1 408");
        assert!(took >= BODY / 2 && took < BODY * 3, "{took:?}");
    }
    world.stored(&Delivery::new("msg_last", "{}")).await;
}

/// Processor time that a process has used.
fn processor_time(pid: u32) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold spaces.
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    TICK * ticks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_descriptors_waits_for_some_and_does_not_spin() {
    const LEFT: usize = 20;
    const WATCHED: Duration = Duration::from_secs(4);
    let world = World::start().await;
    let (api, pid) = (world.address(API), world.pid(API));
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
        let mut answer = [0; 4_096];
        let read = tokio::time::timeout(AT_ONCE, stream.read(&mut answer)).await;
        read.ok().and_then(Result::ok).map(|length| answer[..length].starts_with(b"HTTP/1.1 200"))
    };
    world.stored(&Delivery::new("msg_1", "{}")).await;
    world.get("/v1/cars").await.expect(200);
    let mut known = TcpStream::connect(api).await.unwrap();
    assert_eq!(ask(&mut known).await, Some(true));

    let used = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", used + LEFT);
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(limited.unwrap().success());
    let mut others = Vec::new();
    for n in 0..200_u8 {
        others.push(connect_from([127, 0, 4, 1 + n % 4], api).await.unwrap());
    }
    let (began, before) = (Instant::now(), processor_time(pid));
    while began.elapsed() < WATCHED {
        assert_eq!(ask(&mut known).await, Some(true), "who is connected is answered");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let spent = processor_time(pid) - before;
    println!("{spent:?} of processor time in {:?}", began.elapsed());
    assert!(spent < WATCHED / 3, "{spent:?}");
    drop(others);
    eventually("a new connection is answered", async || {
        let mut stream = TcpStream::connect(api).await.unwrap();
        ask(&mut stream).await.filter(|answered| *answered).map(drop)
    })
    .await;
    world.post_until_taken(&Delivery::new("msg_2", "{}")).await;
    assert!(!world.printed(API).contains("panicked"));
}
