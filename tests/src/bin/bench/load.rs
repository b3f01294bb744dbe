//! Closed-loop load: a number of callers, each with one request in flight.
//!
//! The HTTP client sends requests that were written out beforehand and reads
//! no more of an answer than its status, its length and one mark, on one
//! thread: its processor time is not available to the side that it measures.

use crate::Failure;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// The default number of callers at a time.
pub(crate) const IN_FLIGHT: usize = 64;

/// The requests to send, and the answers to expect.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Callers at a time.
    pub(crate) in_flight: usize,
    /// The allowed statuses of an answer.
    pub(crate) statuses: &'static [u16],
    /// A text that the head of each answer must contain.
    pub(crate) mark: Option<&'static str>,
}

impl Default for Load {
    fn default() -> Self {
        Self { in_flight: IN_FLIGHT, statuses: &[200], mark: None }
    }
}

/// The result of a round of load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Vec<Duration>,
    /// Answers that carried the mark.
    pub(crate) marked: usize,
    /// Answers by their status.
    pub(crate) statuses: BTreeMap<u16, usize>,
}

impl Outcome {
    pub(crate) fn count(&self) -> usize {
        self.latencies.len()
    }

    pub(crate) fn rate(&self) -> f64 {
        self.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// Adds the result of another caller or another round.
    pub(crate) fn add(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.latencies.extend(other.latencies);
        self.marked += other.marked;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    /// Answers of a status, per second.
    pub(crate) fn rate_of(&self, status: u16) -> f64 {
        let count = self.statuses.get(&status).copied().unwrap_or_default();
        count as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of requests does not exceed, in ms.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let index = (sorted.len() as f64 * share) as usize;
        sorted
            .get(index.min(sorted.len().saturating_sub(1)))
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1_000.0)
    }
}

/// Requests to be sent, each in its bytes.
#[derive(Clone)]
pub(crate) struct Requests {
    pub(crate) bytes: Arc<Vec<Vec<u8>>>,
    /// From the beginning when they are used up; else the round ends.
    pub(crate) again: bool,
}

impl Requests {
    fn get(&self, n: usize) -> Option<&[u8]> {
        let n = if self.again { n % self.bytes.len().max(1) } else { n };
        self.bytes.get(n).map(Vec::as_slice)
    }
}

/// Posts or gets for this time over this number of connections.
pub(crate) async fn http(
    address: SocketAddr,
    requests: Requests,
    round: Duration,
    load: Load,
) -> Result<Outcome, Failure> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(http_on_this_thread(address, requests, round, load))
    })
    .await?
}

async fn http_on_this_thread(
    address: SocketAddr,
    requests: Requests,
    round: Duration,
    load: Load,
) -> Result<Outcome, Failure> {
    let mut connections = Vec::new();
    for _ in 0..load.in_flight {
        connections.push(Connection::open(address).await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for mut connection in connections {
        let (requests, next) = (requests.clone(), Arc::clone(&next));
        callers.spawn(async move {
            let mut own = Outcome::default();
            while began.elapsed() < round
                && let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let sent = Instant::now();
                let answer = connection.exchange(request).await?;
                own.latencies.push(sent.elapsed());
                *own.statuses.entry(answer.status).or_default() += 1;
                if !load.statuses.contains(&answer.status) {
                    let text = String::from_utf8_lossy(&connection.buffer).into_owned();
                    return Err(io::Error::other(format!("answered {text}")));
                }
                let head = &connection.buffer[..answer.head];
                own.marked += usize::from(load.mark.is_some_and(|mark| contains(head, mark)));
            }
            Ok(own)
        });
    }
    let mut outcome = Outcome::default();
    while let Some(caller) = callers.join_next().await {
        outcome.add(caller??);
    }
    outcome.elapsed = began.elapsed();
    Ok(outcome)
}

/// Does each item once, [`IN_FLIGHT`] at a time.
pub(crate) async fn closed_loop<T, F>(
    items: Vec<T>,
    round: Duration,
    act: impl Fn(T) -> F + Clone + Send + 'static,
) -> Result<Outcome, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Failure>> + Send,
{
    let items = Arc::new(Mutex::new(items.into_iter()));
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (items, act) = (Arc::clone(&items), act.clone());
        callers.spawn(async move {
            let take = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
            let mut latencies = Vec::new();
            while began.elapsed() < round
                && let Some(item) = take()
            {
                let sent = Instant::now();
                act(item).await?;
                latencies.push(sent.elapsed());
            }
            Ok::<_, Failure>(latencies)
        });
    }
    let mut outcome = Outcome::default();
    while let Some(caller) = callers.join_next().await {
        outcome.latencies.extend(caller??);
    }
    outcome.elapsed = began.elapsed();
    Ok(outcome)
}

/// One HTTP/1.1 connection with keep-alive.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The offset of the body.
    head: usize,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8 << 10) })
    }

    /// Sends a request and takes its whole answer in.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let (status, length) = read_head(&self.buffer[..head])
            .ok_or_else(|| io::Error::other("an answer without status or length"))?;
        while self.buffer.len() < head + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Answer { status, head })
    }

    /// The body of the answer taken in last.
    pub(crate) fn body(&self, answer: &Answer) -> &[u8] {
        &self.buffer[answer.head..]
    }

    /// The head of the answer taken in last.
    pub(crate) fn head(&self, answer: &Answer) -> &[u8] {
        &self.buffer[..answer.head]
    }
}

fn read_head(head: &[u8]) -> Option<(u16, usize)> {
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    let number = |bytes: &[u8]| {
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&bytes[..digits]).ok()?.parse::<usize>().ok()
    };
    let status = u16::try_from(number(head.get(9..)?)?).ok()?;
    let length = number(&head[find(head, LENGTH)? + LENGTH.len()..])?;
    Some((status, length))
}

pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    find(bytes, text.as_bytes()).is_some()
}

fn find(bytes: &[u8], requested: &[u8]) -> Option<usize> {
    bytes.windows(requested.len()).position(|window| window == requested)
}
