//! Operators' commands that are done once a worker has applied them.

use super::{super::Failure, append_planned, operator, parse_name};
use crate::settings::Connections;
use exodrive_commands::operations::{
    CommandReceipt, NO_WORKER_NOTICE, Operator, OperatorError, ProjectionCommand,
};
use exodrive_projections::names;
use std::process::ExitCode;

/// Options of every command.
#[derive(clap::Args)]
pub(super) struct Common {
    /// Only describe the effect
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print a JSON object, for programs
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) connections: Connections,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive projections pause inbox --reason 'the disk is nearly full'
  exodrive projections resume inbox")]
pub(super) struct Pause {
    /// Name of the projection
    #[arg(value_parser = parse_name)]
    name: String,
    /// Reason: it stays in the log
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive projections resume inbox")]
pub(super) struct Resume {
    /// Name of the projection
    #[arg(value_parser = parse_name)]
    name: String,
    /// Reason, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections retry inbox
  exodrive projections retry inbox --key exo.email.f3c95789-ace1-4954-ac5d-6baed2eac902

What still cannot be folded is parked again, in order; `exodrive projections
show NAME` shows what stays parked, and why.")]
pub(super) struct Retry {
    /// Name of the projection
    #[arg(value_parser = parse_name)]
    name: String,
    /// Only this key (a row's key, or a subject); all of them if not given
    #[arg(long)]
    key: Option<String>,
    /// Reason, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive projections show inbox --key f3c95789-ace1-4954-ac5d-6baed2eac902
  exodrive projections skip inbox --key f3c95789-ace1-4954-ac5d-6baed2eac902 --position 1042 --reason 'a test of the provider'

`projections show` prints the position and the error of the event that blocks the key.

The event stays in the log; it is left out of this row permanently, in every
generation. Only the event that blocks the key can be skipped: the first parked one.")]
pub(super) struct Skip {
    /// Name of the projection
    #[arg(value_parser = parse_name)]
    name: String,
    /// The parked key (a row's key, or a subject)
    #[arg(long)]
    key: String,
    /// Position of the event
    #[arg(long)]
    position: u64,
    /// Reason: it stays in the log
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections prune inbox --dry-run
  exodrive projections prune            (of every projection)

There is no rollback to a generation that was dropped; it can be rebuilt.")]
pub(super) struct Prune {
    /// Name of the projection; all of them if not given
    #[arg(value_parser = parse_name)]
    name: Option<String>,
    /// Reason, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

impl Pause {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        send_command(&self.common, &self.name, &ProjectionCommand::Pause, &self.reason).await
    }
}

impl Resume {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        send_command(&self.common, &self.name, &ProjectionCommand::Resume, &self.reason).await
    }
}

impl Retry {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        send_command(
            &self.common,
            &self.name,
            &ProjectionCommand::Retry { key: self.key },
            &self.reason,
        )
        .await
    }
}

impl Skip {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let skip = ProjectionCommand::Skip { key: self.key, position: self.position };
        send_command(&self.common, &self.name, &skip, &self.reason).await
    }
}

impl Prune {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        if let Some(name) = &self.name {
            return send_command(&self.common, name, &ProjectionCommand::Prune, &self.reason).await;
        }
        let operator = operator(&self.common.connections).await?;
        let mut receipts = Vec::new();
        for name in names() {
            match one(&operator, name, &ProjectionCommand::Prune, &self.reason, self.common.dry_run)
                .await
            {
                Ok(receipt) => receipts.push(receipt),
                // That projection has nothing to drop.
                Err(error) if is_refused(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if self.common.json {
            say!("{}", serde_json::to_string_pretty(&receipts)?);
        } else if receipts.is_empty() {
            say!("No projection has an old generation to drop.");
        } else {
            receipts.iter().for_each(print_receipt_line);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn is_refused(error: &Failure) -> bool {
    matches!(error.downcast_ref(), Some(OperatorError::Rejected(_)))
}

async fn one(
    operator: &Operator,
    name: &str,
    command: &ProjectionCommand,
    reason: &str,
    dry_run: bool,
) -> Result<CommandReceipt, Failure> {
    let plan = operator.plan(name, command, reason).await?;
    if dry_run {
        return Ok(CommandReceipt::of(&plan, None));
    }
    let recorded = append_planned(operator, &plan).await?;
    Ok(CommandReceipt::of(&plan, Some(&recorded)))
}

async fn send_command(
    common: &Common,
    name: &str,
    command: &ProjectionCommand,
    reason: &str,
) -> Result<ExitCode, Failure> {
    let operator = operator(&common.connections).await?;
    let receipt = one(&operator, name, command, reason, common.dry_run).await?;
    if common.json {
        say!("{}", serde_json::to_string_pretty(&receipt)?);
    } else {
        print_receipt_line(&receipt);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a receipt for people.
pub(super) fn print_receipt_line(receipt: &CommandReceipt) {
    match receipt.position {
        None => say!("Would {}. Nothing was done.", receipt.effect),
        Some(position) if receipt.applied => {
            say!("Recorded at position {position}, and applied: {}.", receipt.effect);
        }
        Some(position) => say!("{NO_WORKER_NOTICE}\nPosition {position}: {}.", receipt.effect),
    }
}
