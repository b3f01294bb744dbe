//! Accepts connections, within bounds of their number and of the time that a client may be silent.
//!
//! `axum::serve` has neither: a few clients that say nothing would take every descriptor.

use super::{
    auth::peer::{is_trusted, network_of},
    connection::{Connection, Reads},
};
use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, header::CONNECTION},
    serve::Listener,
};
use hyper::{
    body::Incoming,
    rt::{Sleep, Timer},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// Largest buffer of a connection for what it has received. A head that the API answers itself has
/// at most 40 KiB; hyper answers 414 up to 64 KiB and 431 beyond.
const LONGEST_BUFFER: usize = 128 << 10;

/// Bounds of the connections to a process.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections that are open at a time.
    pub total: usize,
    /// Connections of one network that are open at a time.
    pub per_network: usize,
    /// Networks that have no bound of their own: proxies.
    pub unbounded: Vec<IpNet>,
    /// Time for the head of a request, from its first byte; for the first one from the beginning of
    /// the connection.
    pub head: Duration,
    /// Time that a connection may wait for its next request.
    pub idle: Duration,
    /// Time for which nothing of an answer may be taken.
    pub write: Duration,
}

/// The way in which a server ends.
#[derive(Clone)]
pub struct Phases {
    /// When it is cancelled, each answer closes its connection, so that the client's next request
    /// goes elsewhere: a connection that waits could be closed just when a request is on its way.
    pub leaving: CancellationToken,
    /// When it is cancelled, no connection is accepted, and those that wait are closed.
    pub stop: CancellationToken,
}

/// Answers requests by `router` until it is to stop; returns when every request that was in
/// progress then is answered.
pub(crate) async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    phases: Phases,
) {
    let open = Arc::new(Open { limits, counts: Mutex::default() });
    let connections = TaskTracker::new();
    loop {
        let (stream, address) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = phases.stop.cancelled() => break,
        };
        // One that gets no place is closed.
        if let Some(place) = Place::take(&open, address.ip()) {
            connections.spawn(answer(stream, address, router.clone(), place, phases.clone()));
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Answers the requests of one connection.
async fn answer(
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    place: Place,
    Phases { leaving, stop }: Phases,
) {
    let reads = Reads::default();
    let timer = HeadTimer { reads: reads.clone(), limit: place.open.limits.head };
    let service = service_fn(move |mut request: axum::http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        let answer = router.clone().oneshot(request.map(Body::new));
        let leaving = leaving.clone();
        async move {
            let mut answer = answer.await?;
            if leaving.is_cancelled() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let stream = Connection::new(stream, reads, place.open.limits.write);
    let connection = http1::Builder::new()
        .timer(timer)
        .header_read_timeout(place.open.limits.idle)
        .max_buf_size(LONGEST_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        let error = exodrive_runtime::error_chain(&error);
        tracing::debug!(error, "A connection ended");
    }
}

/// The connections that are open.
struct Open {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_network: HashMap<String, usize>,
}

impl Open {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, until it is dropped.
struct Place {
    open: Arc<Open>,
    /// The network that it is counted for, if that has a bound.
    network: Option<String>,
}

impl Place {
    fn take(open: &Arc<Open>, address: IpAddr) -> Option<Self> {
        let (limits, address) = (&open.limits, address.to_canonical());
        let network = (!is_trusted(&limits.unbounded, address)).then(|| network_of(address));
        let mut counts = open.counts();
        let of_network = network.as_ref().and_then(|it| counts.by_network.get(it)).unwrap_or(&0);
        let exceeded = match (*of_network >= limits.per_network, counts.total >= limits.total) {
            (true, _) => Some("network"),
            (_, true) => Some("total"),
            _ => None,
        };
        if let Some(limit) = exceeded {
            metrics::counter!("exodrive_http_connections_refused_total", "limit" => limit)
                .increment(1);
            return None;
        }
        counts.total += 1;
        if let Some(network) = &network {
            *counts.by_network.entry(network.clone()).or_default() += 1;
        }
        metrics::gauge!("exodrive_http_connections").increment(1);
        drop(counts);
        Some(Self { open: open.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.counts();
        counts.total -= 1;
        if let Some(network) = &self.network
            && let Some(count) = counts.by_network.get_mut(network)
        {
            *count -= 1;
            if *count == 0 {
                counts.by_network.remove(network);
            }
        }
        metrics::gauge!("exodrive_http_connections").decrement(1);
    }
}

/// hyper's time limit for a head, in two: hyper begins it when it begins to wait for a request, so
/// that it is a connection's idle time as well. From the first byte on, the limit is another one.
struct HeadTimer {
    reads: Reads,
    limit: Duration,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, idle: Instant) -> Pin<Box<dyn Sleep>> {
        let in_head = self.reads.take_beginning();
        let deadline = if in_head { Instant::now() + self.limit } else { idle };
        let sleep = Box::pin(tokio::time::sleep_until(deadline.into()));
        Box::pin(HeadSleep { sleep, in_head, reads: self.reads.clone(), limit: self.limit })
    }
}

/// Ends when the time for a head is over. hyper asks it after each read.
struct HeadSleep {
    sleep: Pin<Box<tokio::time::Sleep>>,
    in_head: bool,
    reads: Reads,
    limit: Duration,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.in_head && self.reads.any() {
            self.in_head = true;
            let deadline = tokio::time::Instant::now() + self.limit;
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_network() {
        let limits = ConnectionLimits {
            total: 4,
            per_network: 2,
            unbounded: vec!["10.0.0.0/8".parse().unwrap()],
            head: Duration::ZERO,
            idle: Duration::ZERO,
            write: Duration::ZERO,
        };
        let open = Arc::new(Open { limits, counts: Mutex::default() });
        let take = |address: &str| Place::take(&open, address.parse().unwrap());
        let one = [take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap()];
        assert!(take("192.0.2.1").is_none(), "a network has two");
        let other = take("2001:db8::1").unwrap();
        let fourth = take("10.0.0.1").unwrap();
        assert!(take("10.0.0.1").is_none(), "there are four in all");
        drop(fourth);
        let fourth = take("2001:db8::2").unwrap();
        drop(other);
        assert!(take("2001:db8::3").is_some(), "a place is free again");
        drop((one, fourth));
        let proxies: Vec<_> = (0..4).map(|_| take("10.0.0.1").unwrap()).collect();
        drop(proxies);
        assert!(open.counts().by_network.is_empty());
    }
}
