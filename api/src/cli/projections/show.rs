//! `exodrive projections show`. It prints stored data to the operator's
//! terminal, and none of it to a log.

use super::{super::Failure, operator, parse_name, table};
use crate::settings::Connections;
use exodrive_commands::operations::{Job, Operator, OperatorError, ProjectionDetails};
use exodrive_domain::{Recorded, time};
use exodrive_projections::engine::operations::{Description, ParkedEvent};
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive projections show inbox
  exodrive projections show inbox --key f3c95789-ace1-4954-ac5d-6baed2eac902
  exodrive projections show inbox --json | jq '.parked_events[0].error'

With --key it prints the row and every event parked for it as they are stored,
personal data among it: it is for your eyes.")]
pub(super) struct Show {
    /// Name of the projection
    #[arg(value_parser = parse_name)]
    name: String,
    /// The row of this key, and the events parked for it (a row's key, or a subject)
    #[arg(long)]
    key: Option<String>,
    /// Print a JSON object, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

impl Show {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let operator = operator(&self.connections).await?;
        if let Some(key) = &self.key {
            return self.show_key(&operator, key).await;
        }
        let shown = operator.show(&self.name).await?;
        if self.json {
            say!("{}", serde_json::to_string_pretty(&shown)?);
        } else {
            print(&shown);
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn show_key(&self, operator: &Operator, key: &str) -> Result<ExitCode, Failure> {
        let what = Description::of(&self.name)
            .ok_or_else(|| OperatorError::NoSuchProjection(self.name.clone()))?;
        let shown = operator.show(&self.name).await?;
        let database = operator.database();
        let row = database.stored_row(what.name, key).await?;
        let generation = shown.status.generation;
        let mut parked = Vec::new();
        for event in database.parked(&self.name, generation, Some(key), 1_000).await? {
            let position = u64::try_from(event.position).unwrap_or(0);
            parked.push((operator.log().read_event(position).await?, event));
        }
        if self.json {
            let row = row.map(|(position, data)| json!({"position": position, "data": data}));
            let parked: Vec<_> = parked
                .iter()
                .map(|(recorded, parked)| {
                    let mut out = json!(parked);
                    out["event"] = recorded.as_ref().map_or(Value::Null, to_json);
                    out
                })
                .collect();
            let shown = json!({
                "object": "row", "projection": self.name, "generation": generation,
                "key": key, "row": row, "parked_events": parked,
            });
            say!("{}", serde_json::to_string_pretty(&shown)?);
            return Ok(ExitCode::SUCCESS);
        }
        match &row {
            Some((position, data)) => {
                say!("Row {} at position {}:", table::short(key, 100), table::number(*position));
                say!("{}", serde_json::to_string_pretty(data)?);
            }
            None => say!("There is no row {}.", table::short(key, 100)),
        }
        if parked.is_empty() {
            say!("\nNothing is parked for it.");
            return Ok(ExitCode::SUCCESS);
        }
        say!("\nThat is the state before the events parked for it, in log order:");
        for (recorded, parked) in &parked {
            print_parked(recorded.as_ref(), parked)?;
        }
        if let Some((_, first)) = parked.first() {
            let (name, position) = (&self.name, first.position);
            say!(
                "\nAfter a fix: exodrive projections retry {name} --key {key}\nTo leave it out:  exodrive projections skip {name} --key {key} --position {position} --reason TEXT"
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn to_json(event: &Recorded) -> Value {
    let body: Value = serde_json::from_slice(&event.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&event.body).into());
    json!({
        "position": event.position,
        "subject": event.subject,
        "stored_at": time::format(&event.stored_at),
        "id": event.envelope.id,
        "type": event.envelope.kind,
        "version": event.envelope.version,
        "source": event.envelope.source,
        "time": time::format(&event.envelope.time),
        "traceparent": event.envelope.traceparent,
        "causation": event.envelope.causation,
        "correlation": event.envelope.correlation,
        "actor": event.envelope.actor,
        "provider_headers": event.provider_headers,
        "body": body,
    })
}

fn print_parked(recorded: Option<&Recorded>, parked: &ParkedEvent) -> Result<(), Failure> {
    let kind = recorded.map_or("gone", |it| it.envelope.kind.as_str());
    let position = u64::try_from(parked.position).unwrap_or(0);
    say!("\nposition  {}  {}", table::number(position), table::short(kind, 80));
    say!("error     {}", error(parked));
    say!("tried     {}", tried(parked));
    if let Some(recorded) = recorded {
        say!("{}", serde_json::to_string_pretty(&to_json(recorded))?);
    }
    Ok(())
}

fn error(parked: &ParkedEvent) -> String {
    match parked.error.as_str() {
        "" => "none of its own: it waits behind another".to_owned(),
        error => table::short(error, 300),
    }
}

fn tried(parked: &ParkedEvent) -> String {
    let next = match parked.next_attempt_at {
        _ if parked.retry_requested => "a retry has been asked for".to_owned(),
        Some(at) => format!("next attempt {}", table::time(at)),
        None => "no more by itself: `retry` asks for one".to_owned(),
    };
    format!("{} times since {}; {next}", parked.attempts, table::time(parked.parked_at))
}

fn print(shown: &ProjectionDetails) {
    let status = &shown.status;
    say!("{}  version {}, state {}", status.name, status.version, status.state.replace('_', " "));
    if i64::from(status.version) != i64::from(shown.release_version) {
        say!("  this release has version {} of its fold", shown.release_version);
    }
    say!("  reads     {}", shown.subjects.join(", "));
    say!("  unknown   {}", shown.unknown_events);
    if status.paused {
        let why = table::short(status.pause_reason.as_deref().unwrap_or("no reason is given"), 100);
        say!("  paused    by {}: {why}", status.paused_by.as_deref().unwrap_or("an operator"));
    }
    say!(
        "  position  {}, {} events and {:.1} s behind the log",
        table::number(status.position),
        table::number(status.lag_events),
        status.lag_seconds
    );
    say!("\nGenerations");
    let headings =
        ["generation", "state", "version", "position", "partitions", "worker", "lease until"];
    let mut generations = table::table(&headings);
    for it in &shown.generations {
        generations.add_row([
            it.generation.to_string(),
            table::words(it.state),
            it.version.to_string(),
            table::number(u64::try_from(it.position).unwrap_or(0)),
            it.partitions.to_string(),
            it.worker.clone().unwrap_or_else(|| "-".to_owned()),
            it.lease_until.map_or_else(|| "-".to_owned(), table::time),
        ]);
    }
    say!("{generations}");
    if !shown.rebuilds.is_empty() {
        say!("\nLast rebuilds");
        say!("{}", rebuilds(&shown.rebuilds));
    }
    print_parked_keys(shown);
}

fn rebuilds(jobs: &[Job]) -> impl std::fmt::Display {
    let headings = ["asked (UTC)", "kind", "state", "generation", "actor", "reason", "id"];
    let mut table = table::table(&headings);
    for job in jobs {
        let reason = job.error.as_ref().unwrap_or(&job.reason);
        table.add_row([
            table::cell(job.requested_at.map(table::time)),
            job.kind.to_string(),
            table::words(job.state),
            job.generation.map_or_else(|| "-".to_owned(), |it| it.to_string()),
            table::short(&job.actor, 40),
            table::short(reason, 80),
            job.id.clone(),
        ]);
    }
    table
}

fn print_parked_keys(shown: &ProjectionDetails) {
    let parked = &shown.parked_events;
    if parked.is_empty() {
        say!("\nNothing is parked.");
        return;
    }
    say!("\nParked");
    // The keys are not in a table: they are copied from here, and a table would
    // break them.
    for first in parked.iter().filter(|it| !it.error.is_empty()) {
        let waiting = parked.iter().filter(|it| it.key == first.key && it.error.is_empty()).count();
        let position = table::number(u64::try_from(first.position).unwrap_or(0));
        say!("  {}", table::short(&first.key, 200));
        say!("    position {position}, {waiting} waiting behind it");
        say!("    {}", error(first));
        say!("    tried {}", tried(first));
    }
}
