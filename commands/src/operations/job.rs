//! Rebuilds and receipts as operators see them, on the command line and over
//! HTTP.

use super::{Plan, Recorded};
use chrono::{DateTime, Utc};
use exodrive_domain::{
    operation::{Operation, OperationEvent},
    time::serde_micros,
};
use exodrive_projections::engine::operations::{Rebuild, RebuildKind, RebuildState};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// A rebuild, a rollback, or the build of a new version.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Job {
    /// Always `rebuild`.
    pub object: &'static str,
    /// A UUID: the id of the event that requested it.
    pub id: String,
    /// Name of the projection.
    pub projection: String,
    /// What it is.
    pub kind: RebuildKind,
    /// Where it is on its way.
    pub state: RebuildState,
    /// Progress so far.
    pub progress: Progress,
    /// The version of the fold.
    pub version: i64,
    /// The generation that it builds, or that it rolls back to.
    pub generation: Option<i32>,
    /// Only this row.
    pub key: Option<String>,
    /// Only rows that an event at this position or later touches.
    pub from_position: Option<u64>,
    /// Number of partitions that the keys are split into; null: as before.
    pub partitions: Option<i64>,
    /// True if it swaps although rows differ.
    pub accepted: bool,
    /// True once an operator has asked to cancel it.
    pub cancel_requested: bool,
    /// Reason, as the operator wrote it.
    pub reason: String,
    /// The operator who requested it.
    pub actor: String,
    /// The worker that executes it.
    pub worker: Option<String>,
    /// Time of the request.
    #[serde(with = "serde_micros::option")]
    pub requested_at: Option<DateTime<Utc>>,
    /// Time at which it began.
    #[serde(with = "serde_micros::option")]
    pub started_at: Option<DateTime<Utc>>,
    /// Time at which it ended.
    #[serde(with = "serde_micros::option")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Comparison of the old and the new generation.
    #[schema(value_type = Option<Object>)]
    pub comparison: Option<Value>,
    /// The error that it failed with.
    pub error: Option<String>,
}

/// Progress of a rebuild.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Progress {
    /// Events folded so far.
    pub done: u64,
    /// Events to fold, as counted when it began.
    pub total: u64,
    /// Events folded in a second.
    pub events_per_second: f64,
    /// Seconds until the rest is folded, at that rate.
    pub eta_seconds: Option<f64>,
    /// Bytes of rows in memory.
    pub resident_bytes: u64,
    /// Limit on those bytes; 0 while no worker works on it.
    pub resident_limit_bytes: u64,
    /// Seconds spent waiting so that reads stay fast.
    pub yielded_seconds: f64,
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl From<Rebuild> for Job {
    fn from(it: Rebuild) -> Self {
        let (left, pace) = (count(it.total - it.done), f64::from(it.events_per_second));
        let is_folding = pace > 0.0 && !it.is_over();
        Self {
            object: "rebuild",
            id: it.id.to_string(),
            projection: it.projection,
            kind: it.kind,
            state: it.state,
            progress: Progress {
                done: count(it.done),
                total: count(it.total),
                events_per_second: pace,
                eta_seconds: is_folding.then(|| left as f64 / pace),
                resident_bytes: count(it.resident),
                resident_limit_bytes: count(it.resident_limit),
                yielded_seconds: f64::from(it.yielded_seconds),
            },
            version: it.version.into(),
            generation: it.generation,
            key: it.key,
            from_position: it.from_position.map(count),
            partitions: it.partitions.map(i64::from),
            accepted: it.accepted,
            cancel_requested: it.cancel_wanted,
            reason: it.reason,
            actor: it.actor,
            worker: it.worker,
            requested_at: Some(it.requested_at),
            started_at: it.started_at,
            finished_at: it.finished_at,
            comparison: it.comparison,
            error: it.error,
        }
    }
}

impl Job {
    /// A rebuild or rollback that is recorded in the log and that no worker has
    /// applied yet.
    pub fn recorded(event: &OperationEvent, actor: &str, id: Uuid) -> Self {
        let mut job = Self {
            object: "rebuild",
            id: id.to_string(),
            projection: event.projection.clone(),
            kind: RebuildKind::Rebuild,
            state: RebuildState::Recorded,
            progress: Progress {
                done: 0,
                total: 0,
                events_per_second: 0.0,
                eta_seconds: None,
                resident_bytes: 0,
                resident_limit_bytes: 0,
                yielded_seconds: 0.0,
            },
            version: 0,
            generation: None,
            key: None,
            from_position: None,
            partitions: None,
            accepted: false,
            cancel_requested: false,
            reason: event.reason.clone(),
            actor: actor.to_owned(),
            worker: None,
            requested_at: None,
            started_at: None,
            finished_at: None,
            comparison: None,
            error: None,
        };
        match &event.operation {
            Operation::RebuildRequested {
                version,
                key,
                from_position,
                partitions,
                accept_differences,
            } => {
                if key.is_some() {
                    job.kind = RebuildKind::Key;
                }
                job.version = (*version).into();
                job.key.clone_from(key);
                job.from_position = *from_position;
                job.partitions = partitions.map(i64::from);
                job.accepted = *accept_differences;
            }
            Operation::RollbackRequested { version, generation } => {
                job.kind = RebuildKind::Rollback;
                job.version = (*version).into();
                job.generation = Some(*generation);
            }
            _ => {}
        }
        job
    }

    /// True if the job has ended.
    pub fn is_over(&self) -> bool {
        self.state.is_over()
    }
}

/// Receipt of an operator's command: its effect, or in a dry run the effect
/// that it would have.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CommandReceipt {
    /// Always `command`.
    pub object: &'static str,
    /// Type of its event.
    #[serde(rename = "type")]
    #[schema(example = "exodrive.projection.paused")]
    pub kind: &'static str,
    /// Name of the projection.
    pub projection: String,
    /// Effect of the command, for people.
    pub effect: String,
    /// True if nothing was recorded.
    pub dry_run: bool,
    /// Id of its event.
    pub id: Option<String>,
    /// Position of its event.
    pub position: Option<u64>,
    /// True if a worker has applied it. If not, it takes effect when a worker
    /// starts.
    pub applied: bool,
}

impl CommandReceipt {
    /// Receipt of a command that was recorded, or with `None` of one that was
    /// only planned.
    pub fn of(plan: &Plan, recorded: Option<&Recorded>) -> Self {
        Self {
            object: "command",
            kind: plan.event.operation.kind(),
            projection: plan.event.projection.clone(),
            effect: plan.effect.clone(),
            dry_run: recorded.is_none(),
            id: recorded.map(|it| it.id.to_string()),
            position: recorded.map(|it| it.position),
            applied: recorded.is_some_and(|it| it.applied),
        }
    }
}
