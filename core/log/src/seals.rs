//! The newest signed checkpoint, kept beside the log, so that a database that
//! has lost its seals cannot lead to a checkpoint that contradicts it.

use crate::{
    error::{AppendError, ReadError},
    log::Log,
    names::SEALS_STREAM,
};
use async_nats::jetstream::stream::LastRawMessageErrorKind;

const CHECKPOINT: &str = "exo-seals.checkpoint";

impl Log {
    /// The newest checkpoint that was kept beside the log, a signed note; none
    /// if there is none.
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

    /// Keeps a signed checkpoint beside the log, in the place of the one before.
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
