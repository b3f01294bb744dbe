//! Operators' commands to projections, as events on
//! `exo.projection.<projection>`: the command, its actor and the reason. No
//! view is folded from them; the workers apply them.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};
use uuid::Uuid;

/// Every subject of operators' events.
pub const OPERATION_SUBJECTS: &str = "exo.projection.>";

/// A command of an operator to a projection, or a worker's report about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationEvent {
    /// The projection.
    pub projection: String,
    /// Reason, as the operator wrote it; empty for an event of a worker.
    #[serde(default)]
    pub reason: String,
    /// The command or report.
    #[serde(flatten)]
    pub operation: Operation,
}

/// The content of an [`OperationEvent`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "exodrive.projection.")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Operation {
    /// Rebuild beside the rows that readers see. The event's id is the
    /// rebuild's.
    RebuildRequested {
        /// The version of the fold: workers that have it carry it out.
        version: u32,
        /// Rebuild only this row.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Only rows that an event from here on touches.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_position: Option<u64>,
        /// The number of partitions that the keys are split into; unchanged if
        /// left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        partitions: Option<u32>,
        /// True to swap although rows differ.
        #[serde(default)]
        accept_differences: bool,
    },
    /// Swap a rebuild that waits because rows differ.
    RebuildAccepted {
        /// The rebuild.
        rebuild: Uuid,
    },
    /// End a rebuild; readers keep their generation.
    RebuildCancelled {
        /// The rebuild.
        rebuild: Uuid,
    },
    /// Show readers an earlier generation again. The event's id is the
    /// rollback's.
    RollbackRequested {
        /// The version of the fold that wrote it.
        version: u32,
        /// The generation.
        generation: i32,
    },
    /// Stop folding until it is resumed.
    Paused {},
    /// Fold again after a pause.
    Resumed {},
    /// Fold parked events again.
    RetryRequested {
        /// Retry only those of this key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// Leave an event out of a row, in every generation.
    EventSkipped {
        /// The key of the row, or the subject if the event cannot be read.
        key: String,
        /// The position of the event.
        position: u64,
    },
    /// Drop generations that readers no longer see.
    PruneRequested {
        /// The generations to drop.
        generations: Vec<i32>,
    },
    /// Report of a worker: readers see another generation.
    Swapped {
        /// The rebuild or rollback that it ends.
        rebuild: Uuid,
        /// The generation that they saw.
        from_generation: i32,
        /// The generation that they see now.
        to_generation: i32,
        /// The version of the fold before.
        from_version: u32,
        /// The version of the fold now.
        to_version: u32,
        /// The position at which both were compared.
        position: u64,
        /// Rows of the new generation.
        rows: u64,
        /// Keyed digest of its rows, hexadecimal.
        digest: String,
        /// The number of rows that differed.
        differences: u64,
    },
}

impl Operation {
    /// Every event type (`ce-type`).
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The event's type (`ce-type`).
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// True if the text can name a projection: lower-case letters, digits and
/// underscores.
pub(crate) fn is_projection(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !text.is_empty() && text.len() <= 63 && text.chars().all(valid)
}
