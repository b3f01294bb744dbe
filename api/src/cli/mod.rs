//! The command line: one program, `exodrive`, with a subcommand for every task.
//!
//! Results go to standard output, progress to standard error. Exit codes: 0
//! done, 1 failed, 2 wrong usage.

#![expect(clippy::print_stderr, reason = "a command line prints")]

/// Prints a line to standard output. If the reader has closed the pipe (`|
/// head`), the program ends quietly.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::print_line(format_args!($($text)*))
    };
}

mod audit;
mod demo;
mod doctor;
mod import;
mod keys;
mod login;
mod metrics;
mod nats_users;
mod projections;
mod redis_mode;
mod replay;
pub mod serve;
mod table;
mod terminal;
mod up;
pub mod work;
mod workers;

use crate::http::auth::{tokens, tokens::Role};
use crate::{
    http,
    settings::{Connections, DEFAULT_FILTER, Given, HttpSettings, Logging},
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use exodrive_log::Log;
use exodrive_projections::Database;
use exodrive_runtime::{error_chain, folder, services::SyncMode, telemetry};
use std::{io::Write, process::ExitCode, time::Duration};

/// An error, for the person at the terminal.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

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

/// Bytes of stack for each thread of the runtime: futures are large in a build
/// that is not optimised.
const STACK: usize = 8 << 20;

const EXAMPLES: &str = "Examples:
  exodrive up                                  start everything, Ctrl-C stops it
  exodrive demo                                send sample data and show the outcome
  exodrive token --role auditor                a token for curl
  exodrive replay email f3c95789-ace1-4954-ac5d-6baed2eac902
  exodrive projections list
  exodrive projections verify --all            prove that the views are what the log says
  (export $(exodrive env); psql \"$EXODRIVE_DATABASE_WORKER_URL\")";

#[derive(Subcommand)]
enum Command {
    /// Start everything: private NATS, Postgres and Redis, the API and a worker
    Up(up::Up),
    /// Run the API
    Serve(serve::Serve),
    /// Run a worker: it keeps the projections up to date with the log
    Work(work::Work),
    /// Prepare the event log and the database: streams, migrations, and the tables of every
    /// projection
    Migrate(Migrate),
    /// Send sample data through the API and the webhook, and show the outcome
    Demo(demo::Demo),
    /// Import the tables of the present product from CSV files
    Import(import::Import),
    /// Travel in time: a row of any view at an earlier point, and the events
    /// that made it, from the log
    Replay(replay::Replay),
    /// Evidence for auditors, and the erasure of personal data
    Audit(audit::Audit),
    /// Create, list and revoke service keys, by which programs ask
    Keys(keys::Keys),
    /// Show and repair the projections
    Projections(projections::Projections),
    /// List the background workers, and see how each stands
    Workers(workers::Workers),
    /// Print a token for a system whose secret is available (for development)
    Token(Token),
    /// Print the addresses of the running system as lines EXODRIVE_..._URL=...
    Env(Env),
    /// Check every part of the system, and say what to do about each fault
    Doctor(doctor::Doctor),
    /// Print the OpenAPI 3.1 description of the API
    Openapi,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  EXODRIVE_NATS_OPERATOR_URL=nats://exodrive-operator:... \\
  EXODRIVE_DATABASE_OPERATOR_URL=postgres://exodrive_migrate:... exodrive migrate

Makes the streams that are missing, and carries the stream of data keys over from an earlier
release; changes nothing else of a stream that exists. docs/nats.conf and docs/postgres.sql
show servers whose other users may not.")]
struct Migrate {
    #[command(flatten)]
    connections: Connections,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  curl -H \"Authorization: Bearer $(exodrive token --role auditor)\" http://127.0.0.1:8080/v1/inbox")]
struct Token {
    /// Role of the bearer: customer, admin, auditor or operator
    #[arg(long)]
    role: Role,
    /// Id of the bearer
    #[arg(long, default_value = "developer")]
    subject: String,
    /// Lifetime of the token
    #[arg(long, default_value = "12h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    http: HttpSettings,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  (export $(exodrive env); psql \"$EXODRIVE_DATABASE_WORKER_URL\" -c 'select key, status from inbox')")]
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
    /// Reads the command line and runs the command. Ends the process if the command
    /// line cannot be read, or if it asks for help.
    pub fn run_from_args() -> ExitCode {
        let mut command = Self::command();
        // Only then the list of each command has the global options, too.
        command.build();
        let matches = command.get_matches_mut();
        let given = matches.subcommand().and_then(|(name, matches)| {
            command.find_subcommand(name).map(|command| Given::of(command, matches))
        });
        match Self::from_arg_matches(&matches) {
            // A command line without a command is an error, above all.
            Ok(cli) => cli.run(given.unwrap_or_default()),
            Err(error) => error.exit(),
        }
    }

    fn run(self, given: Given) -> ExitCode {
        // Without a provider the first TLS connection would fail. This call fails
        // only if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let quiet = !matches!(self.command, Command::Up(_) | Command::Serve(_) | Command::Work(_));
        // The answer of a command is its output. Its log lines are for
        // failures.
        let filter = if quiet && self.logging.filter == DEFAULT_FILTER {
            "error"
        } else {
            &self.logging.filter
        };
        if let Err(error) = telemetry::init(filter, self.logging.format) {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_stack_size(STACK)
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: cannot start: {error}");
                return ExitCode::FAILURE;
            }
        };
        match runtime.block_on(self.command.run(given)) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("error: {}", error_chain(error.as_ref()));
                ExitCode::FAILURE
            }
        }
    }
}

