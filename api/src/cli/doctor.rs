//! `exodrive doctor`: every part checked, with what to do about each fault.

use super::{Failure, table};
use crate::settings::{Connections, HttpSettings, LogSettings};
use exodrive_log::Log;
use exodrive_projections::{Database, cache::Cache};
use exodrive_runtime::error_chain;
use redis::Cmd;
use std::{process::ExitCode, time::Duration};

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive doctor        (exit code 1 if anything is wrong)")]
pub(super) struct Doctor {
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    log: LogSettings,
    #[command(flatten)]
    http: HttpSettings,
}

/// What was found of one part: fine, or what to do.
type Finding = (&'static str, Result<String, String>);

impl Doctor {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let urls = self.connections.resolve()?;
        let mut config = self.log.config(
            urls.nats.clone(),
            urls.nats_monitor.clone(),
            self.connections.wrapping_keys()?,
        );
        config.patience = Duration::ZERO;
        let mut findings: Vec<Finding> = Vec::new();
        let log = Log::connect(&config).await;
        let described = |log: &Log| {
            let window = humantime::format_duration(log.duplicate_window());
            let sync = match (config.require_sync, &config.monitor_url) {
                (false, _) => "sync mode not required: a power cut can lose what was acknowledged",
                (true, Some(_)) => "flushes before it acknowledges",
                (true, None) => "sync mode cannot be seen: set EXODRIVE_NATS_MONITOR_URL",
            };
            format!("server and stream are as they must be; {sync}; remembers ids for {window}")
        };
        findings.push(("event log", log.as_ref().map(described).map_err(|it| error_chain(it))));
        if let Ok(log) = &log {
            let probe = log.probe().await;
            let took = |took: Duration| format!("a write took {:.1} ms", took.as_secs_f64() * 1e3);
            findings.push(("log writes", probe.map(took).map_err(|it| error_chain(&it))));
        }
        let database = Database::for_workers(&urls.database)?;
        let migrated = match database.is_migrated().await {
            Ok(true) => Ok("answers; every migration is applied".to_owned()),
            Ok(false) => Err("migrations are missing: run `exodrive migrate`".to_owned()),
            Err(error) => Err(format!("{} (EXODRIVE_DATABASE_URL)", error_chain(&error))),
        };
        findings.push(("postgres", migrated));
        let redis = Cache::new(&urls.redis)?.query::<String>(&Cmd::ping()).await;
        let redis = redis.map(|_| "answers".to_owned()).map_err(|error| {
            format!(
                "{}; reads go to Postgres until it is back (EXODRIVE_REDIS_URL)",
                error_chain(&error)
            )
        });
        findings.push(("redis", redis));
        for projection in database.projections().await.unwrap_or_default() {
            let alive = projection.heartbeat_age_seconds.is_some_and(|age| age < 10.0);
            let finding = match (alive, projection.parked) {
                (false, _) => {
                    Err(format!("{}: no worker; start one with `exodrive work`", projection.name))
                }
                (true, 0) => {
                    Ok(format!("{}: at position {}", projection.name, projection.position))
                }
                (true, parked) => Err(format!(
                    "{}: {parked} events are parked; mend the cause, then `exodrive projections retry {}`",
                    projection.name, projection.name
                )),
            };
            findings.push(("projection", finding));
        }
        let secrets = self.http.webhook_secrets(&self.connections);
        let secrets = secrets.map(|_| "sound".to_owned()).map_err(|error| error.to_string());
        findings.push(("webhook secret", secrets));
        let mut table = table::table(&["part", "", "finding"]);
        let sound = findings.iter().all(|(_, finding)| finding.is_ok());
        for (part, finding) in findings {
            let mark = if finding.is_ok() { "ok" } else { "FAULT" };
            table.add_row([part, mark, &finding.unwrap_or_else(|fault| fault)]);
        }
        say!("{table}");
        Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
