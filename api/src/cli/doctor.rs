//! `exodrive doctor`: checks every part, and says what to do about each fault.

use super::{Failure, login, redis_mode, table};
use crate::settings::{Connections, HttpSettings};
use exodrive_log::{
    Log, LogConfig,
    permissions::{self, Deviations, User},
};
use exodrive_projections::{
    Database,
    engine::{Login, cache::Cache},
};
use exodrive_runtime::{error_chain, services::ServiceUrls};
use redis::Cmd;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

#[derive(clap::Args)]
#[command(after_help = "Example:
  exodrive doctor        (exit code 1 if anything is wrong)")]
pub(super) struct Doctor {
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    http: HttpSettings,
}

/// Longest time that a write to the log may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// Finding about one part.
type Finding = (&'static str, Verdict);

enum Verdict {
    Fine(String),
    /// No fault, but worth knowing.
    Note(String),
    /// A fault, and what to do about it.
    Fault(String),
}

impl From<Result<String, String>> for Verdict {
    fn from(outcome: Result<String, String>) -> Self {
        outcome.map_or_else(Self::Fault, Self::Fine)
    }
}

impl Doctor {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let urls = self.connections.resolve()?;
        let mut config =
            self.connections.appending_config(urls.nats.clone(), urls.nats_monitor.clone())?;
        config.connect_timeout = Duration::ZERO;
        let mut findings: Vec<Finding> = Vec::new();
        let log = Log::connect(&config).await;
        let described = |log: &Log| {
            let window = humantime::format_duration(log.duplicate_window());
            let sync = if config.require_sync {
                "flushes before it acknowledges"
            } else {
                "sync mode not checked: without 'always' a power cut can lose what was acknowledged"
            };
            format!("server and stream are as they must be; {sync}; remembers ids for {window}")
        };
        let described = log.as_ref().map(described).map_err(|it| error_chain(it));
        findings.push(("event log", described.into()));
        if let Ok(log) = &log {
            findings.extend(of_writes(log).await);
            findings.extend(nats_users(&config, &urls).await);
        }
        let database = Database::for_workers(&urls.database_worker)?;
        let migrated = match database.is_migrated().await {
            Ok(true) => Ok("answers; every migration is applied".to_owned()),
            Ok(false) => Err("migrations are missing: run `exodrive migrate`".to_owned()),
            Err(error) => Err(format!("{} (EXODRIVE_DATABASE_WORKER_URL)", error_chain(&error))),
        };
        findings.push(("postgres", migrated.into()));
        let readers = Database::for_readers(&urls.database)?;
        findings.push(("postgres api", of_login(&readers, Login::Api).await));
        findings.push(("postgres worker", of_login(&database, Login::Worker).await));
        findings.push(("redis api", of_redis(&urls.redis, "EXODRIVE_REDIS_URL").await?));
        let worker = of_redis(&urls.redis_worker, "EXODRIVE_REDIS_WORKER_URL").await?;
        findings.push(("redis worker", worker));
        let projections = database.projections().await.unwrap_or_else(|error| {
            findings.push(("projections", Err(error_chain(&error)).into()));
            Vec::new()
        });
        for projection in projections {
            let alive = projection.heartbeat_age_seconds.is_some_and(|age| age < 10.0);
            let finding = match (alive, projection.parked) {
                (false, _) => {
                    Err(format!("{}: no worker; start one with `exodrive work`", projection.name))
                }
                (true, 0) => {
                    Ok(format!("{}: at position {}", projection.name, projection.position))
                }
                (true, parked) => Err(format!(
                    "{}: {parked} events are parked; remove the cause, then `exodrive projections retry {}`",
                    projection.name, projection.name
                )),
            };
            findings.push(("projection", Verdict::from(finding)));
        }
        let secrets = self.http.webhook_secrets(&self.connections);
        let secrets = secrets.map(|_| "valid".to_owned()).map_err(|error| error.to_string());
        findings.push(("webhook secret", secrets.into()));
        let mut table = table::table(&["part", "", "finding"]);
        let valid = !findings.iter().any(|(_, verdict)| matches!(verdict, Verdict::Fault(_)));
        for (part, verdict) in findings {
            let (mark, text) = match verdict {
                Verdict::Fine(text) => ("ok", text),
                Verdict::Note(text) => ("note", text),
                Verdict::Fault(text) => ("FAULT", text),
            };
            table.add_row([part, mark, &text]);
        }
        say!("{table}");
        Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Checks that a user of Redis may do its work, and no more: not see the server's settings.
/// Whether the log takes events, and how full its disk is.
async fn of_writes(log: &Log) -> [Finding; 2] {
    log.look_at_store().await;
    let started = Instant::now();
    let health = log.health(WRITE_TIMEOUT).await;
    let took = started.elapsed().as_secs_f64() * 1e3;
    let writes = match health.fault {
        None => Ok(format!("a write took {took:.1} ms")),
        Some(fault) => Err(fault.text().to_owned()),
    };
    let report = log.store_report();
    let store = match report.used() {
        Some(used) if report.is_nearly_full() => Verdict::Fault(format!(
            "{:.0} % of it is used: see `Full disks` in docs/operating.md",
            used * 1e2
        )),
        Some(used) => Verdict::Fine(format!("{:.0} % of it is used", used * 1e2)),
        None => Verdict::Note(
            "its monitoring endpoint does not say how full it is (EXODRIVE_NATS_MONITOR_URL)"
                .to_owned(),
        ),
    };
    [("log writes", writes.into()), ("log store", store)]
}

async fn of_redis(url: &str, variable: &str) -> Result<Verdict, Failure> {
    let redis = Cache::new(url)?;
    if let Err(error) = redis.query::<String>(&Cmd::ping()).await {
        let error = error_chain(&error);
        return Ok(Verdict::Fault(format!(
            "{error}; reads go to Postgres until it is back ({variable})"
        )));
    }
    if let Ok(Some(mode)) = redis.redis().unsupported_mode().await {
        return Ok(Verdict::Fault(redis_mode::fault(variable, &mode)));
    }
    let mut settings = redis::cmd("CONFIG");
    settings.arg("GET").arg("maxmemory");
    Ok(match redis.query::<redis::Value>(&settings).await {
        Ok(_) => Verdict::Note(format!(
            "answers; may do everything: give the API and the worker users of their own \
             (docs/redis.conf, {variable})"
        )),
        Err(_) => Verdict::Fine("answers; may not administer the server".to_owned()),
    })
}

/// Checks that a login of the database may do its work, and no more.
async fn of_login(database: &Database, login: Login) -> Verdict {
    let found = async {
        let excess = database.excess_of(login).await?;
        let foreign = match login {
            Login::Worker => database.not_of_workers().await?,
            Login::Api => Vec::new(),
        };
        Ok::<_, exodrive_projections::Error>((excess, foreign))
    };
    match found.await {
        Ok((excess, _)) if !excess.is_empty() => Verdict::Fault(login::fault(login, &excess)),
        Ok((_, foreign)) if !foreign.is_empty() => Verdict::Fault(format!(
            "{} and {} others do not belong to exodrive_worker: when no worker of an older release \
             runs any more, run `exodrive migrate`",
            foreign[0],
            foreign.len() - 1
        )),
        Ok(_) => Verdict::Fine("may do its work, and no more".to_owned()),
        Err(error) => {
            Verdict::Fault(format!("{} ({})", error_chain(&error), login::variable(login)))
        }
    }
}

/// Checks that the log's users may do what they must, and no more.
async fn nats_users(config: &LogConfig, urls: &ServiceUrls) -> Vec<Finding> {
    use User::{Api, Operator, Worker};
    if urls.nats == urls.nats_operator {
        return vec![("nats user", only_user(config, &urls.nats).await)];
    }
    let operator = ("nats operator", check(config, &urls.nats_operator, Operator, Operator).await);
    if urls.nats == urls.nats_worker {
        return vec![("nats user", check(config, &urls.nats, Api, Worker).await), operator];
    }
    vec![
        ("nats api", check(config, &urls.nats, Api, Api).await),
        ("nats worker", check(config, &urls.nats_worker, Worker, Worker).await),
        operator,
    ]
}

/// Checks the only user of a server. Without an operator user that user may
/// still be restricted.
async fn only_user(config: &LogConfig, url: &str) -> Verdict {
    let all = check(config, url, User::Operator, User::Operator).await;
    if let Verdict::Fine(_) = all {
        return Verdict::Note(
            "may do everything, change the log's settings too: give the API, the worker and the \
             operator users of their own (docs/nats.conf)"
                .to_owned(),
        );
    }
    check(config, url, User::Api, User::Worker).await
}

async fn check(config: &LogConfig, url: &str, must: User, may: User) -> Verdict {
    let config = LogConfig { url: url.to_owned(), ..config.clone() };
    let reported = |what: &str, subjects: &[&str]| match subjects {
        [] => String::new(),
        [first, rest @ ..] => format!("{what} {first} and {} other subjects; ", rest.len()),
    };
    match permissions::check(&config, must, may).await {
        Ok(found) if found == Deviations::default() => Verdict::Fine(if may == User::Operator {
            "may make streams and change their settings".to_owned()
        } else {
            "may do its work, and may not change a stream or its messages".to_owned()
        }),
        Ok(Deviations { excess, missing, hears_others }) => Verdict::Fault(format!(
            "{}{}{}correct its permissions after docs/nats-permissions.conf",
            reported("must not be able to publish to", &excess),
            reported("may not publish to", &missing),
            if hears_others {
                "must not receive the answers to other users (_INBOX.>); "
            } else {
                ""
            },
        )),
        Err(error) => Verdict::Fault(error_chain(&error)),
    }
}
