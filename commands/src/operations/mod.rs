//! Operators' commands on projections: checked against the present state,
//! appended as events, and followed until a worker has applied them. Used by
//! the command line and by HTTP.

mod act;
mod error;
mod job;
mod status;

pub use act::{Plan, ProjectionCommand};
pub use error::{InvalidOperation, OperationRejection, OperatorError};
pub use exodrive_projections::engine::operations::{GenerationState, RebuildKind, RebuildState};
pub use job::{CommandReceipt, Job, Progress};
pub use status::ProjectionStatus;

use crate::{context::CommandContext, event::decided_event};
use exodrive_domain::{Payload, Subject, decode, operation::Operation};
use exodrive_log::Log;
use exodrive_projections::{
    Database,
    engine::operations::{Description, Generation, ParkedEvent},
    names,
};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

/// Time that a worker has to apply a command before the operator is shown that
/// no worker did.
const APPLY_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Parked events that are shown at once.
const SHOWN: i64 = 1_000;

/// Operators' commands and reads, on one log and one database. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    log: Log,
    database: Database,
}

/// The id of the operation that a command is: of its event, and of a rebuild or
/// rollback. The same in every retry.
pub fn operation_id(context: &CommandContext) -> Uuid {
    context.derived_id("operation")
}

/// A command that is recorded in the log.
#[derive(Clone, Copy, Debug)]
pub struct Recorded {
    /// Id of its event; for a rebuild or rollback also the id of the rebuild.
    pub id: Uuid,
    /// Position of its event.
    pub position: u64,
    /// True if a worker has applied it. If not, no worker runs, and it takes
    /// effect later.
    pub applied: bool,
}

/// Notice about a command that no worker has applied.
pub const NO_WORKER_NOTICE: &str =
    "Recorded; no worker is running, it takes effect when one starts (`exodrive work`).";

impl Operator {
    /// Reads from `database`, appends to `log`.
    pub fn new(log: Log, database: Database) -> Self {
        Self { log, database }
    }

    /// The log that commands are appended to.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The database that shows their effects.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Appends the event of a plan, and waits a moment for a worker to apply
    /// it.
    ///
    /// # Errors
    /// When the log does not take it.
    pub async fn append_planned(
        &self,
        plan: &Plan,
        context: &CommandContext,
    ) -> Result<Recorded, OperatorError> {
        let (id, planned) = (operation_id(context), &plan.event);
        let kind = planned.operation.kind();
        let envelope = context.envelope(kind, id.to_string(), self.log.now());
        let subject = Subject::Projection(planned.projection.clone());
        let event = decided_event(subject, envelope, planned)?;
        let position = self.log.append_fact(&event).await?.position;
        let deadline = Instant::now() + APPLY_TIMEOUT;
        // The event is recorded. A database that does not answer changes
        // nothing about that.
        let mut applied = false;
        while !applied && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
            let looked = tokio::time::timeout_at(deadline, self.database.applied_position()).await;
            applied = matches!(looked, Ok(Ok(applied)) if applied >= position);
        }
        Ok(Recorded { id, position, applied })
    }

    /// One projection with its generations, rebuilds and parked events.
    ///
    /// # Errors
    /// When there is no such projection, or log or database do not answer.
    pub async fn show(&self, name: &str) -> Result<ProjectionDetails, OperatorError> {
        let what = known(name)?;
        let status = self.status().await?.into_iter().find(|it| it.name == name);
        let status = status.ok_or_else(|| OperatorError::NotBuilt(name.to_owned()))?;
        let generations = self.database.generations(name).await?;
        let rebuilds = self.database.rebuilds(Some(name), 10).await?;
        let parked = self.database.parked(name, status.generation, None, SHOWN).await?;
        Ok(ProjectionDetails {
            object: "projection",
            status,
            release_version: what.version,
            subjects: what.subjects,
            unknown_events: UNKNOWN_EVENTS,
            generations,
            rebuilds: rebuilds.into_iter().map(Job::from).collect(),
            parked_events: parked,
        })
    }

    /// The present state of a rebuild or rollback that was just recorded.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job(
        &self,
        plan: &Plan,
        actor: &str,
        recorded: &Recorded,
    ) -> Result<Job, OperatorError> {
        let row = self.database.rebuild(recorded.id).await?;
        Ok(row.map_or_else(|| Job::recorded(&plan.event, actor, recorded.id), Job::from))
    }

    /// One rebuild, also if no worker has applied it yet.
    ///
    /// # Errors
    /// When no rebuild has this id, or log or database do not answer.
    pub async fn find_job(&self, id: Uuid) -> Result<Job, OperatorError> {
        if let Some(row) = self.database().rebuild(id).await? {
            return Ok(Job::from(row));
        }
        let applied = self.database().applied_position().await?;
        // A worker may have applied it between the two questions.
        if let Some(row) = self.database().rebuild(id).await? {
            return Ok(Job::from(row));
        }
        for name in names() {
            let subject = Subject::Projection(name.to_owned());
            for recorded in self.log().events_after(&subject, applied).await? {
                let envelope = &recorded.envelope;
                if envelope.id == id.to_string()
                    && let Ok(Payload::Operation(event)) = decode(&recorded)
                    && matches!(
                        event.operation,
                        Operation::RebuildRequested { .. } | Operation::RollbackRequested { .. }
                    )
                {
                    let actor = envelope.actor.as_deref().unwrap_or_default();
                    return Ok(Job::recorded(&event, actor, id));
                }
            }
        }
        Err(OperatorError::NoSuchRebuild)
    }
}

/// A projection with its generations, rebuilds and parked events.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProjectionDetails {
    /// Always `projection`.
    pub object: &'static str,
    /// Its status.
    #[serde(flatten)]
    pub status: ProjectionStatus,
    /// The version of the fold in this release.
    pub release_version: u32,
    /// Prefixes of the subjects whose events it may fold.
    pub subjects: &'static [&'static str],
    /// Effect of an event that this release cannot read.
    pub unknown_events: &'static str,
    /// Its generations, newest first.
    pub generations: Vec<Generation>,
    /// Its last ten rebuilds, newest first; `/v1/operator/rebuilds` has more.
    pub rebuilds: Vec<Job>,
    /// Parked events in log order, 1,000 at most; `parked` counts all of them.
    pub parked_events: Vec<ParkedEvent>,
}

/// Rule for an event that this release cannot read, for people.
pub const UNKNOWN_EVENTS: &str = "An event of a type that this release does not know changes no \
    row: a newer release appended it, and its own projections fold it. One of a known type in a \
    newer version parks its subject until a release that reads it runs, and `retry`.";

pub(crate) fn known(name: &str) -> Result<Description, OperatorError> {
    Description::of(name).ok_or_else(|| OperatorError::NoSuchProjection(name.to_owned()))
}