impl Command {
    async fn run(self, given: Given) -> Result<ExitCode, Failure> {
        match self {
            Self::Up(command) => command.with_given(given).run().await?,
            Self::Serve(command) => command.run().await?,
            Self::Work(command) => command.run().await?,
            Self::Migrate(command) => command.run().await?,
            Self::Demo(command) => command.run(given).await?,
            Self::Import(command) => return command.run().await,
            Self::Replay(command) => return command.run().await,
            Self::Audit(command) => return command.run().await,
            Self::Projections(command) => return command.run().await,
            Self::Workers(command) => return command.run().await,
            Self::Keys(command) => command.run().await?,
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
        let config = self.connections.appending_config(urls.nats_operator, urls.nats_monitor)?;
        Log::prepare(&config).await?;
        say!("The event log is ready: it has its streams, with the settings that they must have.");
        Database::migrate(&urls.database_operator).await?;
        say!("The database is ready: migrations applied, every projection has its tables.");
        Ok(())
    }
}

impl Token {
    fn run(self) -> Result<(), Failure> {
        let secret = self.http.tokens.token_secret(&self.connections)?;
        let rules = self.http.tokens.token_rules();
        if self.ttl > rules.greatest_lifetime {
            let most = humantime::format_duration(rules.greatest_lifetime);
            return Err(format!(
                "the API refuses a token that is valid for longer than {most} (EXODRIVE_JWT_MAX_LIFETIME): give a shorter --ttl"
            )
            .into());
        }
        say!("{}", tokens::issue(&secret, &self.subject, self.role, self.ttl, &rules)?);
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
        let log = self.connections.log_requirements()?;
        say!(
            "EXODRIVE_LOG_SYNC={}",
            match log.sync {
                SyncMode::Always => "always",
                SyncMode::Unchecked => "unchecked",
                SyncMode::Default => "default",
            }
        );
        say!("EXODRIVE_DUPLICATE_WINDOW={}s", log.duplicate_window.as_secs());
        say!("EXODRIVE_LOG_REPLICAS={}", log.replicas);
        say!("EXODRIVE_DATABASE_URL={}", urls.database);
        say!("EXODRIVE_DATABASE_WORKER_URL={}", urls.database_worker);
        say!("EXODRIVE_DATABASE_OPERATOR_URL={}", urls.database_operator);
        say!("EXODRIVE_REDIS_URL={}", urls.redis);
        say!("EXODRIVE_REDIS_WORKER_URL={}", urls.redis_worker);
        if let Some(system) = folder::announced(&self.connections.data_dir)? {
            say!("EXODRIVE_API_URL={}", system.url);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, ffi::OsStr};

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

    fn command() -> clap::Command {
        let mut command = Cli::command();
        command.build();
        command
    }

    /// Long name and variable of every option of a command that has a variable.
    fn options(command: &str) -> BTreeSet<(String, String)> {
        let cli = self::command();
        let command = cli.find_subcommand(command).unwrap();
        let named = command.get_arguments().filter_map(|arg| {
            let text = |text: &OsStr| text.to_str().unwrap().to_owned();
            Some((arg.get_long()?.to_owned(), text(arg.get_env()?)))
        });
        named.collect()
    }

    #[test]
    fn up_has_every_setting_of_its_parts() {
        let up = options("up");
        for part in ["serve", "work"] {
            let missing: Vec<_> = options(part).difference(&up).cloned().collect();
            assert!(missing.is_empty(), "exodrive up has not what {part} has: {missing:?}");
        }
    }

    /// A value that the option takes, written as people would.
    fn value(option: &str) -> &'static str {
        match option {
            name if name.ends_with("-addr") => "127.0.0.1:9",
            name if name.starts_with("rate-limit") => "7/1m",
            name if name.ends_with("-interval") || name.ends_with("-limit") => "7s",
            name if name.ends_with("-timeout") => "7s",
            "duplicate-window" | "hold-period" | "drain-period" | "jwt-max-lifetime" => "7m",
            name if name.starts_with("max-") || name.starts_with("export-budget") => "7",
            name if name.starts_with("jwt-jwks-") => "7s",
            "log-sync" => "default",
            "allow-unverified" => "postgres,redis",
            "cors-origins" => "https://www.example.com,http://localhost:3000",
            "nats-users" => "any",
            "log-replicas" => "3",
            "rebuild-memory-mib" => "7",
            "jwt-algorithm" => "RS256",
            "log-format" => "json",
            "trusted-proxies" => "10.0.0.0/8,192.168.0.0/16",
            "resend-webhook-secrets" => {
                "whsec_b25lb25lb25lb25lb25lb25lb25lb25l,whsec_dHdvdHdvdHdvdHdvdHdvdHdvdHdvdHdv"
            }
            "jwt-secret" | "link-secret" => "a secret of a test, of 32 bytes!",
            "data-keys" => "1:ZTJlIHdyYXBwaW5nIGtleSwgb2YgMzIgYnl0ZXMhISE=",
            "seal-keys" => "one,two",
            _ => "text",
        }
    }

    #[test]
    fn up_hands_every_setting_that_is_given_to_its_parts() {
        for (option, variable) in options("up") {
            let mut command = command();
            let args = ["exodrive", "up", &format!("--{option}"), value(&option)];
            let matches = command.try_get_matches_from_mut(args).unwrap();
            let (name, matches) = matches.subcommand().unwrap();
            let given = Given::of(command.find_subcommand(name).unwrap(), matches);
            let handed: Vec<_> = given
                .variables()
                .filter(|(name, _)| std::env::var_os(name).is_none())
                .map(|(name, value)| (name.to_owned(), value.to_str().unwrap().to_owned()))
                .collect();
            assert_eq!(handed, [(variable, value(&option).to_owned())], "--{option}");
        }
    }
}
