//! Webhooks that were refused, and repeats of a delivery that the log has: kept
//! beside the log for a while, without personal data, for whoever asks why a
//! delivery is missing.

use crate::{
    error::ReadError,
    log::Log,
    names::{REFUSALS_STREAM, REFUSALS_SUBJECT},
};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use chrono::{DateTime, Utc};
use exodrive_domain::time::serde_micros;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::timeout;

/// Read at a time.
const PULL: usize = 1_000;
/// A consumer that nobody reads goes away by itself after this.
const INACTIVE: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Said of a delivery that the log has already.
pub const DUPLICATE: &str = "duplicate";

/// A webhook that was not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedDelivery {
    /// When.
    #[serde(with = "serde_micros")]
    pub at: DateTime<Utc>,
    /// Why: [`DUPLICATE`] for a repeat, which was answered 2xx; anything else
    /// was not believed. An open set.
    pub reason: String,
    /// The message's id as it claims, if that has the form of the provider's:
    /// anything else may hold anything.
    pub claimed_id: Option<String>,
    /// Size of the body in bytes; none if it was not read to its end.
    pub size: Option<u64>,
}

impl RejectedDelivery {
    /// A refusal now, of whoever claims this id.
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
    /// Keeps a refusal. Waits for nothing: one that finds too many before it,
    /// or a server that does not answer, is counted by a metric and lost.
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

    /// Gives `each` the refusals kept from `since` on and before `until`, by
    /// the server's time, oldest first, holding few of them at a time.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn refusals(
        &self,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        mut each: impl FnMut(RejectedDelivery),
    ) -> Result<(), ReadError> {
        let config = pull::Config {
            deliver_policy: match since {
                Some(start_time) => DeliverPolicy::ByStartTime { start_time },
                None => DeliverPolicy::All,
            },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: INACTIVE,
            ..pull::Config::default()
        };
        let consumer = self.context.create_consumer_on_stream(config, REFUSALS_STREAM);
        let consumer = timeout(READ_TIMEOUT, consumer).await.map_err(ReadError::unavailable)?;
        let consumer = consumer.map_err(ReadError::unavailable)?;
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
            if until.is_some_and(|until| info.published >= until) {
                break;
            }
            // What a newer release wrote in another shape is no concern of ours.
            if let Ok(refusal) = serde_json::from_slice(&message.payload) {
                each(refusal);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_an_id_by_its_form_is_kept() {
        let claimed =
            |id: &str| RejectedDelivery::new(Utc::now(), "signature", Some(id), None).claimed_id;
        assert_eq!(claimed("msg_2kVZabc"), Some("msg_2kVZabc".to_owned()));
        let long = format!("msg_{}", "a".repeat(65));
        for other in ["msg_", "msg_dana@example.com", "Dana", "msg_a b", long.as_str(), ""] {
            assert_eq!(claimed(other), None, "{other}");
        }
    }
}
