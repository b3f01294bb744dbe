use super::{Plan, Recorded};
use chrono::{DateTime, Utc};
use exodrive_domain::{operation::Operation, time::serde_micros};
use exodrive_projections::engine::operations::{Rebuild, RebuildKind, RebuildState};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A rebuild, a rollback, or the build of a new version.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Job {
    /// Always `rebuild`.
    pub object: &'static str,
    /// A UUID: that of the event that asked for it.
    pub id: String,
    /// Of which projection.
    pub projection: String,
    /// What it is.
    pub kind: RebuildKind,
    /// Where it is on its way.
    pub state: RebuildState,
    /// How far it is.
    pub progress: Progress,
    /// The version of the fold.
    pub version: i64,
    /// The generation that it builds, or rolls back to.
    pub generation: Option<i32>,
    /// Only this row.
    pub key: Option<String>,
    /// Only rows that an event from here on touches.
    pub from_position: Option<u64>,
    /// Into how many parts the keys are split; null: as before.
    pub partitions: Option<i64>,
    /// Swap although rows differ.
    pub accepted: bool,
    /// Somebody wants it to end.
    pub cancel_wanted: bool,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// Carried out by.
    pub worker: Option<String>,
    /// When it was asked for.
    #[serde(with = "serde_micros::option")]
    pub requested_at: Option<DateTime<Utc>>,
    /// When it began.
    #[serde(with = "serde_micros::option")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(with = "serde_micros::option")]
    pub finished_at: Option<DateTime<Utc>>,
    /// The old and the new generation, compared.
    #[schema(value_type = Option<Object>)]
    pub comparison: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
}

/// How far a rebuild is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Progress {
    /// Events folded.
    pub done: u64,
    /// How many there were to fold when it began.
    pub total: u64,
    /// How fast.
    pub events_per_second: f64,
    /// When the rest will be folded, at that pace.
    pub eta_seconds: Option<f64>,
    /// Bytes of rows in memory.
    pub resident_bytes: u64,
    /// How many there may be; 0 while nobody works on it.
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
            cancel_wanted: it.cancel_wanted,
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
    /// A rebuild or rollback that stands in the log, and that no worker has
    /// heeded.
    pub fn recorded(plan: &Plan, actor: &str, recorded: &Recorded) -> Self {
        let mut job = Self {
            object: "rebuild",
            id: recorded.id.to_string(),
            projection: plan.event.projection.clone(),
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
            cancel_wanted: false,
            reason: plan.event.reason.clone(),
            actor: actor.to_owned(),
            worker: None,
            requested_at: None,
            started_at: None,
            finished_at: None,
            comparison: None,
            error: None,
        };
        match &plan.event.operation {
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

    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        self.state.is_over()
    }
}

/// What became of an act, or would become of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CommandReceipt {
    /// Always `act`.
    pub object: &'static str,
    /// The type of its event.
    #[serde(rename = "type")]
    #[schema(example = "exodrive.projection.paused")]
    pub kind: &'static str,
    /// Of which projection.
    pub projection: String,
    /// What comes of it.
    pub effect: String,
    /// Nothing was done.
    pub dry_run: bool,
    /// Its event's id.
    pub id: Option<String>,
    /// Where its event stands.
    pub position: Option<u64>,
    /// A worker has heeded it; else it takes effect when one starts.
    pub applied: bool,
}

impl CommandReceipt {
    /// Of an act that was recorded, or else of one that was only planned.
    pub fn of(plan: &Plan, recorded: Option<&Recorded>) -> Self {
        Self {
            object: "act",
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
