use crate::{Log, topology::STREAM, wire};
use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, pull},
    message::StreamMessage,
    stream::{DirectGetErrorKind, LastRawMessageErrorKind},
};
use exodrive_domain::{Recorded, Subject};
use futures::{FutureExt, StreamExt};
use std::{error::Error, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// Messages asked of the server at a time; larger pulls are no faster.
const PULL: usize = 1_000;
/// Bytes asked of the server at a time, and the most that a batch holds: a
/// body may have 1 MiB, and a thousand of those are not held at once.
const PULL_BYTES: usize = 16 << 20;
/// A consumer that nobody reads goes away by itself after this.
const INACTIVE: Duration = Duration::from_secs(30);
/// The same for a consumer of one subject, which is read once.
const INACTIVE_FOLD: Duration = Duration::from_secs(5);
/// Events of one subject that are fetched singly before a consumer is made.
/// Most subjects have no more; and a consumer for each of a thousand subjects
/// that are asked for at once is more than the server makes in time.
const ONE_BY_ONE: usize = 8;
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The server does not answer; try again.
    #[error("the event log does not answer")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The log has a hole. Nothing may be folded past it.
    #[error(
        "the event log has a hole: position {expected} is missing, {found} follows. Somebody has deleted events; restore the stream from a backup"
    )]
    Hole {
        /// The position that should come next.
        expected: u64,
        /// The one that came.
        found: u64,
    },
}

impl ReadError {
    pub(crate) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Consecutive events, and how many wait behind them.
#[derive(Debug, Default)]
pub struct Batch {
    /// In log order; empty when nothing came in time.
    pub events: Vec<Recorded>,
    /// How many more the log held when the last one was sent.
    pub pending: u64,
    bytes: usize,
}

/// Reads the log in order, from a position onwards, without a gap: all of it,
/// or what a filter lets through.
pub struct Reader {
    log: Log,
    next: u64,
    /// Only events of these subjects, which may hold wildcards; all if none.
    filters: Vec<String>,
    inactive: Duration,
    messages: Option<pull::Stream>,
}

impl Log {
    /// A reader of every event from `position` on.
    pub fn reader(&self, position: u64) -> Reader {
        self.reader_of(&[], position)
    }

    /// A reader of the events from `position` on whose subject is one of
    /// `filters`, for example `exo.booking.>`; of all of them if there is no
    /// filter. Filters must not overlap. It cannot tell a hole in the log from
    /// events of others.
    pub fn reader_of(&self, filters: &[String], position: u64) -> Reader {
        Reader {
            log: self.clone(),
            next: position.max(1),
            filters: filters.to_vec(),
            inactive: INACTIVE,
            messages: None,
        }
    }

    /// The event at a position; `None` if there is none (yet).
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn read(&self, position: u64) -> Result<Option<Recorded>, ReadError> {
        if position == 0 {
            return Ok(None);
        }
        match self.stream.direct_get(position).await {
            Ok(message) => Ok(Some(recorded(message))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(ReadError::unavailable(error)),
        }
    }

    /// The position of the last event of a subject; `None` if it has none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn last_position_of(&self, subject: &Subject) -> Result<Option<u64>, ReadError> {
        self.last_position_under(&subject.to_string()).await
    }

    /// The position of the last event whose subject a filter matches, for
    /// example `exo.booking.>`; `None` if there is none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn last_position_under(&self, filter: &str) -> Result<Option<u64>, ReadError> {
        match self.stream.get_last_raw_message_by_subject(filter).await {
            Ok(message) => Ok(Some(message.sequence)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(ReadError::unavailable(error)),
        }
    }

    /// The first event from `position` on whose subject a filter matches;
    /// `None` if there is none (yet).
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn next_under(
        &self,
        filter: &str,
        position: u64,
    ) -> Result<Option<Recorded>, ReadError> {
        match self.stream.direct_get_next_for_subject(filter, Some(position.max(1))).await {
            Ok(message) => Ok(Some(recorded(message))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(ReadError::unavailable(error)),
        }
    }

    /// Every event of one subject, in log order, as of now.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn history(&self, subject: &Subject) -> Result<Vec<Recorded>, ReadError> {
        self.events_after(subject, 0).await
    }

    /// Every event of one subject after a position, in log order, as of now.
    /// Cheap when there are none or few.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn events_after(
        &self,
        subject: &Subject,
        position: u64,
    ) -> Result<Vec<Recorded>, ReadError> {
        let last = self.last_position_of(subject).await?.unwrap_or(0);
        self.events_between(subject, position, last).await
    }

    /// The events of a subject after a position, up to `last`, the position of
    /// one of them (or not after it: then none).
    pub(crate) async fn events_between(
        &self,
        subject: &Subject,
        mut position: u64,
        last: u64,
    ) -> Result<Vec<Recorded>, ReadError> {
        let subject = subject.to_string();
        let mut events = Vec::new();
        while position < last && events.len() < ONE_BY_ONE {
            let next = self.stream.direct_get_next_for_subject(&subject, Some(position + 1)).await;
            match next {
                Ok(message) => {
                    position = message.sequence;
                    events.push(recorded(message));
                }
                // A replica that is behind: the reader waits until it is not.
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(error) => return Err(ReadError::unavailable(error)),
            }
        }
        let mut reader = self.reader_of(&[subject], position + 1);
        reader.inactive = INACTIVE_FOLD;
        while reader.next <= last {
            let batch = reader.next_batch(PULL, Duration::from_secs(5)).await?;
            if batch.events.is_empty() {
                return Err(ReadError::unavailable("no event came within 5 s"));
            }
            events.extend(batch.events);
        }
        Ok(events)
    }
}

fn recorded(message: StreamMessage) -> Recorded {
    wire::recorded(
        message.sequence,
        &message.subject,
        message.time,
        &message.headers,
        message.payload,
    )
}

impl Reader {
    /// The next events: waits up to `wait` for the first, then takes what is
    /// there, up to `limit`. After an error the reader starts again where it
    /// was.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Hole`] is final.
    pub async fn next_batch(&mut self, limit: usize, wait: Duration) -> Result<Batch, ReadError> {
        let outcome = self.gather(limit, wait).await;
        if outcome.is_err() {
            self.messages = None;
        }
        outcome
    }

    async fn gather(&mut self, limit: usize, wait: Duration) -> Result<Batch, ReadError> {
        let deadline = Instant::now() + wait;
        let mut batch = Batch::default();
        // Moved only with the batch: whoever stops waiting loses no event.
        let mut next = self.next;
        let mut messages = match self.messages.take() {
            Some(messages) => messages,
            None => timeout(Duration::from_secs(5), self.open())
                .await
                .map_err(ReadError::unavailable)??,
        };
        while batch.events.len() < limit && batch.bytes < PULL_BYTES {
            let message = if batch.events.is_empty() {
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
                // What was taken is sound: hand it over, and open anew next time.
                Some(Err(_)) | None if !batch.events.is_empty() => {
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

    fn take(&self, message: Message, next: &mut u64, batch: &mut Batch) -> Result<(), ReadError> {
        let info = message.info().map_err(ReadError::Unavailable)?;
        let (position, pending, stored_at) = (info.stream_sequence, info.pending, info.published);
        if position < *next {
            return Ok(());
        }
        if self.filters.is_empty() && position > *next {
            return Err(ReadError::Hole { expected: *next, found: position });
        }
        let (message, _) = message.split();
        let headers = message.headers.unwrap_or_default();
        batch.bytes += message.payload.len();
        batch.events.push(wire::recorded(
            position,
            &message.subject,
            stored_at,
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
