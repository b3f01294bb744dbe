//! The newest signed checkpoint, stored beside the log. So a database that has
//! lost its seals cannot lead to a checkpoint that contradicts it.

use crate::{
    error::{AppendError, ReadError},
    log::Log,
    names::SEALS_STREAM,
};
use async_nats::jetstream::stream::LastRawMessageErrorKind;

const CHECKPOINT: &str = "exo-seals.checkpoint";

impl Log {
    /// The newest checkpoint that was stored beside the log, a signed note;
    /// `None` if there is no checkpoint.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn newest_checkpoint(&self) -> Result<Option<String>, ReadError> {
        let stream = self.context.get_stream(SEALS_STREAM).await.map_err(ReadError::unavailable)?;
        match stream.get_last_raw_message_by_subject(CHECKPOINT).await {
            Ok(message) => Ok(Some(String::from_utf8_lossy(&message.payload).into_owned())),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(ReadError::unavailable(error)),
        }
    }

    /// Stores a signed checkpoint beside the log, instead of the one before.
    ///
    /// # Errors
    /// When the server does not acknowledge it.
    pub async fn keep_checkpoint(&self, note: &str) -> Result<(), AppendError> {
        if !self.checked {
            return Err(AppendError::OpenedForReading);
        }
        let sent = self.context.publish(CHECKPOINT, note.to_owned().into());
        sent.await?.await?;
        Ok(())
    }
}
