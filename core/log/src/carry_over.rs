//! Carries the stream of data keys of an earlier release over to what this release requires of it.

use crate::{
    error::ConnectError,
    names::{KEYS_STREAM, KEYS_SUBJECTS},
};
use async_nats::jetstream::{
    Context,
    stream::{Config, Stream},
};
use futures::StreamExt;

/// Metadata of the stream: the number of its last record that an earlier release may have stored.
/// Up to it, a tombstone may be in the place of its key.
pub(crate) const EARLIER_TOMBSTONES: &str = "exodrive-earlier-tombstones";

/// The number that [`EARLIER_TOMBSTONES`] holds; `None` for a stream that was not carried over.
pub(crate) fn earlier_tombstones(config: &Config) -> Option<u64> {
    config.metadata.get(EARLIER_TOMBSTONES)?.parse().ok()
}

/// Gives the stream of an earlier release its new subjects and limits, which keep every record as
/// it is, and notes where its records end. May be repeated.
///
/// # Errors
/// When a key has more than one record: the server would delete all but the last one. When this
/// user may not change the stream.
pub(crate) async fn carry_over(context: &Context, requested: &Config) -> Result<(), ConnectError> {
    let failed = |action, source: Box<dyn std::error::Error + Send + Sync>| ConnectError::Stream {
        action,
        stream: KEYS_STREAM.to_owned(),
        source,
    };
    let stream = context.get_stream(KEYS_STREAM).await;
    let stream = stream.map_err(|error| failed("find", error.into()))?;
    let found = stream.cached_info().config.clone();
    if earlier_tombstones(&found).is_some() {
        return Ok(());
    }
    if let Some(subject) = first_crowded(&stream).await.map_err(|error| failed("read", error))? {
        return Err(ConnectError::Setting {
            setting: format!("the number of records of {subject} in stream {KEYS_STREAM}"),
            found: "more than one".to_owned(),
            requested: "one".to_owned(),
            remedy: format!(
                "If an erasure is being carried out, let a worker of the earlier release finish. \
                 Else somebody has written there who should not: as the operator, delete all \
                 records of it but the first (`nats stream rmm {KEYS_STREAM} NUMBER`)."
            ),
        });
    }
    let mut config = Config {
        subjects: requested.subjects.clone(),
        max_messages_per_subject: requested.max_messages_per_subject,
        discard_new_per_subject: requested.discard_new_per_subject,
        ..found
    };
    let update = async |config: &Config| {
        let updated = context.update_stream(config).await;
        updated.map_err(|error| failed("change", error.into()))
    };
    // From here on no earlier release stores a tombstone where a key is.
    let end = update(&config).await?.state.last_sequence;
    config.metadata.insert(EARLIER_TOMBSTONES.to_owned(), end.to_string());
    update(&config).await?;
    tracing::info!(end, "The stream of data keys is carried over from an earlier release");
    Ok(())
}

/// A key's subject with more than one record.
async fn first_crowded(
    stream: &Stream,
) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
    let mut subjects = stream.info_with_subjects(KEYS_SUBJECTS).await?;
    while let Some(subject) = subjects.next().await {
        let (subject, records) = subject?;
        if records > 1 {
            return Ok(Some(subject));
        }
    }
    Ok(None)
}
