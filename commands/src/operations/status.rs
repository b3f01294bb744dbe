//! Status of projections: state, position, lag, worker.

use super::{Operator, OperatorError};
use exodrive_log::ReadError;
use exodrive_projections::engine::store::Status;
use serde::Serialize;
use std::collections::HashMap;
use utoipa::ToSchema;

/// Seconds without a heartbeat after which a worker counts as dead.
const HEARTBEAT_TIMEOUT_SECONDS: f64 = 10.0;

/// Status of a projection.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProjectionStatus {
    /// Name of the projection.
    pub name: String,
    /// Version of the fold that wrote the rows.
    pub version: i32,
    /// The generation that readers see.
    pub generation: i32,
    /// `level`, `catching_up`, `paused`, `rebuilding` (readers see the present
    /// rows meanwhile) or `no_worker` (no sign of life for 10 s).
    #[schema(example = "level")]
    pub state: &'static str,
    /// Position up to which every event is in the rows.
    pub position: u64,
    /// Events of the log that are not in the rows yet.
    pub lag_events: u64,
    /// Seconds that the first of them has been waiting.
    pub lag_seconds: f64,
    /// Events parked.
    pub parked: i64,
    /// Events folded in a second, lately.
    pub events_per_second: f32,
    /// Number of partitions that its keys are split into.
    pub partitions: i32,
    /// True if it is paused and folds nothing.
    pub paused: bool,
    /// Reason of the pause.
    pub pause_reason: Option<String>,
    /// The operator who paused it.
    pub paused_by: Option<String>,
    /// Id of the rebuild or rollback that is in progress.
    pub rebuild: Option<String>,
    /// The worker that folds it.
    pub worker: Option<String>,
    /// Seconds since its worker last showed a sign of life; null if none did.
    pub heartbeat_age_seconds: Option<f64>,
    /// Position up to which every event is in Redis.
    pub published: u64,
}

impl Operator {
    /// Status of every projection, by name.
    ///
    /// # Errors
    /// When log or database do not answer.
    pub async fn status(&self) -> Result<Vec<ProjectionStatus>, OperatorError> {
        let standings = self.database().projections().await?;
        let end = self.log().last_position().await?;
        let mut lags = HashMap::new();
        let mut all = Vec::with_capacity(standings.len());
        for standing in standings {
            let position = u64::try_from(standing.position).unwrap_or(0);
            let lag_seconds = match lags.get(&position) {
                Some(lag) => *lag,
                None => self.waiting_since(position, end).await?,
            };
            lags.insert(position, lag_seconds);
            all.push(status(standing, position, end.saturating_sub(position), lag_seconds));
        }
        Ok(all)
    }

    /// Seconds that the first event after a position has been waiting.
    async fn waiting_since(&self, position: u64, end: u64) -> Result<f64, ReadError> {
        if position >= end {
            return Ok(0.0);
        }
        let first = self.log().read_event(position + 1).await?;
        let waited = first.map(|first| self.log().now() - first.stored_at);
        Ok(waited.and_then(|it| it.num_microseconds()).map_or(0.0, |it| it.max(0) as f64 / 1e6))
    }
}

fn status(it: Status, position: u64, lag_events: u64, lag_seconds: f64) -> ProjectionStatus {
    let alive = it.heartbeat_age_seconds.is_some_and(|age| age <= HEARTBEAT_TIMEOUT_SECONDS);
    let state = match (alive, it.paused, it.rebuild.is_some(), lag_events) {
        (false, ..) => "no_worker",
        (true, true, ..) => "paused",
        (true, false, true, _) => "rebuilding",
        (true, false, false, 0) => "level",
        _ => "catching_up",
    };
    ProjectionStatus {
        name: it.name,
        version: it.version,
        generation: it.generation,
        state,
        position,
        lag_events,
        lag_seconds,
        parked: it.parked,
        events_per_second: it.events_per_second,
        partitions: it.partitions,
        paused: it.paused,
        pause_reason: it.pause_reason,
        paused_by: it.paused_by,
        rebuild: it.rebuild,
        worker: it.worker,
        heartbeat_age_seconds: it.heartbeat_age_seconds,
        published: u64::try_from(it.published).unwrap_or(0),
    }
}
