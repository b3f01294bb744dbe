//! Follows what becomes of appends, so that readiness knows whether the log stores them.

use crate::{error::AppendError, log::Log, storing::Server};
use async_nats::jetstream::stream::Info;
use std::{pin::pin, sync::atomic::Ordering, time::Duration};

/// The longest time in which the server says that it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

impl Log {
    /// Waits for an append, and remembers what becomes of it. `is_new`: it was stored, not only
    /// recognised.
    ///
    /// One that is not acknowledged counts as a failure only if the server has answered another
    /// request in the meantime: else it may have got lost with a connection or with a leader, and
    /// whoever asks the server sees for themselves that it is away.
    pub(crate) async fn followed<T>(
        &self,
        append: impl Future<Output = Result<T, AppendError>>,
        is_new: impl FnOnce(&T) -> bool,
    ) -> Result<T, AppendError> {
        let (began, connects) = (self.now(), self.connects());
        let mut append = pin!(append);
        let (outcome, witness) = tokio::select! {
            outcome = &mut append => (outcome, None),
            server = self.answering_later() => (append.await, server),
        };
        match &outcome {
            Ok(done) if is_new(done) => self.storing.succeeded(),
            Err(error) if error.is_refusal_to_store() => {
                if let Some(server) = self.answering().await {
                    self.storing.failed(server);
                }
            }
            Err(AppendError::Unavailable(_)) => {
                let same =
                    |server: &Server| server.has_led_since(began) && connects == self.connects();
                if let Some(server) = witness.filter(same) {
                    self.storing.failed(server);
                }
            }
            _ => {}
        }
        outcome
    }

    /// The server, if it answers when half of the time of an append is over.
    async fn answering_later(&self) -> Option<Server> {
        tokio::time::sleep(self.ack_timeout / 2).await;
        self.answering().await
    }

    async fn answering(&self) -> Option<Server> {
        let _question = self.storing.ask()?;
        let info = tokio::time::timeout(ANSWER_TIMEOUT, self.info()).await.ok()?.ok()?;
        Some(self.server(&info))
    }

    /// Who leads the log's stream, as of this information about it.
    pub(crate) fn server(&self, info: &Info) -> Server {
        Server::of(info, self.context.client().server_info().server_id)
    }

    fn connects(&self) -> u64 {
        self.context.client().statistics().connects.load(Ordering::Relaxed)
    }
}
