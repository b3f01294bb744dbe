//! A process that is asked to stop says so first, and turns nobody away who heeds it.

use exodrive_runtime::services::Signal;
use exodrive_tests::{API, Answer, Delivery, World, eventually};
use futures::future::join_all;
use reqwest::Method;
use std::{
    fmt::Write,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// Much longer than the interval at which readiness is asked, and shorter than the time that a body
/// has.
const DRAIN: &str = "3s";
const SENDERS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_asked_to_stop_turns_nobody_away_who_heeds_its_readiness() {
    let world = World::with(&[("EXODRIVE_DRAIN_PERIOD", DRAIN)]).await;
    world.wait_until("ready").await;
    let (ready, sent) = (AtomicBool::new(true), AtomicUsize::new(0));
    // As a load balancer does.
    let readiness = async {
        loop {
            let answer = Answer::of(world.request(Method::GET, "/readyz")).await;
            let answer = answer.expect("readiness is answered for as long as it is the old one");
            if answer.status != 200 {
                break answer.expect(503);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let readiness = async {
        let answer = readiness.await;
        ready.store(false, Ordering::SeqCst);
        answer
    };
    let senders = join_all((0..SENDERS).map(async |sender| {
        for n in 0.. {
            if !ready.load(Ordering::SeqCst) {
                break;
            }
            world.stored(&Delivery::new(format!("msg_{sender}_{n}"), "{}")).await;
            sent.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let stop = async {
        sleep(Duration::from_secs(1)).await;
        let slow = Slow::begin(&world).await;
        world.signal(API, Signal::SIGTERM);
        slow
    };
    let (left, _, slow) = tokio::join!(readiness, senders, stop);
    assert_eq!(left["checks"]["process"]["ok"], false, "{left}");
    assert!(sent.into_inner() > SENDERS, "there was no load");

    // Once everybody is gone, nobody is let in; a request that is in progress is answered.
    eventually("new connections are refused", async || {
        TcpStream::connect(world.address(API)).await.err().map(|_| ())
    })
    .await;
    let answer = slow.end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    let status = world.ended(API).await;
    assert!(status.success(), "{status}: {}", world.printed(API));
}

/// A delivery whose last byte is not sent yet.
struct Slow {
    stream: TcpStream,
    last: Vec<u8>,
}

impl Slow {
    async fn begin(world: &World) -> Self {
        let request = world.delivery(&Delivery::new("msg_slow", "{}")).build().unwrap();
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap();
        let mut head = format!("POST {} HTTP/1.1\r\nhost: exodrive\r\n", request.url().path());
        for (name, value) in request.headers() {
            write!(head, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
        }
        write!(head, "content-length: {}\r\n\r\n", body.len()).unwrap();
        let (begin, last) = body.split_at(body.len() - 1);
        let mut stream = TcpStream::connect(world.address(API)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(begin).await.unwrap();
        Self { stream, last: last.to_vec() }
    }

    /// Sends the last byte; gives the answer.
    async fn end(mut self) -> String {
        self.stream.write_all(&self.last).await.unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
