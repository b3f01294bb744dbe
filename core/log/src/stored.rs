//! The log in its stored form: the server's bytes before any decoding. Seals
//! and proofs are made from these.

use crate::{error::ReadError, event::StoredMessage, log::Log, names::STREAM, wire};
use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, pull},
    message::StreamMessage,
    stream::DirectGetErrorKind,
};
use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The number of messages in one pull; larger pulls are no faster.
pub(crate) const PULL: usize = 1_000;
/// Bytes asked of the server at a time, and the most that a batch holds: a
/// body may have 1 MiB, and a thousand of those are not held at once.
const PULL_BYTES: usize = 16 << 20;
/// The same for a reader that is slow, or one of several: several of the largest messages.
pub const FEW_BYTES: usize = 4 << 20;
/// The time after which the server deletes a consumer that is not read.
const INACTIVE: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(1);
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The time without a message after which a reader asks the leader whether there are more. A
/// consumer may be on a server that is cut off from the others: it goes on sending heartbeats.
const STALL: Duration = Duration::from_secs(5);
const RECONNECT_POLL: Duration = Duration::from_millis(50);

/// The headers that a direct get adds behind those of the message
/// (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md>).
const ADDED_BY_DIRECT_GET: [&str; 4] =
    ["Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"];

/// Consecutive messages, and the number of later ones.
#[derive(Debug, Default)]
pub struct StoredBatch {
    /// In log order; empty when nothing came in time.
    pub messages: Vec<StoredMessage>,
    /// The number of later messages in the log when the last one was sent.
    pub pending: u64,
    bytes: usize,
}

/// A consumer, and what it has given.
struct Open {
    messages: pull::Stream,
    /// The number of messages that have come. The server numbers them: a number that is left out
    /// is of a message that got lost on its way.
    received: u64,
    /// The number of connections that the client had made when the consumer was made.
    connects: u64,
    /// When the last message has come, or the leader has said that there is none.
    heard: Instant,
}

/// What a message that has come is.
enum Step {
    /// The next one, or one that is known.
    Next,
    /// One after messages that got lost on their way.
    AfterLoss,
    /// One that follows for the server, and leaves out a position.
    AfterGap { found: u64 },
}

/// Reads stored messages in order, from a position onwards, without a gap.
pub struct StoredReader {
    log: Log,
    next: u64,
    /// Only messages of these subjects, which may hold wildcards; all messages if it is empty.
    filters: Vec<String>,
    inactive: Duration,
    /// Bytes asked of the server at a time, and the most that a batch holds.
    bytes: usize,
    open: Option<Open>,
}

impl Log {
    /// A reader of every stored message from `position` on. A hole is an error, once the stream's
    /// leader has confirmed it.
    pub fn stored_reader(&self, position: u64) -> StoredReader {
        StoredReader::new(self, &[], position)
    }

    /// A reader of the stored messages from `position` on whose subject is one
    /// of `filters`; as [`Log::reader_of`].
    pub fn stored_reader_of(&self, filters: &[String], position: u64) -> StoredReader {
        StoredReader::new(self, filters, position)
    }

    /// The stored message at a position; `None` if there is no message (yet).
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn read_stored(&self, position: u64) -> Result<Option<StoredMessage>, ReadError> {
        if position == 0 {
            return Ok(None);
        }
        match self.stream.direct_get(position).await {
            Ok(message) => direct(message).map(Some),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(ReadError::unavailable(error)),
        }
    }
}

/// The nanoseconds since 1970 that the server keeps as a message's time.
fn nanos(position: u64, stored_at: DateTime<Utc>) -> Result<i64, ReadError> {
    let nanos = stored_at.timestamp_nanos_opt();
    nanos.ok_or_else(|| {
        ReadError::unavailable(format!("position {position} has a time that no server keeps"))
    })
}

/// The message in the answer to a direct get.
///
/// # Errors
/// When its time is none that a server keeps.
pub(crate) fn direct(message: StreamMessage) -> Result<StoredMessage, ReadError> {
    let mut stored = of_leader(message)?;
    // The last of its name is the server's; one before it was stored so.
    for name in ADDED_BY_DIRECT_GET {
        if let Some(at) = stored.headers.iter().rposition(|(it, _)| it == name) {
            stored.headers.remove(at);
        }
    }
    Ok(stored)
}

/// The message in the leader's answer to a get, which adds nothing to it.
///
/// # Errors
/// As [`direct`].
pub(crate) fn of_leader(message: StreamMessage) -> Result<StoredMessage, ReadError> {
    Ok(wire::stored(
        message.sequence,
        &message.subject,
        nanos(message.sequence, message.time)?,
        &message.headers,
        message.payload,
    ))
}

impl StoredReader {
    /// A reader of the messages whose subject is one of `filters`; of all
    /// messages if there is no filter.
    pub(crate) fn new(log: &Log, filters: &[String], position: u64) -> Self {
        Self {
            log: log.clone(),
            next: position.max(1),
            filters: filters.to_vec(),
            inactive: INACTIVE,
            bytes: PULL_BYTES,
            open: None,
        }
    }

    /// Sets the time after which the server deletes the consumer of an idle reader.
    pub(crate) fn unread_for(&mut self, inactive: Duration) {
        self.inactive = inactive;
    }

    /// Reads at most so many bytes at a time: more than the largest message has, such as
    /// [`FEW_BYTES`].
    pub fn hold_at_most(&mut self, bytes: usize) {
        self.bytes = bytes;
    }

    /// The position that it reads next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Continues at another position.
    pub(crate) fn seek(&mut self, position: u64) {
        if self.next != position {
            self.next = position;
            self.open = None;
        }
    }

