//! A command runs to its end when its client hangs up: no key is left in
//! flight, and a retry gets the answer.

use exodrive_runtime::services::{Service, Signal};
use exodrive_tests::{API, World, booking_body, bookings_in, day, eventually, key};
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// How long a key that was left in flight would be refused.
const IN_FLIGHT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_client_hangs_up_runs_to_its_end() {
    let world = World::start().await;
    let (admin, visitor) = (world.admin(), world.visitor());
    let car = admin.add_car("one", 100_000).await;
    let (key, body) = (key(), booking_body(&car, day(0), day(2)));
    // The calendar is known, so that the append is all that is left to wait for.
    visitor.post("/v1/bookings", &booking_body(&car, day(10), day(12))).await.expect(201);

    // The log server answers nothing: the command waits for it, and the client hangs up.
    world.services.signal(Service::Nats, Signal::SIGSTOP).unwrap();
    let text = body.to_string();
    let head = format!(
        "POST /v1/bookings HTTP/1.1\r\nhost: exodrive\r\ncontent-type: application/json\r\n\
         idempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    let mut client = TcpStream::connect(world.address(API)).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    let redis = redis::Client::open(world.redis()).unwrap();
    let redis = redis.get_multiplexed_async_connection().await.unwrap();
    eventually("the command is in flight", async || {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("exo:command:*").query_async(&mut redis.clone()).await.ok()?;
        let mut in_flight = 0;
        for key in keys {
            let held: String =
                redis::cmd("GET").arg(key).query_async(&mut redis.clone()).await.ok()?;
            in_flight += usize::from(held.contains("\"answer\":null"));
        }
        (in_flight == 1).then_some(())
    })
    .await;
    drop(client);
    // The server has noticed it by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.services.signal(Service::Nats, Signal::SIGCONT).unwrap();

    let began = Instant::now();
    let answer = eventually("a retry gets the answer", async || {
        let answer = visitor.post_as(&key, "/v1/bookings", &body).await;
        match answer.json()["code"].as_str() {
            Some("request_in_flight") => Err(answer.json()),
            _ => Ok(answer),
        }
    })
    .await;
    assert!(began.elapsed() < IN_FLIGHT / 2, "the key was left in flight");
    answer.expect(201);
    assert_eq!(answer.header("idempotent-replayed"), "true", "it was the first one's answer");
    assert_eq!(bookings_in(&world.events().await), 2, "it was made once");
}
