//! Reads of the log: readers from a position on, one subject's history, and
//! single events.

use crate::{
    codec,
    error::ReadError,
    event::StoredMessage,
    log::Log,
    stored::{self, PULL, StoredReader},
};
use async_nats::jetstream::{
    message::StreamMessage,
    stream::{DirectGetErrorKind, LastRawMessageErrorKind},
};
use exodrive_domain::{Recorded, Subject};
use futures::StreamExt;
use std::time::Duration;

/// The time after which the server deletes a consumer of one subject, which is
/// read once.
const INACTIVE_FOLD: Duration = Duration::from_secs(5);
/// The number of events of one subject that are fetched one by one before a
/// consumer is made. Most subjects have no more. A consumer for each of a
/// thousand subjects at once is more than the server makes in time.
const ONE_BY_ONE: usize = 8;

/// Consecutive events, and the number of later ones.
#[derive(Debug, Default)]
pub struct Batch {
    /// In log order; empty when nothing came in time.
    pub events: Vec<Recorded>,
    /// The number of later events in the log when the last one was sent.
    pub pending: u64,
}

/// Reads the log in order, from a position onwards, without a gap: all
/// events, or those that match a filter.
pub struct Reader {
    log: Log,
    /// The beginning of the next batch. It moves only with decoded events: a
    /// caller that stops waiting, or cannot decode, loses none.
    next: u64,
    stored: StoredReader,
}

/// Reads the events of one subject in log order, up to the one that was the last when it began.
pub struct SubjectReader {
    log: Log,
    subject: String,
    /// The last position that was read.
    position: u64,
    last: u64,
    /// Events that were fetched one by one.
    fetched: usize,
    /// The time after which the server deletes the consumer, if it is another than usual.
    unread_for: Option<Duration>,
    reader: Option<Reader>,
}

impl Log {
    /// A reader of every event from `position` on.
    pub fn reader(&self, position: u64) -> Reader {
        self.reader_of(&[], position)
    }

    /// A reader of the events from `position` on whose subject is one of
    /// `filters`, for example `exo.booking.>`; of all events if there is no
    /// filter. Filters must not overlap. It cannot distinguish a hole in the
    /// log from events of other subjects.
    pub fn reader_of(&self, filters: &[String], position: u64) -> Reader {
        let stored = StoredReader::new(self, filters, position);
        Reader { log: self.clone(), next: stored.next(), stored }
    }

    /// The event in a stored message.
    ///
    /// # Errors
    /// When its data key is not available, or does not open it.
    pub async fn decode_stored(&self, message: StoredMessage) -> Result<Recorded, ReadError> {
        let mut recorded = codec::decode(&self.keys, vec![message]).await?;
        recorded.pop().ok_or_else(|| ReadError::unavailable("a message gave no event"))
    }

    /// The events in stored messages, in the same order; cheaper than one by
    /// one.
    ///
    /// # Errors
    /// As [`Log::decode_stored`].
    pub async fn decode_all(
        &self,
        messages: Vec<StoredMessage>,
    ) -> Result<Vec<Recorded>, ReadError> {
        codec::decode(&self.keys, messages).await
    }

    /// The event at a position; `None` if there is no event (yet).
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn read_event(&self, position: u64) -> Result<Option<Recorded>, ReadError> {
        match self.read_stored(position).await? {
            Some(message) => Ok(Some(self.decode_stored(message).await?)),
            None => Ok(None),
        }
    }

    /// The position of the newest event; 0 when the log is empty.
    ///
    /// # Errors
    /// When the server does not answer, or is cut off from the others of its cluster.
    pub async fn last_position(&self) -> Result<u64, ReadError> {
        Ok(self.info().await?.state.last_sequence)
    }

