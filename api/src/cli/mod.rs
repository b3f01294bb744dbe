//! The command line: one program, `exodrive`, with a command for everything.
//!
//! Results go to standard output, what happens on the way to standard error.
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

#![expect(clippy::print_stderr, reason = "a command line prints")]

/// Prints a line to standard output. A reader that has seen enough (`| head`)
/// ends the program, quietly.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::print_line(format_args!($($text)*))
    };
}

mod audit;
mod demo;
mod doctor;
mod import;
mod metrics;
mod projections;
mod replay;
mod serve;
mod table;
mod terminal;
mod up;
mod work;
mod workers;

use crate::http::auth::{tokens, tokens::Role};
use crate::{
    http,
    settings::{Connections, DEFAULT_FILTER, HttpSettings, LogSettings, Logging},
};
use clap::{Parser, Subcommand};
use exodrive_log::Log;
use exodrive_projections::Database;
use exodrive_runtime::{error_chain, folder, telemetry};
use std::{io::Write, process::ExitCode, time::Duration};

/// What went wrong, for the person at the terminal.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// ExoDrive: exotic-car rental on an event log.
///
/// Every command finds a running system by its data folder (.exodrive in the
/// current folder, or EXODRIVE_DATA_DIR) or by the EXODRIVE_..._URL variables.
#[derive(Parser)]
#[command(name = "exodrive", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logging: Logging,
}

const EXAMPLES: &str = "Examples:
  exodrive up                                  start everything, Ctrl-C stops it
  exodrive demo                                send the sample deliveries and look at them
  exodrive token --role auditor                a token for curl
  exodrive replay email 4ef9a417-02e9-4d39-ad75-9611e0fcc33c
  exodrive projections list
  exodrive projections verify --all            prove that the views are what the log says
  (export $(exodrive env); psql \"$EXODRIVE_DATABASE_URL\")";

#[derive(Subcommand)]
enum Command {
    /// Start everything: private NATS, Postgres and Redis, the API and a worker
    Up(up::Up),
    /// Run the API
    Serve(serve::Serve),
    /// Run a worker: it keeps the projections level with the log
    Work(work::Work),
    /// Prepare the event log and the database: streams, migrations, and the tables of every
    /// projection
    Migrate(Migrate),
    /// Send the sample deliveries through the webhook and look at the outcome
    Demo(demo::Demo),
    /// Take the tables of the present product over, from CSV files
    Import(import::Import),
    /// Travel in time: a row of any view as it was, and what made it so, from the log
    Replay(replay::Replay),
    /// Evidence for auditors, and the erasure of personal data
    Audit(audit::Audit),
    /// Look at the projections and mend them
    Projections(projections::Projections),
    /// List the background workers, and see how each stands
    Workers(workers::Workers),
    /// Print a token for a system whose secret is at hand (for development)
    Token(Token),
    /// Print the addresses of the running system as lines EXODRIVE_..._URL=...
    Env(Env),
    /// Check every part of the system, with what to do about each fault
    Doctor(doctor::Doctor),
    /// Print the OpenAPI 3.1 description of the API
    Openapi,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  EXODRIVE_NATS_OPERATOR_URL=nats://exodrive-operator:... exodrive migrate

Makes the streams that are missing; changes none that is there. docs/nats.conf
shows a NATS whose other users may not.")]
struct Migrate {
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  curl -H \"Authorization: Bearer $(exodrive token --role auditor)\" http://127.0.0.1:8080/v1/inbox")]
struct Token {
    /// What the bearer is: customer, admin, auditor or operator
    #[arg(long)]
    role: Role,
    /// Who the bearer is
    #[arg(long, default_value = "developer")]
    subject: String,
    /// How long the token is good for
    #[arg(long, default_value = "12h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    http: HttpSettings,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  (export $(exodrive env); psql \"$EXODRIVE_DATABASE_URL\" -c 'select key, status from inbox')")]
struct Env {
    #[command(flatten)]
    connections: Connections,
}

fn print_line(text: std::fmt::Arguments<'_>) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        // The first TLS connection would find no provider without it. Fails
        // only if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let quiet = !matches!(self.command, Command::Up(_) | Command::Serve(_) | Command::Work(_));
        // A command's answer is its output; its log is for when it fails.
        let filter = if quiet && self.logging.filter == DEFAULT_FILTER {
            "error"
        } else {
            &self.logging.filter
        };
        if let Err(error) = telemetry::init(filter, self.logging.format) {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: cannot start: {error}");
                return ExitCode::FAILURE;
            }
        };
        match runtime.block_on(self.command.run(&self.logging)) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("error: {}", error_chain(error.as_ref()));
                ExitCode::FAILURE
            }
        }
    }
}

impl Command {
    async fn run(self, logging: &Logging) -> Result<ExitCode, Failure> {
        match self {
            Self::Up(command) => command.run(logging).await?,
            Self::Serve(command) => command.run().await?,
            Self::Work(command) => command.run().await?,
            Self::Migrate(command) => command.run().await?,
            Self::Demo(command) => command.run(logging).await?,
            Self::Import(command) => return command.run().await,
            Self::Replay(command) => return command.run().await,
            Self::Audit(command) => return command.run().await,
            Self::Projections(command) => return command.run().await,
            Self::Workers(command) => return command.run().await,
            Self::Token(command) => command.run()?,
            Self::Env(command) => command.run()?,
            Self::Doctor(command) => return command.run().await,
            Self::Openapi => say!("{}", http::openapi().to_pretty_json()?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Migrate {
    async fn run(self) -> Result<(), Failure> {
        let urls = self.connections.resolve()?;
        let keys = self.connections.wrapping_keys()?;
        let config = self.log.config(urls.nats_operator, urls.nats_monitor, keys);
        Log::prepare(&config).await?;
        say!("The event log is ready: it has its streams, with the settings that they must have.");
        Database::for_workers(&urls.database)?.migrate().await?;
        say!("The database is ready: migrations applied, every projection has its tables.");
        Ok(())
    }
}

impl Token {
    fn run(self) -> Result<(), Failure> {
        let secret = self.http.token_secret(&self.connections)?;
        let claim = &self.http.jwt_role_claim;
        say!("{}", tokens::issue(&secret, &self.subject, self.role, self.ttl, claim)?);
        Ok(())
    }
}

impl Env {
    fn run(self) -> Result<(), Failure> {
        let urls = self.connections.resolve()?;
        say!("EXODRIVE_NATS_URL={}", urls.nats);
        say!("EXODRIVE_NATS_WORKER_URL={}", urls.nats_worker);
        say!("EXODRIVE_NATS_OPERATOR_URL={}", urls.nats_operator);
        if let Some(monitor) = urls.nats_monitor {
            say!("EXODRIVE_NATS_MONITOR_URL={monitor}");
        }
        say!("EXODRIVE_DATABASE_URL={}", urls.database);
        say!("EXODRIVE_REDIS_URL={}", urls.redis);
        if let Some(system) = folder::announced(&self.connections.data_dir)? {
            say!("EXODRIVE_API_URL={}", system.url);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_is_in_the_readme() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let commands = readme.split("## Commands").nth(1).unwrap().split("\n## ").next().unwrap();
        let program = Cli::command();
        program.clone().debug_assert();
        for command in program.get_subcommands() {
            let name = command.get_name();
            assert!(commands.contains(&format!("`{name}`")), "README.md does not name {name}");
        }
    }
}
