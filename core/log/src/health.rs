//! Whether the log takes events now: what readiness is made of.

use crate::{log::Log, store::StoreReport};
use std::{error::Error, time::Duration};
use tokio::time::timeout;

/// Reason why the log takes no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// Nothing can be stored: a write beside the log was not acknowledged.
    NotAcknowledged,
    /// The log's stream has no leader that most of its servers follow, or does not answer.
    NoLeader,
    /// The server answers, and did not store the last event that was appended.
    StoresNothing,
    /// The server says that it could not write to its disk.
    Disk,
}

impl WriteFault {
    /// The fault in words, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotAcknowledged => "it did not acknowledge a write",
            Self::NoLeader => "its stream has no leader, or does not answer",
            Self::StoresNothing => {
                "it answers, and stores no event: see `Full disks` in docs/operating.md"
            }
            Self::Disk => {
                "its server could not write to its disk: see `Full disks` in docs/operating.md"
            }
        }
    }
}

/// What was found out about the log.
#[derive(Clone, Copy, Debug)]
pub struct LogHealth {
    /// The position of the newest event; `None` if the stream does not answer.
    pub end: Option<u64>,
    /// The reason why the log takes no events; `None` if it takes them.
    pub fault: Option<WriteFault>,
}

impl Log {
    /// Finds out whether the log takes events, within `limit`: the server stores a message in a
    /// small stream beside the log; a server leads the log's own stream, since each stream has a
    /// leader of its own; and neither the last appends nor the monitoring endpoint
    /// ([`Log::look_at_store`]) say that nothing is stored there.
    pub async fn health(&self, limit: Duration) -> LogHealth {
        let (canary, info) = tokio::join!(
            answer(limit, self.probe(), WriteFault::NotAcknowledged),
            answer(limit, self.info(), WriteFault::NoLeader),
        );
        let end = info.as_ref().ok().map(|info| info.state.last_sequence);
        let fault = match (canary, info) {
            (Err(fault), _) | (_, Err(fault)) => Some(fault),
            _ if self.store.report().writes_fail() => Some(WriteFault::Disk),
            (_, Ok(info)) => {
                self.storing.fails(&self.server(&info)).then_some(WriteFault::StoresNothing)
            }
        };
        LogHealth { end, fault }
    }

    /// Asks the monitoring endpoints of the log's servers how their disks are, and keeps the answer
    /// for [`Log::store_report`] and for the metrics. Without endpoints nothing is known.
    pub async fn look_at_store(&self) {
        let report = self.store.look().await;
        if let Some(used) = report.used() {
            metrics::gauge!("exodrive_log_store_used_ratio").set(used);
        }
        let unflushed = f64::from(u8::from(report.acknowledges_unflushed()));
        metrics::gauge!("exodrive_log_acknowledges_unflushed").set(unflushed);
        let stores_nothing = self.storing.is_doubted()
            && self.info().await.is_ok_and(|info| self.storing.fails(&self.server(&info)));
        let stuck = report.is_failing() || stores_nothing;
        metrics::gauge!("exodrive_log_stuck").set(f64::from(u8::from(stuck)));
    }

    /// The last answer to [`Log::look_at_store`], if it is not old.
    pub fn store_report(&self) -> StoreReport {
        self.store.report()
    }
}

async fn answer<T, E: Error>(
    limit: Duration,
    question: impl Future<Output = Result<T, E>>,
    fault: WriteFault,
) -> Result<T, WriteFault> {
    let answer = timeout(limit, question).await.map_err(|_| fault)?;
    answer.map_err(|error| {
        tracing::debug!(%error, cause = ?error.source(), "The log: {}", fault.text());
        fault
    })
}