    /// The position of the last event of a subject; `None` if it has none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn last_position_of(&self, subject: &Subject) -> Result<Option<u64>, ReadError> {
        self.last_position_under(&subject.to_string()).await
    }

    /// The position of the last event whose subject a filter matches, for
    /// example `exo.booking.>`; `None` if there is no match.
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

    /// The number of events of a subject.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn count_of(&self, subject: &Subject) -> Result<u64, ReadError> {
        let info = self.stream.info_with_subjects(subject.to_string()).await;
        let mut counts = info.map_err(ReadError::unavailable)?;
        let mut events = 0;
        while let Some(count) = counts.next().await {
            events += count.map_err(ReadError::unavailable)?.1 as u64;
        }
        Ok(events)
    }

    /// The first event from `position` on whose subject a filter matches;
    /// `None` if there is no match (yet).
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn next_under(
        &self,
        filter: &str,
        position: u64,
    ) -> Result<Option<Recorded>, ReadError> {
        match self.stream.direct_get_next_for_subject(filter, Some(position.max(1))).await {
            Ok(message) => Ok(Some(self.decode_direct(message).await?)),
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

    /// Every event of one subject after a position, in log order, up to now.
    /// Cheap when there are few.
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
        position: u64,
        last: u64,
    ) -> Result<Vec<Recorded>, ReadError> {
        let mut history = SubjectReader::new(self, subject, position, last);
        history.unread_for = Some(INACTIVE_FOLD);
        let mut events = Vec::new();
        while let Some(batch) = history.next().await? {
            events.extend(batch);
        }
        Ok(events)
    }

    /// A reader of the events of one subject up to now, which holds few of them at a time.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn reader_of_subject(&self, subject: &Subject) -> Result<SubjectReader, ReadError> {
        let last = self.last_position_of(subject).await?.unwrap_or(0);
        Ok(SubjectReader::new(self, subject, 0, last))
    }

    async fn decode_direct(&self, message: StreamMessage) -> Result<Recorded, ReadError> {
        self.decode_stored(stored::direct(message)?).await
    }
}

impl Reader {
    /// The next events: waits up to `wait` for the first, then takes the
    /// available ones, up to `limit`. After an error the reader starts again
    /// at the same position.
    ///
    /// # Errors
    /// [`ReadError`]; one without a [`ReadError::outage`] is final.
    pub async fn next_batch(&mut self, limit: usize, wait: Duration) -> Result<Batch, ReadError> {
        self.stored.seek(self.next);
        let batch = self.stored.next_batch(limit, wait).await?;
        let events = codec::decode(&self.log.keys, batch.messages).await?;
        self.next = self.stored.next();
        Ok(Batch { events, pending: batch.pending })
    }
}

impl SubjectReader {
    /// A reader of the events after a position, up to `last`, the position of one of them (or not
    /// after it: then of none).
    fn new(log: &Log, subject: &Subject, position: u64, last: u64) -> Self {
        let (log, subject) = (log.clone(), subject.to_string());
        Self { log, subject, position, last, fetched: 0, unread_for: None, reader: None }
    }

    /// The next events; `None` at the end.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn next(&mut self) -> Result<Option<Vec<Recorded>>, ReadError> {
        if self.position >= self.last {
            return Ok(None);
        }
        if self.reader.is_none() && self.fetched < ONE_BY_ONE {
            let stream = &self.log.stream;
            let next = stream.direct_get_next_for_subject(&self.subject, Some(self.position + 1));
            match next.await {
                Ok(message) => {
                    let position = message.sequence;
                    let event = self.log.decode_direct(message).await?;
                    (self.position, self.fetched) = (position, self.fetched + 1);
                    return Ok(Some(vec![event]));
                }
                // A replica that is behind: the reader waits until it is not.
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => {}
                Err(error) => return Err(ReadError::unavailable(error)),
            }
        }
        let reader = self.reader.get_or_insert_with(|| {
            let filters = [self.subject.clone()];
            let mut reader = self.log.reader_of(&filters, self.position + 1);
            if let Some(unread_for) = self.unread_for {
                reader.stored.unread_for(unread_for);
            }
            reader
        });
        let batch = reader.next_batch(PULL, Duration::from_secs(5)).await?;
        if batch.events.is_empty() {
            return Err(ReadError::unavailable("no event came within 5 s"));
        }
        self.position = reader.next - 1;
        Ok(Some(batch.events))
    }
}
