//! `exodrive workers`: status of the background workers.

use super::{Failure, table};
use crate::settings::Connections;
use chrono::{DateTime, SecondsFormat, Utc};
use exodrive_projections::{
    Database,
    engine::store::{RecordedWorker, WorkerState, WorkerStatus},
};
use exodrive_workers::{Description, WORKERS};
use serde::Serialize;
use std::process::ExitCode;

/// Characters of an error in a table.
const ERROR_LENGTH: usize = 60;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  exodrive workers list                 every worker, with its task and its status
  exodrive workers status               every worker in every process of the last hour
  exodrive workers status sealing --json

Every worker process (`exodrive work`) runs every worker; they share the work by leases and locks. One whose steps
fail backs off and tries again. One that panics ends its process with an exit code that is not 0, and its supervisor
starts the process again. The exit code is 1 if no process runs a worker.")]
pub(super) struct Workers {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List every worker, with its task and its status
    List(List),
    /// Show every worker in every process: last step, last error, next run, failures
    Status(StatusOf),
}

#[derive(clap::Args)]
struct List {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

#[derive(clap::Args)]
struct StatusOf {
    /// Name of a worker; all of them if not given
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(WORKERS.iter().map(|it| it.name)))]
    worker: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

/// A worker, over all processes.
#[derive(Serialize)]
struct Listed {
    object: &'static str,
    name: &'static str,
    about: &'static str,
    /// True if a process runs it.
    running: bool,
    /// Processes that run it.
    processes: usize,
    state: Option<WorkerState>,
    failures: u32,
    last_step_at: Option<String>,
    last_error: Option<String>,
    last_error_at: Option<String>,
    next_step_at: Option<String>,
}

/// A worker of one process.
#[derive(Serialize)]
struct InProcess {
    object: &'static str,
    name: String,
    process: String,
    running: bool,
    state: WorkerState,
    steps: u64,
    failures: u32,
    last_step_at: Option<String>,
    last_error: Option<String>,
    last_error_at: Option<String>,
    next_step_at: Option<String>,
    heartbeat_age_seconds: f64,
}

impl Workers {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::List(list) => list.run().await,
            Action::Status(status) => status.run().await,
        }
    }
}

async fn recorded(connections: &Connections) -> Result<Vec<RecordedWorker>, Failure> {
    Ok(Database::for_workers(&connections.resolve_database()?)?.workers().await?)
}

fn exit_code(recorded: &[RecordedWorker]) -> ExitCode {
    let runs = |worker: &Description| {
        recorded.iter().any(|it| it.status.name == worker.name && it.is_alive())
    };
    if WORKERS.iter().all(runs) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl List {
    async fn run(self) -> Result<ExitCode, Failure> {
        let recorded = recorded(&self.connections).await?;
        let listed: Vec<_> = WORKERS.iter().map(|worker| Listed::of(worker, &recorded)).collect();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&listed)?);
            return Ok(exit_code(&recorded));
        }
        let mut rows =
            table::table(&["worker", "state", "processes", "last step", "failures", "does"]);
        for worker in &listed {
            rows.add_row([
                worker.name.to_owned(),
                worker.shown_state().to_owned(),
                worker.processes.to_string(),
                worker.last_step_at.clone().unwrap_or_else(|| "-".to_owned()),
                worker.failures.to_string(),
                worker.about.to_owned(),
            ]);
        }
        say!("{rows}");
        for worker in listed.iter().filter(|worker| !worker.running) {
            let name = worker.name;
            let error = worker.last_error.as_deref();
            let error = error.map_or_else(String::new, |error| format!(" (last error: {error})"));
            say!("{name} has no process that runs it{error}: start one with `exodrive work`.");
        }
        Ok(exit_code(&recorded))
    }
}

impl Listed {
    fn of(worker: &Description, recorded: &[RecordedWorker]) -> Self {
        let of_worker = || recorded.iter().filter(|it| it.status.name == worker.name);
        let alive: Vec<_> = of_worker().filter(|it| it.is_alive()).collect();
        // The process that worked last is shown for all. If no process runs the worker, the last status is shown.
        let shown = alive.iter().copied().max_by_key(|it| it.status.last_step_at);
        let shown = shown.or_else(|| of_worker().next()).map(|it| &it.status);
        let latest_error = of_worker().map(|it| &it.status).max_by_key(|it| it.last_error_at);
        Self {
            object: "worker",
            name: worker.name,
            about: worker.about,
            running: !alive.is_empty(),
            processes: alive.len(),
            state: shown.map(|it| it.state),
            failures: alive.iter().map(|it| it.status.failures).max().unwrap_or(0),
            last_step_at: of_worker().filter_map(|it| it.status.last_step_at).max().map(time),
            last_error: latest_error.and_then(|it| it.last_error.clone()),
            last_error_at: latest_error.and_then(|it| it.last_error_at).map(time),
            next_step_at: shown.and_then(|it| it.next_step_at).map(time),
        }
    }

    fn shown_state(&self) -> &'static str {
        self.state.map_or("never ran", WorkerState::name)
    }
}

impl StatusOf {
    async fn run(self) -> Result<ExitCode, Failure> {
        let mut recorded = recorded(&self.connections).await?;
        let code = exit_code(&recorded);
        if let Some(name) = &self.worker {
            recorded.retain(|it| it.status.name == *name);
        }
        let in_processes: Vec<_> = recorded.into_iter().map(InProcess::of).collect();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&in_processes)?);
            return Ok(code);
        }
        if in_processes.is_empty() {
            say!("No process has run it in the last hour: start one with `exodrive work`.");
            return Ok(code);
        }
        let mut rows = table::table(&[
            "worker",
            "process",
            "state",
            "steps",
            "failures",
            "last step",
            "next run",
            "last error",
        ]);
        let dash = || "-".to_owned();
        for it in in_processes {
            let silent = if it.running { "" } else { " (silent)" };
            let over = matches!(it.state, WorkerState::Stopped | WorkerState::Panicked);
            rows.add_row([
                it.name,
                it.process,
                format!("{}{}", it.state.name(), if over { "" } else { silent }),
                table::number(it.steps),
                it.failures.to_string(),
                it.last_step_at.unwrap_or_else(dash),
                it.next_step_at.unwrap_or_else(dash),
                it.last_error.map_or_else(dash, |error| table::short(&error, ERROR_LENGTH)),
            ]);
        }
        say!("{rows}");
        Ok(code)
    }
}

impl InProcess {
    fn of(recorded: RecordedWorker) -> Self {
        let running = recorded.is_alive();
        let RecordedWorker { status, age_seconds, .. } = recorded;
        let WorkerStatus { name, process, state, steps, failures, last_error, .. } = status;
        Self {
            object: "worker_status",
            name,
            process,
            running,
            state,
            steps,
            failures,
            last_step_at: status.last_step_at.map(time),
            last_error,
            last_error_at: status.last_error_at.map(time),
            next_step_at: status.next_step_at.map(time),
            heartbeat_age_seconds: age_seconds,
        }
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
