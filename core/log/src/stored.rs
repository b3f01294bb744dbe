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
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The number of messages in one pull; larger pulls are no faster.
pub(crate) const PULL: usize = 1_000;
/// Bytes asked of the server at a time, and the most that a batch holds: a
/// body may have 1 MiB, and a thousand of those are not held at once.
const PULL_BYTES: usize = 16 << 20;
/// The time after which the server deletes a consumer that is not read.
const INACTIVE: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(1);

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

/// Reads stored messages in order, from a position onwards, without a gap.
pub struct StoredReader {
    log: Log,
    next: u64,
    /// Only messages of these subjects, which may hold wildcards; all messages if it is empty.
    filters: Vec<String>,
    inactive: Duration,
    messages: Option<pull::Stream>,
}

impl Log {
    /// A reader of every stored message from `position` on. A hole is an error.
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
    let mut stored = wire::stored(
        message.sequence,
        &message.subject,
        nanos(message.sequence, message.time)?,
        &message.headers,
        message.payload,
    );
    // The last of its name is the server's; one before it was stored so.
    for name in ADDED_BY_DIRECT_GET {
        if let Some(at) = stored.headers.iter().rposition(|(it, _)| it == name) {
            stored.headers.remove(at);
        }
    }
    Ok(stored)
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
            messages: None,
        }
    }

    /// Sets the time after which the server deletes the consumer of an idle reader.
    pub(crate) fn unread_for(&mut self, inactive: Duration) {
        self.inactive = inactive;
    }

    /// The position that it reads next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Continues at another position.
    pub(crate) fn seek(&mut self, position: u64) {
        if self.next != position {
            self.next = position;
            self.messages = None;
        }
    }

    /// The next messages: waits up to `wait` for the first, then takes the
    /// available ones, up to `limit`. After an error the reader starts again
    /// at the same position.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Hole`] is final.
    pub async fn next_batch(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<StoredBatch, ReadError> {
        let outcome = self.gather(limit, wait).await;
        if outcome.is_err() {
            self.messages = None;
        }
        outcome
    }

    async fn gather(&mut self, limit: usize, wait: Duration) -> Result<StoredBatch, ReadError> {
        let deadline = Instant::now() + wait;
        let mut batch = StoredBatch::default();
        // Moved only with the batch: a caller that stops waiting loses no
        // message.
        let mut next = self.next;
        let mut messages = match self.messages.take() {
            Some(messages) => messages,
            None => timeout(Duration::from_secs(5), self.open())
                .await
                .map_err(ReadError::unavailable)??,
        };
        while batch.messages.len() < limit && batch.bytes < PULL_BYTES {
            let message = if batch.messages.is_empty() {
                match timeout_at(deadline, messages.next()).await {
                    Ok(message) => message,
                    Err(_) => break,
                }
            } else if batch.pending > 0 {
                // More is on its way: a full batch is cheaper than two halves.
                match timeout(HEARTBEAT, messages.next()).await {
                    Ok(message) => message,
                    Err(_) => break,
                }
            } else {
                match messages.next().now_or_never() {
                    Some(message) => message,
                    None => break,
                }
            };
            match message {
                Some(Ok(message)) => self.take(message, &mut next, &mut batch)?,
                // The messages so far are valid: return them, and open a new
                // consumer next time.
                Some(Err(_)) | None if !batch.messages.is_empty() => {
                    self.next = next;
                    return Ok(batch);
                }
                Some(Err(error)) => return Err(ReadError::unavailable(error)),
                None => return Err(ReadError::unavailable("the consumer ended")),
            }
        }
        self.messages = Some(messages);
        self.next = next;
        Ok(batch)
    }

    fn take(
        &self,
        message: Message,
        next: &mut u64,
        batch: &mut StoredBatch,
    ) -> Result<(), ReadError> {
        let info = message.info().map_err(ReadError::Unavailable)?;
        let (position, pending, stored_at) = (info.stream_sequence, info.pending, info.published);
        if position < *next {
            return Ok(());
        }
        if self.filters.is_empty() && position > *next {
            return Err(ReadError::Hole { expected: *next, found: position });
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
        Ok(())
    }

    async fn open(&self) -> Result<pull::Stream, ReadError> {
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
            .max_bytes_per_batch(PULL_BYTES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(ReadError::unavailable)
    }
}
