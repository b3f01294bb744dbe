//! Appends to the log: facts without a condition, and decisions guarded by the
//! last position of their subject.

use crate::{
    codec,
    error::{AppendError, KeyError},
    event::{Appended, NewEvent},
    log::Log,
    names::{CANARY_SUBJECT, STREAM},
    stored, wire,
};
use async_nats::{
    HeaderMap, client, header,
    jetstream::{
        Context, ErrorCode, message::PublishMessage, publish::PublishAck, response::Response,
        stream::LastRawMessageErrorKind,
    },
};
use bytes::Bytes;
use exodrive_domain::Recorded;
use std::{collections::HashSet, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// The delay before a batch is sent again. The server has few batches open at a
/// time, each for some milliseconds.
const BATCH_RETRY_DELAY: Duration = Duration::from_millis(10);

impl Log {
    /// Appends a fact from outside: no condition, but counted once. An event
    /// whose id the server remembers ([`Log::duplicate_window`]) is answered
    /// with the first one's position. Returns once the event is as durable as
    /// the server's sync mode makes it.
    ///
    /// # Errors
    /// Any [`AppendError`] except [`AppendError::Conflict`].
    pub async fn append_fact(&self, event: &NewEvent) -> Result<Appended, AppendError> {
        self.publish(event, |message| message.message_id(&event.envelope.id)).await
    }

    /// Appends a decision, if nothing was appended to its subject since `last`,
    /// the position of the event that it was decided on (0: no event). A retry
    /// of an append whose acknowledgement was lost is recognised by the event's
    /// id and answered as a duplicate, at any later time.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when another event was appended first; else as
    /// [`Log::append_fact`].
    pub async fn append_decision(
        &self,
        event: &NewEvent,
        last: u64,
    ) -> Result<Appended, AppendError> {
        match self.publish(event, |message| message.expected_last_subject_sequence(last)).await {
            Err(AppendError::Conflict) => self.own_earlier_append(event).await,
            outcome => outcome,
        }
    }

    /// Appends one decision over several subjects: all of its events or none,
    /// at consecutive positions. Each is guarded as by [`Log::append_decision`]
    /// with the position given beside it; of several events of one subject the
    /// first one's counts. A batch costs about as much as 50 single appends: use
    /// it only where half of the events would be wrong.
    ///
    /// A retry after a lost acknowledgement is recognised by the events' ids
    /// as long as one of the subjects has no newer event.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when one of the subjects has changed; else as
    /// [`Log::append_fact`].
    pub async fn append_batch(
        &self,
        events: &[(NewEvent, u64)],
    ) -> Result<Vec<Appended>, AppendError> {
        match events {
            [] => return Ok(Vec::new()),
            [(event, last)] => return Ok(vec![self.append_decision(event, *last).await?]),
            _ => {}
        }
        let (started, asked) = (Instant::now(), self.answers.ask());
        let deadline = started + self.ack_timeout;
        let attempts = async {
            loop {
                match self.publish_batch(events).await {
                    Ok(last) => break Ok(last),
                    Err(BatchError::TooManyOpen) => sleep(BATCH_RETRY_DELAY).await,
                    Err(BatchError::Append(error)) => break Err(error),
                }
            }
        };
        let append = async {
            timeout_at(deadline, attempts).await.map_err(|_| AppendError::Unavailable(None))?
        };
        let outcome = self.followed(append, |_| true).await;
        asked.ended(&outcome, AppendError::is_answer);
        match outcome {
            // The answer has the position of the last event only.
            Ok(last) => {
                metrics::histogram!("exodrive_log_append_seconds").record(started.elapsed());
                Ok(consecutive(events.len(), last, events.len() - 1, false))
            }
            Err(AppendError::Conflict) => self.own_earlier_batch(events).await,
            Err(error) => Err(error),
        }
    }

    /// Writes to a small stream beside the log, to prove that the server can
    /// store; gives the time it took.
    ///
    /// # Errors
    /// When the write is not acknowledged in the time an append has.
    pub async fn probe(&self) -> Result<Duration, AppendError> {
        let asked = self.answers.ask();
        let outcome = probe(&self.context, self.ack_timeout).await;
        asked.ended(&outcome, AppendError::is_answer);
        outcome
    }

    /// Recognises a batch that was stored earlier. If the last event of any
    /// subject is ours, the whole batch is stored: it is appended all or nothing.
    async fn own_earlier_batch(
        &self,
        events: &[(NewEvent, u64)],
    ) -> Result<Vec<Appended>, AppendError> {
        let mut seen = HashSet::new();
        for (index, (event, _)) in events.iter().enumerate().rev() {
            if !seen.insert(&event.subject) {
                continue;
            }
            match self.own_earlier_append(event).await {
                Ok(Appended { position, .. }) => {
                    return Ok(consecutive(events.len(), position, index, true));
                }
                Err(AppendError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(AppendError::Conflict)
    }

    /// The positions of events that may have been appended at their guards'
    /// positions, however many other events followed.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when they are not stored.
    pub(crate) async fn find_earlier_batch(
        &self,
        events: &[(NewEvent, u64)],
    ) -> Result<Vec<Appended>, AppendError> {
        let Some((first, last)) = events.first() else { return Ok(Vec::new()) };
        let after = self.events_after(&first.subject, *last).await?;
        let own = after.iter().find(|event| self.is_same(first, event));
        let position = own.ok_or(AppendError::Conflict)?.position;
        Ok(consecutive(events.len(), position, 0, true))
    }

    /// Sends a batch (ADR-50) and gives the position of its last event.
    async fn publish_batch(&self, events: &[(NewEvent, u64)]) -> Result<u64, BatchError> {
        let client = self.context.client();
        // A batch that failed half way may be open still, under its id.
        let batch = Uuid::now_v7().to_string();
        let mut guarded = HashSet::new();
        for (index, (event, last)) in events.iter().enumerate() {
            let subject = event.subject.to_string();
            let (mut headers, body) = self.encode(event).await?;
            headers.insert(header::NATS_EXPECTED_STREAM, STREAM);
            headers.insert(header::NATS_BATCH_ID, batch.as_str());
            headers.insert(header::NATS_BATCH_SEQUENCE, (index + 1).to_string());
            // The server takes a subject's expectation once.
            if guarded.insert(&event.subject) {
                let expected = header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
                headers.insert(expected, last.to_string());
            }
            if index + 1 == events.len() {
                headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
                return match ask(&client, subject, headers, body).await? {
                    Some(ack) => Ok(ack.sequence),
                    None => {
                        Err(AppendError::unavailable("the end of a batch was not acknowledged")
                            .into())
                    }
                };
            } else if index == 0 {
                // An empty answer opens the batch. A server that does not know
                // batches would have stored the event.
                if ask(&client, subject, headers, body).await?.is_some() {
                    return Err(AppendError::unavailable(
                        "the server took part of a batch for all",
                    )
                    .into());
                }
            } else {
                client.publish_with_headers(subject, headers, body).await.map_err(|error| {
                    match error.kind() {
                        client::PublishErrorKind::MaxPayloadExceeded => AppendError::TooLarge,
                        _ => AppendError::unavailable(error),
                    }
                })?;
            }
        }
        Err(AppendError::unavailable("an empty batch").into())
    }

    /// Recognises the retry of a stored decision. Current servers answer it
    /// with "wrong last sequence": if the subject's last event is ours, there
    /// is no conflict. The same id is not enough: it may be another request
    /// under a key that was used before, decided on a state that did not
    /// contain that earlier request yet.
    async fn own_earlier_append(&self, event: &NewEvent) -> Result<Appended, AppendError> {
        let subject = event.subject.to_string();
        match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(last) => {
                let position = last.sequence;
                let last = self.decode_stored(stored::direct(last)?).await?;
                match self.is_same(event, &last) {
                    true => Ok(Appended { position, duplicate: true }),
                    false => Err(AppendError::Conflict),
                }
            }
            // The guard named a position where the subject has no event.
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Err(AppendError::Conflict)
            }
            Err(error) => Err(AppendError::Unavailable(Some(Box::new(error)))),
        }
    }

    /// True if a recorded event is the one that was to be appended: it has the
    /// same id and the same received bytes. It does not matter if they can
    /// still be read.
    pub fn is_same(&self, event: &NewEvent, recorded: &Recorded) -> bool {
        codec::is_same(&self.keys, event, recorded)
    }

    /// Headers and body of the message to be stored.
    async fn encode(&self, event: &NewEvent) -> Result<(HeaderMap, Bytes), AppendError> {
        if !self.checked {
            return Err(AppendError::OpenedForReading);
        }
        let encoded = codec::encode(&self.keys, event).await?;
        let mut headers = wire::headers(&event.envelope, &encoded.provider_headers);
        for (name, value) in encoded.headers {
            headers.insert(name, value);
        }
        Ok((headers, encoded.body))
    }

    async fn publish(
        &self,
        event: &NewEvent,
        guard: impl FnOnce(PublishMessage) -> PublishMessage,
    ) -> Result<Appended, AppendError> {
        let (started, asked) = (Instant::now(), self.answers.ask());
        let outcome = self.acknowledged(event, guard).await;
        asked.ended(&outcome, AppendError::is_answer);
        let ack = outcome?;
        metrics::histogram!("exodrive_log_append_seconds").record(started.elapsed());
        tracing::debug!(
            trace_id = event.envelope.trace_id(),
            position = ack.sequence,
            duplicate = ack.duplicate,
            "Appended at {}",
            ack.sequence
        );
        Ok(Appended { position: ack.sequence, duplicate: ack.duplicate })
    }

    async fn acknowledged(
        &self,
        event: &NewEvent,
        guard: impl FnOnce(PublishMessage) -> PublishMessage,
    ) -> Result<PublishAck, AppendError> {
        let deadline = Instant::now() + self.ack_timeout;
        let encoded = timeout_at(deadline, self.encode(event)).await;
        // Nothing but the key store was called so far.
        let (headers, body) = encoded.map_err(|_| KeyError::Unavailable(None))??;
        let message = guard(PublishMessage::build().headers(headers).payload(body));
        let subject = event.subject.to_string();
        let sent = self.context.send_publish(subject, message.expected_stream(STREAM));
        let append = async {
            let ack = match timeout_at(deadline, sent).await {
                Ok(Ok(ack)) => timeout_at(deadline, ack).await,
                Ok(Err(error)) => Ok(Err(error)),
                Err(elapsed) => Err(elapsed),
            };
            ack.map_err(|_| AppendError::Unavailable(None))?.map_err(AppendError::from)
        };
        self.followed(append, |ack| !ack.duplicate).await
    }
}

enum BatchError {
    /// Nothing was stored; the server has too many batches open now.
    TooManyOpen,
    Append(AppendError),
}

impl From<AppendError> for BatchError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

/// Sends a part of a batch and waits for the answer; `None` is an empty one.
async fn ask(
    client: &client::Client,
    subject: String,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Option<PublishAck>, BatchError> {
    let answer = client.request_with_headers(subject, headers, body).await.map_err(|error| {
        match error.kind() {
            client::RequestErrorKind::MaxPayloadExceeded => AppendError::TooLarge,
            _ => AppendError::unavailable(error),
        }
    })?;
    if answer.payload.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(&answer.payload).map_err(AppendError::unavailable)? {
        Response::Ok(ack) => Ok(Some(ack)),
        Response::Err { error }
            if error.error_code() == ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT =>
        {
            Err(BatchError::TooManyOpen)
        }
        Response::Err { error } => Err(AppendError::of_server(error).into()),
    }
}

/// The positions of a batch's events, if the one at `index` is at `position`.
fn consecutive(count: usize, position: u64, index: usize, duplicate: bool) -> Vec<Appended> {
    let distance = |from: usize, to: usize| u64::try_from(to - from).unwrap_or(u64::MAX);
    let before = (0..index).map(|at| position.saturating_sub(distance(at, index)));
    let after = (index..count).map(|at| position + distance(index, at));
    before.chain(after).map(|position| Appended { position, duplicate }).collect()
}

async fn probe(context: &Context, timeout: Duration) -> Result<Duration, AppendError> {
    let started = Instant::now();
    let deadline = started + timeout;
    let sent = context.publish(CANARY_SUBJECT, Bytes::new());
    let ack = timeout_at(deadline, async { sent.await?.await }).await;
    ack.map_err(|_| AppendError::Unavailable(None))?.map_err(AppendError::from)?;
    Ok(started.elapsed())
}
