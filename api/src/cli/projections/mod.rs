//! `exodrive projections`: commands for operators.

mod actions;
mod list;
mod rebuild;
mod show;
pub(super) mod verify;

use super::{Failure, table, terminal};
use crate::settings::Connections;
use clap::Subcommand;
use exodrive_commands::operations::{Operator, Plan, Recorded};
use exodrive_log::Log;
use exodrive_projections::{Database, names};
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections status
  exodrive projections status --json | jq '.[] | select(.lag_events > 0)'
  exodrive projections rebuild inbox --reason 'after the fix of the status fold'
  exodrive projections show inbox --key f3c95789-ace1-4954-ac5d-6baed2eac902
  exodrive projections retry inbox

Every command is an event of the log, with the operator and the reason. The workers
(`exodrive work`) apply it; readers see the present rows meanwhile.")]
pub(super) struct Projections {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show the status of every projection: state, position, lag, heartbeat,
    /// parked events
    #[command(visible_alias = "status")]
    List(list::List),
    /// Show one projection, or one row of it with the events parked for it
    Show(show::Show),
    /// Build a new generation from the log beside the one that readers see,
    /// compare, and swap
    Rebuild(rebuild::Rebuild),
    /// Show readers the previous generation
    Rollback(rebuild::Rollback),
    /// Stop folding; readers see the rows of that moment
    Pause(actions::Pause),
    /// Resume folding after a pause
    Resume(actions::Resume),
    /// Retry parked events in order, once their cause is removed
    Retry(actions::Retry),
    /// Skip the event that blocks a key: leave it out of the row, and fold the
    /// events behind it
    Skip(actions::Skip),
    /// Drop generations that readers no longer see
    Prune(actions::Prune),
    /// Fold the log again and compare the result with the rows and with Redis
    Verify(super::projections::verify::Verify),
}

pub(super) fn parse_name(name: &str) -> Result<String, String> {
    if names().contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!("there is no such projection; there are {}", names().join(", ")))
}

impl Projections {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::List(list) => list.run().await,
            Action::Show(show) => show.run().await,
            Action::Rebuild(rebuild) => rebuild.run().await,
            Action::Rollback(rollback) => rollback.run().await,
            Action::Pause(pause) => pause.run().await,
            Action::Resume(resume) => resume.run().await,
            Action::Retry(retry) => retry.run().await,
            Action::Skip(skip) => skip.run().await,
            Action::Prune(prune) => prune.run().await,
            Action::Verify(verify) => verify.run().await,
        }
    }
}

/// Connects to the log and Postgres for operators' commands.
async fn operator(connections: &Connections) -> Result<Operator, Failure> {
    let (nats, monitor) = connections.resolve_log()?;
    let database = connections.resolve_database()?;
    let log = Log::connect(&connections.appending_config(nats, monitor)?).await?;
    Ok(Operator::new(log, Database::for_workers(&database)?))
}

/// Appends the event of a plan, with the person at the terminal as the
/// operator.
async fn append_planned(operator: &Operator, plan: &Plan) -> Result<Recorded, Failure> {
    Ok(operator.append_planned(plan, &terminal::command_context()).await?)
}
