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
    delay: Duration,
    black_hole: bool,
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
        let server = url.rsplit(['@', '/']).next().unwrap().parse().unwrap();
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

    /// From now on each piece of data arrives later by this.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Loses all that is sent either way, as long as it is set. Connections stay.
    pub fn black_hole(&self, on: bool) {
        self.weather.send_modify(|weather| weather.black_hole = on);
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
    let cut = move |now: &Weather| now.cuts != began.cuts;
    let closed = move |now: &Weather| cut(now) || now.half_closes != began.half_closes;
    tokio::spawn(pump(from_client, to_server, weather.clone(), cut));
    tokio::spawn(pump(from_server, to_client, weather.clone(), closed));
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    ended: impl Fn(&Weather) -> bool + Send + 'static,
) {
    let mut changes = weather.clone();
    let moving = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let Weather { delay, black_hole, .. } = *weather.borrow();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if !black_hole && to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    let ending = async {
        // The proxy that is gone has cut first.
        let _ = changes.wait_for(ended).await.map(drop);
    };
    tokio::select! {
        () = moving => {}
        () = ending => {}
    }
}
