//! `exodrive projections`: for operators.

mod acts;
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
  exodrive projections show inbox --key 4ef9a417-02e9-4d39-ad75-9611e0fcc33c
  exodrive projections retry inbox

Every act is an event of the log, with who did it and why. The workers
(`exodrive work`) carry it out; readers see the present rows meanwhile.")]
pub(super) struct Projections {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// How every projection stands: state, position, lag, sign of life, parked events
    #[command(visible_alias = "status")]
    List(list::List),
    /// One projection whole, or one row of it with the events parked for it
    Show(show::Show),
    /// Fold anew beside what readers see, compare, and swap
    Rebuild(rebuild::Rebuild),
    /// Show readers the generation before
    Rollback(rebuild::Rollback),
    /// Stop folding; readers see the rows as of then
    Pause(acts::Pause),
    /// Fold again after a pause
    Resume(acts::Resume),
    /// Fold parked events again, in order, after what stopped them was mended
    Retry(acts::Retry),
    /// Leave the event that blocks a key out of its row, and fold those behind it
    Skip(acts::Skip),
    /// Drop generations that readers no longer see
    Prune(acts::Prune),
    /// Fold the log afresh and compare it with the rows and with Redis
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

/// Where acts are carried out; needs the log and Postgres.
async fn operator(connections: &Connections) -> Result<Operator, Failure> {
    let (nats, monitor) = connections.resolve_log()?;
    let database = match &connections.database_url {
        Some(url) => url.clone(),
        None => connections.resolve()?.database,
    };
    let log = Log::connect(&connections.appending_config(nats, monitor)?).await?;
    Ok(Operator::new(log, Database::for_workers(&database)?))
}

/// Appends a plan as whoever sits here.
async fn append_planned(operator: &Operator, plan: &Plan) -> Result<Recorded, Failure> {
    Ok(operator.append_planned(plan, &terminal::command_context()).await?)
}
