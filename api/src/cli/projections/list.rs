//! `exodrive projections list`: the status of every projection.

use super::{super::Failure, operator, table};
use crate::settings::Connections;
use exodrive_commands::operations::ProjectionStatus;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections status
  exodrive projections status --json | jq '.[] | select(.state != \"level\") | .name'

States: level (at the log's end), catching_up, paused, rebuilding (readers see
the present rows meanwhile), no_worker (no heartbeat for 10 s).")]
pub(super) struct List {
    /// Print a JSON array, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

impl List {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let operator = operator(&self.connections).await?;
        let all = operator.status().await?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&all)?);
            return Ok(ExitCode::SUCCESS);
        }
        let headings = [
            "name",
            "state",
            "version",
            "generation",
            "position",
            "lag",
            "behind",
            "events/s",
            "heartbeat",
            "parked",
            "worker",
        ];
        let mut table = table::table(&headings);
        for it in &all {
            table.add_row([
                it.name.clone(),
                it.state.replace('_', " "),
                it.version.to_string(),
                it.generation.to_string(),
                table::number(it.position),
                table::number(it.lag_events),
                format!("{:.1} s", it.lag_seconds),
                format!("{:.0}", it.events_per_second),
                it.heartbeat_age_seconds
                    .map_or_else(|| "never".to_owned(), |age| format!("{age:.1} s ago")),
                table::number(u64::try_from(it.parked).unwrap_or(0)),
                it.worker.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        say!("{table}\nThe log ends at {}.", table::number(operator.log().last_position().await?));
        all.iter().for_each(hint);
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints advice on what to do next.
fn hint(it: &ProjectionStatus) {
    let name = &it.name;
    if it.parked > 0 {
        say!("{name}: events are parked; `exodrive projections show {name}` shows why.");
    }
    if it.paused {
        let by = it.paused_by.as_deref().unwrap_or("an operator");
        let why = table::short(it.pause_reason.as_deref().unwrap_or("no reason is given"), 80);
        say!("{name}: paused by {by}: {why}");
    }
    if it.rebuild.is_some() {
        say!("{name}: `exodrive projections rebuild {name} --watch` shows how far the rebuild is.");
    }
}