    /// The next messages: waits up to `wait` for the first, then takes the
    /// available ones, up to `limit`. After an error the reader starts again
    /// at the same position, and so it does by itself when messages got lost
    /// on their way.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Hole`] is final: the stream's leader has
    /// confirmed it.
    pub async fn next_batch(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<StoredBatch, ReadError> {
        let deadline = Instant::now() + wait;
        // Kept only by a batch that ends well. It moves together with `next`:
        // a caller that stops waiting loses no message.
        let mut open = match self.open.take() {
            Some(open) if open.connects == self.connects() => open,
            _ => self.reopen().await?,
        };
        let mut batch = StoredBatch::default();
        let mut next = self.next;
        while batch.messages.len() < limit && batch.bytes < self.bytes {
            let message = if batch.messages.is_empty() {
                let pause = deadline.min(Instant::now() + HEARTBEAT);
                match timeout_at(pause, open.messages.next()).await {
                    Ok(message) => message,
                    Err(_) => {
                        // What was on its way when the connection ended does not come again.
                        if open.connects != self.connects() || self.stalls(&mut open, next).await? {
                            open = self.reopen().await?;
                        }
                        if pause == deadline {
                            break;
                        }
                        continue;
                    }
                }
            } else if batch.pending > 0 {
                // More is on its way: a full batch is cheaper than two halves.
                match timeout(HEARTBEAT, open.messages.next()).await {
                    Ok(message) => message,
                    Err(_) => break,
                }
            } else {
                match open.messages.next().now_or_never() {
                    Some(message) => message,
                    None => break,
                }
            };
            let outcome = match message {
                Some(Ok(message)) => {
                    open.take(message, self.filters.is_empty(), &mut next, &mut batch)
                }
                Some(Err(error)) => Err(ReadError::unavailable(error)),
                None => Err(ReadError::unavailable("the consumer ended")),
            };
            match outcome {
                Ok(Step::Next) => {}
                // The messages so far are valid: return them, and open a new
                // consumer next time.
                _ if !batch.messages.is_empty() => {
                    self.next = next;
                    return Ok(batch);
                }
                Ok(Step::AfterLoss) => open = self.reopen().await?,
                Ok(Step::AfterGap { found }) => {
                    if self.log.read_from_leader(next).await?.is_none() {
                        return Err(ReadError::Hole { expected: next, found });
                    }
                    open = self.reopen().await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.open = Some(open);
        self.next = next;
        Ok(batch)
    }

    fn connects(&self) -> u64 {
        self.log.context.client().statistics().connects.load(Ordering::Relaxed)
    }

    /// True if nothing has come for a while, and the leader has a message for this reader.
    async fn stalls(&self, open: &mut Open, next: u64) -> Result<bool, ReadError> {
        if open.heard.elapsed() < STALL {
            return Ok(false);
        }
        // By a leader that is not cut off.
        let end = self.log.last_position().await?;
        let mut last = self.filters.is_empty().then_some(end);
        for filter in &self.filters {
            last = last.max(self.log.last_position_under(filter).await?);
        }
        open.heard = Instant::now();
        Ok(last >= Some(next))
    }

    /// Makes a consumer at the reader's position.
    async fn reopen(&self) -> Result<Open, ReadError> {
        let asked = self.log.answers.ask();
        let opening = async {
            loop {
                let connects = self.connects();
                tokio::select! {
                    messages = self.pull() => {
                        let (messages, heard) = (messages?, Instant::now());
                        return Ok::<_, ReadError>(Open { messages, received: 0, connects, heard });
                    }
                    // The answer may have been lost with the connection.
                    () = self.reconnected(connects) => {}
                }
            }
        };
        let opened = timeout(OPEN_TIMEOUT, opening).await.map_err(ReadError::unavailable)??;
        asked.answered();
        Ok(opened)
    }

    async fn reconnected(&self, connects: u64) {
        while self.connects() == connects {
            sleep(RECONNECT_POLL).await;
        }
    }

    async fn pull(&self) -> Result<pull::Stream, ReadError> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.next },
            ack_policy: AckPolicy::None,
            filter_subjects: self.filters.clone(),
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: self.inactive,
            ..pull::Config::default()
        };
        let consumer = self
            .log
            .context
            .create_consumer_on_stream(config, STREAM)
            .await
            .map_err(ReadError::unavailable)?;
        consumer
            .stream()
            .max_messages_per_batch(PULL)
            .max_bytes_per_batch(self.bytes)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(ReadError::unavailable)
    }
}

impl Open {
    /// Adds a message to a batch that ends before `next`, if it belongs there.
    fn take(
        &mut self,
        message: Message,
        all: bool,
        next: &mut u64,
        batch: &mut StoredBatch,
    ) -> Result<Step, ReadError> {
        let info = message.info().map_err(ReadError::Unavailable)?;
        self.received += 1;
        self.heard = Instant::now();
        if info.consumer_sequence != self.received {
            return Ok(Step::AfterLoss);
        }
        let (position, pending, stored_at) = (info.stream_sequence, info.pending, info.published);
        if position < *next {
            return Ok(Step::Next);
        }
        if all && position > *next {
            return Ok(Step::AfterGap { found: position });
        }
        let (message, _) = message.split();
        // The client gives a message without headers no map of them.
        let headers = message.headers.unwrap_or_default();
        batch.bytes += message.payload.len();
        batch.messages.push(wire::stored(
            position,
            &message.subject,
            nanos(position, stored_at)?,
            &headers,
            message.payload,
        ));
        batch.pending = pending;
        *next = position + 1;
        Ok(Step::Next)
    }
}
