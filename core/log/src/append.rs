use crate::{
    Log,
    topology::{CANARY_SUBJECT, STREAM},
    wire,
};
use async_nats::jetstream::{
    self, Context, ErrorCode,
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
};
use bytes::Bytes;
use exodrive_domain::{Envelope, Subject};
use std::{error::Error, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Newer servers answer some clashes with this code instead of 10071; the
/// client does not know it as "wrong last sequence".
const WRONG_LAST_SEQUENCE_IN_FLIGHT: u64 = 10164;

/// An event to be appended.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What it is about.
    pub subject: Subject,
    /// Its attributes.
    pub envelope: Envelope,
    /// A delivery's own headers, to be kept beside the envelope.
    pub provider_headers: Vec<(String, String)>,
    /// The body, stored as it is.
    pub body: Bytes,
}

/// An event that is durably in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where it stands.
    pub position: u64,
    /// It stood there already: an event of this id was appended before.
    pub duplicate: bool,
}

/// Why an event was not (or may not have been) appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else appended to the subject first: load again, decide again.
    #[error("the subject has changed since it was read")]
    Conflict,
    /// No acknowledgement in time. The event may be stored all the same: send
    /// it again under the same id.
    #[error("the event log did not acknowledge in time")]
    Unavailable(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// The server will not have it; sending it again changes nothing.
    #[error("the event log refused the event")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
}

impl Log {
    /// Appends a fact from outside: no condition, but counted once. An event
    /// whose id the server remembers ([`Log::duplicate_window`]) is answered
    /// with the first one's position. Returns once the event is durable as far
    /// as the server's sync mode goes.
    ///
    /// # Errors
    /// [`AppendError::Unavailable`] or [`AppendError::Refused`].
    pub async fn append_fact(&self, event: &NewEvent) -> Result<Appended, AppendError> {
        let message = message(event).message_id(&event.envelope.id);
        self.publish(event, event.subject.to_string(), message).await
    }

    /// Appends a decision, if nothing was appended to its subject since
    /// `last`, the position of the event that it was decided on (0: none).
    /// A retry of an append whose acknowledgement was lost is recognised by
    /// the event's id and answered as a duplicate, at any later time.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when somebody was first; else as
    /// [`Log::append_fact`].
    pub async fn append_decision(
        &self,
        event: &NewEvent,
        last: u64,
    ) -> Result<Appended, AppendError> {
        let subject = event.subject.to_string();
        let message = message(event).expected_last_subject_sequence(last);
        match self.publish(event, subject.clone(), message).await {
            Err(AppendError::Conflict) => self.own_earlier_append(&subject, event).await,
            outcome => outcome,
        }
    }

    /// Current servers answer the retry of a stored decision with "wrong last
    /// sequence": if the subject's last event is ours, it is no conflict.
    async fn own_earlier_append(
        &self,
        subject: &str,
        event: &NewEvent,
    ) -> Result<Appended, AppendError> {
        let last = self.stream.get_last_raw_message_by_subject(subject).await;
        match last {
            Ok(last) if wire::event_id(&last.headers) == Some(event.envelope.id.as_str()) => {
                Ok(Appended { position: last.sequence, duplicate: true })
            }
            Ok(_) => Err(AppendError::Conflict),
            Err(error) => Err(AppendError::Unavailable(Some(Box::new(error)))),
        }
    }

    async fn publish(
        &self,
        event: &NewEvent,
        subject: String,
        message: PublishMessage,
    ) -> Result<Appended, AppendError> {
        let started = Instant::now();
        let deadline = started + self.ack_timeout;
        let sent = self.context.send_publish(subject, message.expected_stream(STREAM));
        let outcome = match timeout_at(deadline, sent).await {
            Ok(Ok(ack)) => timeout_at(deadline, ack).await,
            Ok(Err(error)) => Ok(Err(error)),
            Err(elapsed) => Err(elapsed),
        };
        let ack = outcome.map_err(|_| AppendError::Unavailable(None))?.map_err(append_error)?;
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
}

fn message(event: &NewEvent) -> PublishMessage {
    PublishMessage::build()
        .headers(wire::headers(&event.envelope, &event.provider_headers))
        .payload(event.body.clone())
}

fn append_error(error: PublishError) -> AppendError {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .map(jetstream::Error::error_code);
    match error.kind() {
        PublishErrorKind::WrongLastSequence => AppendError::Conflict,
        _ if code.is_some_and(is_clash) => AppendError::Conflict,
        PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::WrongLastMessageId => {
            AppendError::Refused(Box::new(error))
        }
        // Anything else (no stream yet after a restart, no space, no leader)
        // may pass, and must be retried rather than lost.
        _ => AppendError::Unavailable(Some(Box::new(error))),
    }
}

fn is_clash(code: ErrorCode) -> bool {
    code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE
        || code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
        || code.0 == WRONG_LAST_SEQUENCE_IN_FLIGHT
}

pub(crate) async fn probe(context: &Context, timeout: Duration) -> Result<Duration, AppendError> {
    let started = Instant::now();
    let deadline = started + timeout;
    let sent = context.publish(CANARY_SUBJECT, Bytes::new());
    let ack = timeout_at(deadline, async { sent.await?.await }).await;
    ack.map_err(|_| AppendError::Unavailable(None))?.map_err(append_error)?;
    Ok(started.elapsed())
}
