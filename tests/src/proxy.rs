//! A network between a process and a server that fails as a test wants it to.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

const BUFFER: usize = 64 << 10;

/// What the network does. The counts grow by one each time.
#[derive(Clone, Copy, Default)]
struct Weather {
    cuts: u64,
    half_closes: u64,
    forgotten: u64,
    delay: Duration,
    bytes_per_second: Option<u32>,
    black_hole: bool,
    answers_lost: bool,
}

/// The direction of data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

/// Passes connections on to a server. Dropping it cuts them, and takes no more.
pub struct Proxy {
    server: SocketAddr,
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of the server of a URL, which names it by its address.
    pub async fn start(url: &str) -> Self {
        let place = url.split_once("://").map_or(url, |(_, rest)| rest);
        let place = place.rsplit('@').next().unwrap().split(['/', '?']).next().unwrap();
        let server = place.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn({
            let (weather, accepted) = (weather.clone(), accepted.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let weather = weather.subscribe();
                    // A client whose server is away sees its connection end.
                    if let Ok(server) = TcpStream::connect(server).await {
                        pass(client, server, &weather);
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { server, address, weather, accepted, accepting }
    }

    /// A URL of the server, with the proxy's address in its place.
    pub fn url(&self, url: &str) -> String {
        url.replace(&self.server.to_string(), &self.address.to_string())
    }

    /// The number of connections that it has passed on so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Cuts all connections. What they carried is lost.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Ends all connections from the server's side only: clients can still send.
    pub fn half_close(&self) {
        self.weather.send_modify(|weather| weather.half_closes += 1);
    }

    /// Forgets all connections: what is sent on them, also that they end, arrives nowhere, and
    /// nobody is told. New ones are passed on.
    pub fn forget(&self) {
        self.weather.send_modify(|weather| weather.forgotten += 1);
    }

    /// From now on each piece of data arrives later by this.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// From now on a connection carries so many bytes in a second each way; as many as it can
    /// without a number.
    pub fn throttle(&self, bytes_per_second: Option<u32>) {
        self.weather.send_modify(|weather| weather.bytes_per_second = bytes_per_second);
    }

    /// Loses all that is sent either way, as long as it is set. Connections stay.
    pub fn black_hole(&self, on: bool) {
        self.weather.send_modify(|weather| weather.black_hole = on);
    }

    /// Loses all that servers send, as long as it is set: they get the requests. Connections stay.
    pub fn lose_answers(&self, on: bool) {
        self.weather.send_modify(|weather| weather.answers_lost = on);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

fn pass(client: TcpStream, server: TcpStream, weather: &watch::Receiver<Weather>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let began = *weather.borrow();
    let pump = |from, to, direction| {
        tokio::spawn(Pump { from, to, weather: weather.clone(), began, direction }.run());
    };
    pump(from_client, to_server, Direction::Requests);
    pump(from_server, to_client, Direction::Answers);
}

/// One direction of a connection.
struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    /// The weather when the connection was made.
    began: Weather,
    direction: Direction,
}

impl Pump {
    async fn run(self) {
        let Self { mut from, mut to, weather, began, direction } = self;
        let mut changes = weather.clone();
        let forgotten = |now: &Weather| now.forgotten != began.forgotten;
        let moving = async {
            let mut buffer = vec![0; BUFFER];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let now = *weather.borrow();
                let slow = now.bytes_per_second.map_or(0.0, |rate| length as f64 / f64::from(rate));
                let late = now.delay + Duration::from_secs_f64(slow);
                if !late.is_zero() {
                    tokio::time::sleep(late).await;
                }
                let answer = direction == Direction::Answers;
                let lost = now.black_hole || answer && now.answers_lost;
                // Nothing arrives after what was lost before a cut.
                let ends = |now: &Weather| now.cuts != began.cuts || forgotten(now);
                let gone = lost || ends(&weather.borrow());
                if !gone && to.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
            if forgotten(&weather.borrow()) {
                std::future::pending::<()>().await;
            }
        };
        let ending = async {
            let ended = |now: &Weather| {
                let closed = now.half_closes != began.half_closes;
                now.cuts != began.cuts || closed && direction == Direction::Answers
            };
            // The proxy that is gone has cut first.
            let _ = changes.wait_for(ended).await.map(drop);
        };
        tokio::select! {
            () = moving => {}
            () = ending => {}
        }
    }
}
