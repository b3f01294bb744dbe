//! Events that the log should have. A replica may lag, a new leader may not have applied its last
//! entries, and a cut connection loses what is in flight: none of them proves that an event is
//! missing. So whoever misses one asks the stream's leader, twice.

use crate::{error::ReadError, event::StoredMessage, log::Log, stored};
use async_nats::jetstream::stream::{ClusterInfo, Info, PeerInfo, RawMessageErrorKind};
use chrono::{DateTime, Utc};
use std::time::Duration;
use tokio::time::sleep;

/// The time between the two questions: a new leader has applied its entries by then.
const PAUSE: Duration = Duration::from_secs(1);

/// The leader's answer about one position.
enum Answer {
    Found(StoredMessage),
    Missing {
        /// The log's last position.
        end: u64,
        /// Who has answered, and since when it leads; nothing if the server stands alone.
        leader: Option<(String, Option<DateTime<Utc>>)>,
    },
}

/// The time after which a leader that has heard nothing from another server does not count it:
/// less than it takes the others to elect a new one.
const HEARD: Duration = Duration::from_secs(3);

/// True if a leader and those of the others that it has just heard are more than half of all.
fn leads_most(others: &[PeerInfo]) -> bool {
    let heard = others.iter().filter(|other| !other.offline && other.active < HEARD).count();
    2 * (heard + 1) > others.len() + 1
}

impl Log {
    /// The stored message at a position that the log should have. `None` only if the stream's
    /// leader says twice, a moment apart, that there is none.
    ///
    /// # Errors
    /// When the server does not answer, or another leader answers the second time.
    pub async fn read_expected(&self, position: u64) -> Result<Option<StoredMessage>, ReadError> {
        match self.read_stored(position).await? {
            Some(message) => Ok(Some(message)),
            None => self.read_from_leader(position).await,
        }
    }

    /// As [`Log::read_expected`], of the leader only.
    pub(crate) async fn read_from_leader(
        &self,
        position: u64,
    ) -> Result<Option<StoredMessage>, ReadError> {
        match self.ask_twice(position).await? {
            Answer::Found(message) => Ok(Some(message)),
            Answer::Missing { .. } => Ok(None),
        }
    }

    /// The position of the newest event of a log that should reach `expected`. A lower one only if
    /// the stream's leader says twice, a moment apart, that there is no event at `expected`.
    ///
    /// # Errors
    /// As [`Log::read_expected`].
    pub async fn last_position_expecting(&self, expected: u64) -> Result<u64, ReadError> {
        let end = self.last_position().await?;
        if end >= expected {
            return Ok(end);
        }
        match self.ask_twice(expected).await? {
            Answer::Found(message) => Ok(message.position),
            Answer::Missing { end, .. } => Ok(end),
        }
    }

    async fn ask_twice(&self, position: u64) -> Result<Answer, ReadError> {
        let first = match self.ask(position).await? {
            Answer::Missing { leader, .. } => leader,
            found => return Ok(found),
        };
        sleep(PAUSE).await;
        match self.ask(position).await? {
            Answer::Missing { leader, .. } if leader != first => {
                Err(ReadError::unavailable("the stream has just changed its leader"))
            }
            answer => Ok(answer),
        }
    }

    /// Unlike a direct get, which any replica answers, both requests go to the leader.
    async fn ask(&self, position: u64) -> Result<Answer, ReadError> {
        match self.stream.get_raw_message(position).await {
            Ok(message) => return stored::of_leader(message).map(Answer::Found),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
            Err(error) => return Err(ReadError::unavailable(error)),
        }
        let info = self.info().await?;
        let leader = |cluster: ClusterInfo| Some((cluster.leader?, cluster.leader_since));
        Ok(Answer::Missing { end: info.state.last_sequence, leader: info.cluster.and_then(leader) })
    }

    /// The state of the stream, by a leader that most of its servers follow.
    ///
    /// # Errors
    /// When the server does not answer, or is cut off from the others: then another may lead, and
    /// the log may be longer than it knows.
    pub(crate) async fn info(&self) -> Result<Info, ReadError> {
        let asked = self.answers.ask();
        let info = self.stream.get_info().await.map_err(ReadError::unavailable)?;
        let cluster = info.cluster.as_ref();
        if cluster.is_some_and(|it| it.leader.is_none() && !it.replicas.is_empty()) {
            return Err(ReadError::unavailable("no server leads the stream"));
        }
        if cluster.is_some_and(|cluster| !leads_most(&cluster.replicas)) {
            return Err(ReadError::unavailable("the stream's leader is cut off from the others"));
        }
        asked.answered();
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(active_s: u64, offline: bool) -> PeerInfo {
        PeerInfo { active: Duration::from_secs(active_s), offline, ..PeerInfo::default() }
    }

    #[test]
    fn a_leader_that_is_cut_off_is_not_believed() {
        assert!(leads_most(&[]), "it stands alone");
        assert!(leads_most(&[other(0, false), other(60, true)]));
        assert!(!leads_most(&[other(4, false), other(60, true)]));
        assert!(!leads_most(&[other(0, true), other(0, true)]));
    }
}
