//! Operators' commands on projections, checked against the present state.

use super::{InvalidOperation, OperationRejection, Operator, OperatorError, known};
use exodrive_domain::{
    operation::{Operation, OperationEvent},
    value::Reason,
};
use exodrive_projections::engine::operations::{GenerationState, Rebuild, RebuildState};
use uuid::Uuid;

/// A command on a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectionCommand {
    /// Fold it from the log into a new generation, beside the one that readers
    /// see.
    Rebuild {
        /// Only this row.
        key: Option<String>,
        /// Only rows that an event at this position or later touches.
        from_position: Option<u64>,
        /// Number of partitions that its keys are split into.
        partitions: Option<u32>,
        /// Swap although rows differ.
        accept_differences: bool,
    },
    /// Swap the rebuild that waits because rows differ.
    Accept,
    /// Cancel the rebuild that is in progress.
    Cancel,
    /// Show readers the previous generation.
    Rollback,
    /// Pause: fold nothing.
    Pause,
    /// Resume folding.
    Resume,
    /// Retry parked events.
    Retry {
        /// Only the events of this key.
        key: Option<String>,
    },
    /// Skip an event: leave it out of a row.
    Skip {
        /// Key of the row.
        key: String,
        /// Position of the event.
        position: u64,
    },
    /// Drop the generations that readers no longer see.
    Prune,
}

impl ProjectionCommand {
    fn needs_reason(&self) -> bool {
        matches!(self, Self::Rebuild { .. } | Self::Rollback | Self::Pause | Self::Skip { .. })
    }
}

/// A checked command: the present state allows it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The event to append.
    pub event: OperationEvent,
    /// Effect of the command, for people.
    pub effect: String,
}

impl Operator {
    /// Checks a command against the present state. Changes nothing: a dry run
    /// ends here.
    ///
    /// # Errors
    /// When the command is rejected. The error says why, and what to do about
    /// it.
    pub async fn plan(
        &self,
        name: &str,
        act: &ProjectionCommand,
        reason: &str,
    ) -> Result<Plan, OperatorError> {
        let what = known(name)?;
        let reason = Reason::optional(Some(reason)).map_err(InvalidOperation::Reason)?;
        if act.needs_reason() && reason.is_none() {
            return Err(OperatorError::NoReason);
        }
        let (operation, effect) = match act {
            ProjectionCommand::Rebuild { key, from_position, partitions, accept_differences } => {
                let bounds = (key.as_deref(), *from_position, *partitions);
                let effect = self.check_rebuild(name, what.version, bounds).await?;
                let operation = Operation::RebuildRequested {
                    version: what.version,
                    key: key.clone(),
                    from_position: *from_position,
                    partitions: *partitions,
                    accept_differences: *accept_differences,
                };
                (operation, effect)
            }
            ProjectionCommand::Accept => self.accept(name).await?,
            ProjectionCommand::Cancel => self.cancel(name).await?,
            ProjectionCommand::Rollback => self.rollback(name).await?,
            ProjectionCommand::Pause | ProjectionCommand::Resume => {
                self.pause(name, *act == ProjectionCommand::Pause).await?
            }
            ProjectionCommand::Retry { key } => self.retry(name, key.as_deref()).await?,
            ProjectionCommand::Skip { key, position } => self.skip(name, key, *position).await?,
            ProjectionCommand::Prune => self.prune(name).await?,
        };
        let (projection, reason) = (name.to_owned(), reason.map_or_else(String::new, String::from));
        Ok(Plan { event: OperationEvent { projection, reason, operation }, effect })
    }

    async fn under_way(&self, name: &str) -> Result<Option<Rebuild>, OperatorError> {
        let last = self.database().rebuilds(Some(name), 50).await?;
        Ok(last.into_iter().find(|rebuild| !rebuild.is_over()))
    }

    async fn nothing_under_way(&self, name: &str) -> Result<(), OperatorError> {
        match self.under_way(name).await? {
            None => Ok(()),
            Some(rebuild) => Err(OperatorError::UnderWay {
                projection: name.to_owned(),
                rebuild: rebuild.id.to_string(),
            }),
        }
    }

    /// The active generation: its number and the version of its fold.
    async fn active(&self, name: &str) -> Result<(i32, i32), OperatorError> {
        let standings = self.database().projections().await?;
        let found = standings.into_iter().find(|it| it.name == name);
        let found = found.ok_or_else(|| OperatorError::NotBuilt(name.to_owned()))?;
        Ok((found.generation, found.version))
    }

    async fn check_rebuild(
        &self,
        name: &str,
        version: u32,
        (key, from_position, partitions): (Option<&str>, Option<u64>, Option<u32>),
    ) -> Result<String, OperatorError> {
        if key.is_some() && (from_position.is_some() || partitions.is_some()) {
            return Err(InvalidOperation::KeyWithRange.into());
        }
        if key.is_some_and(|key| key.is_empty() || key.contains('\0')) {
            return Err(InvalidOperation::FaultyKey.into());
        }
        if partitions.is_some_and(|partitions| !(1..=64).contains(&partitions)) {
            return Err(InvalidOperation::Partitions.into());
        }
        let end = self.log().last_position().await?;
        if from_position.is_some_and(|from| from == 0 || from > end) {
            return Err(InvalidOperation::NoSuchPosition { end }.into());
        }
        let (generation, found) = self.active(name).await?;
        if (key.is_some() || from_position.is_some()) && i64::from(found) != i64::from(version) {
            let projection = name.to_owned();
            return Err(OperationRejection::OtherVersion { projection, found, version }.into());
        }
        self.nothing_under_way(name).await?;
        Ok(match (key, from_position) {
            (Some(key), _) => {
                format!(
                    "fold row {key} of {name} again, in generation {generation} that readers see"
                )
            }
            (None, Some(from)) => format!(
                "build a generation of {name} beside {generation}, folding again the rows that events {from} to {end} touch; compare both, and swap"
            ),
            (None, None) => format!(
                "build a generation of {name} beside {generation} from events 1 to {end}, with version {version} of the fold; compare both, and swap"
            ),
        })
    }

