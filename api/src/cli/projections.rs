//! `exodrive projections`: for operators.

use super::{Failure, table};
use crate::settings::{Connections, reading_config};
use clap::Subcommand;
use exodrive_log::Log;
use exodrive_projections::{Database, names};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections list
  exodrive projections list --json | jq '.[] | select(.lag_events > 0)'
  exodrive projections retry inbox --key exo.email.4ef9a417-02e9-4d39-ad75-9611e0fcc33c")]
pub(super) struct Projections {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// How every projection stands: position, lag, sign of life, parked events
    #[command(visible_alias = "status")]
    List(List),
    /// Fold parked events again, in order, after what stopped them was mended
    Retry(Retry),
    /// Fold the log afresh and compare: rows and Redis views must be what it says
    Verify(super::verify::Verify),
}

#[derive(clap::Args)]
struct List {
    /// An array of objects, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

#[derive(clap::Args)]
struct Retry {
    /// Which projection
    #[arg(value_parser = parse_name)]
    name: String,
    /// Only this key (a row's key, or a subject); all of them if not given
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    connections: Connections,
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
            Action::Retry(retry) => retry.run().await,
            Action::Verify(verify) => verify.run().await,
        }
    }
}

impl List {
    async fn run(self) -> Result<ExitCode, Failure> {
        let urls = self.connections.resolve()?;
        let log = Log::open(&reading_config(urls.nats)).await?;
        let end = log.last_position().await?;
        let projections = Database::for_workers(&urls.database)?.projections().await?;
        let lag = |position: i64| end.saturating_sub(u64::try_from(position).unwrap_or(0));
        if self.json {
            let rows: Vec<_> = projections
                .iter()
                .map(|projection| {
                    let mut row = json!(projection);
                    row["lag_events"] = json!(lag(projection.position));
                    row
                })
                .collect();
            say!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(ExitCode::SUCCESS);
        }
        let headings = [
            "name",
            "version",
            "generation",
            "position",
            "lag",
            "sign of life",
            "parked",
            "worker",
        ];
        let mut table = table::table(&headings);
        for projection in projections {
            let count = |number: i64| table::number(u64::try_from(number).unwrap_or(0));
            table.add_row([
                projection.name,
                projection.version.to_string(),
                projection.generation.to_string(),
                count(projection.position),
                table::number(lag(projection.position)),
                projection
                    .heartbeat_age_seconds
                    .map_or_else(|| "never".to_owned(), |age| format!("{age:.1} s ago")),
                count(projection.parked),
                projection.worker.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        say!("{table}\nThe log ends at {}.", table::number(end));
        Ok(ExitCode::SUCCESS)
    }
}

impl Retry {
    async fn run(self) -> Result<ExitCode, Failure> {
        let urls = self.connections.resolve()?;
        let database = Database::for_workers(&urls.database)?;
        let count = database.retry_parked(&self.name, self.key.as_deref()).await?;
        if count == 0 {
            say!("Nothing is parked there.");
        } else {
            say!(
                "{count} parked events will be folded again by the worker within seconds; `exodrive projections list` shows what stays parked."
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
