//! Refused webhooks, and repeats of a delivery that the log has. They are
//! stored beside the log for a while, without personal data, for operators who
//! search for a missing delivery.

use crate::{
    error::ReadError,
    log::Log,
    names::{REFUSALS_STREAM, REFUSALS_SUBJECT},
};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::timeout;

/// The number of refusals in one read.
const PULL: usize = 1_000;
/// The time after which the server deletes a consumer that is not read.
const INACTIVE: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason for a delivery that the log has already.
pub const DUPLICATE: &str = "duplicate";

/// A webhook that was not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedDelivery {
    /// The time of the refusal.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// Reason: [`DUPLICATE`] for a repeat, which was answered 2xx; any other
    /// reason means that the delivery was not authentic. An open set.
    pub reason: String,
    /// The claimed message id, if it has the form of the provider's ids. Any other
    /// text could hold personal data.
    pub claimed_id: Option<String>,
    /// Size of the body in bytes; `None` if it was not read to its end.
    pub size: Option<u64>,
}

impl RejectedDelivery {
    /// A refusal now, of a delivery that claims this id.
    pub fn new(
        at: DateTime<Utc>,
        reason: &str,
        claimed_id: Option<&str>,
        size: Option<u64>,
    ) -> Self {
        let claimed_id = claimed_id.filter(|id| is_message_id(id)).map(str::to_owned);
        Self { at, reason: reason.to_owned(), claimed_id, size }
    }
}

/// `msg_` and 1 to 64 ASCII letters or digits.
fn is_message_id(text: &str) -> bool {
    text.strip_prefix("msg_").is_some_and(|rest| {
        (1..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

impl Log {
    /// Stores a refusal without waiting. If too many are waiting, or the server
    /// does not answer, it is lost and counted by a metric.
    pub fn refuse(&self, refusal: &RejectedDelivery) {
        let lost = || metrics::counter!("exodrive_webhook_rejections_lost_total").increment(1);
        let Ok(permit) = self.refusing.0.clone().try_acquire_owned() else { return lost() };
        let Ok(body) = serde_json::to_vec(refusal) else { return lost() };
        let (context, ack_timeout) = (self.context.clone(), self.ack_timeout);
        tokio::spawn(async move {
            let sent = async { context.publish(REFUSALS_SUBJECT, body.into()).await?.await };
            if !matches!(timeout(ack_timeout, sent).await, Ok(Ok(_))) {
                lost();
            }
            drop(permit);
        });
    }

    /// Gives `each` the stored refusals from `since` on and before `until`, by
    /// the server's time, oldest first. It holds few of them at a time.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn refusals(
        &self,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        mut each: impl FnMut(RejectedDelivery),
    ) -> Result<(), ReadError> {
        let begin = match since {
            Some(start_time) => DeliverPolicy::ByStartTime { start_time },
            None => DeliverPolicy::All,
        };
        self.read_refusals(begin, |stored| {
            if until.is_some_and(|until| stored.published >= until) {
                return false;
            }
            // A refusal of a newer release in another shape is skipped.
            if let Some(refusal) = stored.refusal {
                each(refusal);
            }
            true
        })
        .await
    }

    /// Gives `each` the newest refusals from `since` on and before `until`, by the server's time,
    /// oldest first. It looks at `most` of those that are stored before the one with the number
    /// `before`, if that is given. Returns the number before which others are stored that it has
    /// not looked at.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn newest_refusals(
        &self,
        (since, until): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
        before: Option<u64>,
        most: u64,
        mut each: impl FnMut(RejectedDelivery),
    ) -> Result<Option<u64>, ReadError> {
        let stream = self.context.get_stream(REFUSALS_STREAM);
        let stream = timeout(READ_TIMEOUT, stream).await.map_err(ReadError::unavailable)?;
        let stream = stream.map_err(ReadError::unavailable)?;
        let state = &stream.cached_info().state;
        let (first, mut end) = (state.first_sequence.max(1), state.last_sequence + 1);
        match (before, until) {
            (Some(before), _) => end = end.min(before),
            (None, Some(start_time)) => {
                let later = self.refusals_from(DeliverPolicy::ByStartTime { start_time }).await?;
                // Others may have come meanwhile: they are later as well.
                end = end.saturating_sub(later.cached_info().num_pending).max(first);
            }
            (None, None) => {}
        }
        let begin = first.max(end.saturating_sub(most));
        if begin >= end {
            return Ok(None);
        }
        let mut older = false;
        self.read_refusals(DeliverPolicy::ByStartSequence { start_sequence: begin }, |stored| {
            if stored.number >= end {
                return false;
            }
            let early = since.is_some_and(|since| stored.published < since);
            let late = until.is_some_and(|until| stored.published >= until);
            older |= early;
            if !early
                && !late
                && let Some(refusal) = stored.refusal
            {
                each(refusal);
            }
            true
        })
        .await?;
        Ok((begin > first && !older).then_some(begin))
    }

    /// A consumer of the refusals from a place on.
    async fn refusals_from(
        &self,
        deliver_policy: DeliverPolicy,
    ) -> Result<Consumer<pull::Config>, ReadError> {
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: INACTIVE,
            ..pull::Config::default()
        };
        let consumer = self.context.create_consumer_on_stream(config, REFUSALS_STREAM);
        let consumer = timeout(READ_TIMEOUT, consumer).await.map_err(ReadError::unavailable)?;
        consumer.map_err(ReadError::unavailable)
    }

    /// Gives `each` the refusals from a place on that are stored now, oldest first, until it
    /// returns false.
    async fn read_refusals(
        &self,
        begin: DeliverPolicy,
        mut each: impl FnMut(StoredRefusal) -> bool,
    ) -> Result<(), ReadError> {
        let consumer = self.refusals_from(begin).await?;
        let mut pending = consumer.cached_info().num_pending;
        if pending == 0 {
            return Ok(());
        }
        let messages = consumer.stream().max_messages_per_batch(PULL).messages();
        let mut messages = messages.await.map_err(ReadError::unavailable)?;
        while pending > 0 {
            let message = timeout(READ_TIMEOUT, messages.next()).await;
            let message = message.map_err(ReadError::unavailable)?;
            let ended = || ReadError::unavailable("the consumer ended");
            let message = message.ok_or_else(ended)?.map_err(ReadError::unavailable)?;
            let info = message.info().map_err(ReadError::Unavailable)?;
            pending = info.pending;
            let (number, published) = (info.stream_sequence, info.published);
            let refusal = serde_json::from_slice(&message.payload).ok();
            if !each(StoredRefusal { number, published, refusal }) {
                break;
            }
        }
        Ok(())
    }
}

/// A refusal as the server stores it.
struct StoredRefusal {
    number: u64,
    published: DateTime<Utc>,
    /// `None` if it has a shape that this release does not know.
    refusal: Option<RejectedDelivery>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_id_is_stored_only_if_it_has_the_form_of_an_id() {
        let claimed =
            |id: &str| RejectedDelivery::new(Utc::now(), "signature", Some(id), None).claimed_id;
        assert_eq!(claimed("msg_2kVZabc"), Some("msg_2kVZabc".to_owned()));
        let long = format!("msg_{}", "a".repeat(65));
        for other in ["msg_", "msg_dana@example.com", "Dana", "msg_a b", long.as_str(), ""] {
            assert_eq!(claimed(other), None, "{other}");
        }
    }
}