    async fn accept(&self, name: &str) -> Result<(Operation, String), OperatorError> {
        match self.under_way(name).await? {
            Some(rebuild) if rebuild.state == RebuildState::Waiting => Ok((
                Operation::RebuildAccepted { rebuild: rebuild.id },
                format!("swap {name} to the generation of rebuild {}", rebuild.id),
            )),
            Some(rebuild) => Err(OperationRejection::NotWaiting {
                projection: name.to_owned(),
                rebuild: rebuild.id.to_string(),
                state: rebuild.state,
            }
            .into()),
            None => Err(OperationRejection::NothingUnderWay { projection: name.to_owned() }.into()),
        }
    }

    async fn cancel(&self, name: &str) -> Result<(Operation, String), OperatorError> {
        match self.under_way(name).await? {
            Some(rebuild) => Ok((
                Operation::RebuildCancelled { rebuild: rebuild.id },
                format!(
                    "cancel rebuild {} of {name}; readers go on seeing the present rows",
                    rebuild.id
                ),
            )),
            None => Err(OperationRejection::NothingUnderWay { projection: name.to_owned() }.into()),
        }
    }

    async fn rollback(&self, name: &str) -> Result<(Operation, String), OperatorError> {
        self.nothing_under_way(name).await?;
        let (active, _) = self.active(name).await?;
        let generations = self.database().generations(name).await?;
        let before = generations.into_iter().find(|it| it.state == GenerationState::Previous);
        let before = before.ok_or_else(|| OperationRejection::NoEarlierGeneration {
            projection: name.to_owned(),
            active,
        })?;
        let generation = before.generation;
        // Postgres has no unsigned numbers; versions begin at 1.
        let version = before.version.unsigned_abs();
        Ok((
            Operation::RollbackRequested { version, generation },
            format!(
                "show readers of {name} generation {generation} (version {version}) instead of {active}"
            ),
        ))
    }

    async fn pause(&self, name: &str, pause: bool) -> Result<(Operation, String), OperatorError> {
        let standings = self.database().projections().await?;
        let found = standings.into_iter().find(|it| it.name == name);
        let found = found.ok_or_else(|| OperatorError::NotBuilt(name.to_owned()))?;
        match (pause, found.paused) {
            (true, true) => {
                let said = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
                let (by, reason) = (said(found.paused_by), said(found.pause_reason));
                let projection = name.to_owned();
                Err(OperationRejection::AlreadyPaused { projection, by, reason }.into())
            }
            (false, false) => {
                Err(OperationRejection::NotPaused { projection: name.to_owned() }.into())
            }
            (true, false) => Ok((
                Operation::Paused {},
                format!("fold nothing into {name}; readers see the rows of this moment"),
            )),
            (false, true) => Ok((
                Operation::Resumed {},
                format!("fold into {name} the events that came meanwhile"),
            )),
        }
    }

    async fn retry(
        &self,
        name: &str,
        key: Option<&str>,
    ) -> Result<(Operation, String), OperatorError> {
        let (generation, _) = self.active(name).await?;
        let parked = self.database().parked(name, generation, key, super::SHOWN).await?;
        if parked.is_empty() {
            let (projection, key) = (name.to_owned(), key.map(str::to_owned));
            return Err(OperationRejection::NothingParked { projection, key }.into());
        }
        let operation = Operation::RetryRequested { key: key.map(str::to_owned) };
        let more = if parked.len() as i64 == super::SHOWN { " or more" } else { "" };
        Ok((
            operation,
            format!("fold {}{more} parked events of {name} again, in order", parked.len()),
        ))
    }

    async fn skip(
        &self,
        name: &str,
        key: &str,
        position: u64,
    ) -> Result<(Operation, String), OperatorError> {
        let (generation, _) = self.active(name).await?;
        let first = self.database().parked(name, generation, Some(key), 1).await?.pop();
        let Some(first) = first else {
            let (projection, key) = (name.to_owned(), Some(key.to_owned()));
            return Err(OperationRejection::NothingParked { projection, key }.into());
        };
        if i64::try_from(position).ok() != Some(first.position) {
            return Err(OperationRejection::NotFirstParked {
                projection: name.to_owned(),
                key: key.to_owned(),
                position,
                first: first.position,
            }
            .into());
        }
        Ok((
            Operation::EventSkipped { key: key.to_owned(), position },
            format!(
                "leave event {position} out of row {key} of {name} in every generation, and fold the events behind it"
            ),
        ))
    }

    async fn prune(&self, name: &str) -> Result<(Operation, String), OperatorError> {
        let generations = self.database().generations(name).await?;
        let old = generations.iter().filter(|it| it.state == GenerationState::Previous);
        let generations: Vec<_> = old.map(|it| it.generation).collect();
        if generations.is_empty() {
            return Err(OperationRejection::NoOldGeneration { projection: name.to_owned() }.into());
        }
        let list = generations.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        Ok((
            Operation::PruneRequested { generations },
            format!("drop generation {list} of {name}: no rollback to it any more"),
        ))
    }

    /// One rebuild.
    ///
    /// # Errors
    /// When no worker knows a rebuild of this id, or the database does not answer.
    pub async fn rebuild(&self, id: Uuid) -> Result<Rebuild, OperatorError> {
        self.database().rebuild(id).await?.ok_or(OperatorError::NoSuchRebuild)
    }
}
