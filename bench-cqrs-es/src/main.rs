//! The cost of the same read model with the crate `cqrs-es` and its Postgres
//! store, to stand beside the product's figures in `make bench`.
//!
//! **Append**: each event is one command on the aggregate of its email, as the
//! crate has it: load that email's events, decide (an id counts once), insert,
//! then update the view (read the row, change it, write it) before the command
//! returns. The events of one email keep their order; emails are spread over
//! `--concurrency` tasks.
//!
//! **Replay**: the view's table is emptied and rebuilt by the crate's
//! `QueryReplay`, and must equal what the commands had left. `--replay all` is
//! its `replay_all`: one task, one event after the other, a read and a write of
//! the view for each. `--replay each` is what a user can do about that with the
//! crate's other call, which takes one aggregate: the ids are read from the
//! events' table and spread over `--concurrency` tasks.
//!
//! **Why it is fair**: the same events with the same bodies, the same machine
//! and a Postgres of the same settings; the crate's own framework, repositories,
//! tables and defaults, as its guide shows them (event-sourced without
//! snapshots, which do not pay with a handful of events for each aggregate),
//! only with more connections where there are more tasks; a view with less in
//! it than the product's; optimised code.

mod email;

use cqrs_es::persist::{GenericQuery, QueryErrorHandler, QueryReplay};
use email::{Command, Email, EmailView, Reported};
use postgres_es::{PostgresEventRepository, PostgresViewRepository, postgres_cqrs};
use serde::Deserialize;
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader},
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Instant,
};
use tokio::{sync::mpsc, task::JoinSet};

const USAGE: &str =
    "usage: bench-cqrs-es --database URL --events FILE [--concurrency N] [--replay all|each]
URL is of an empty Postgres database; FILE has one event a line, in the order of the log:
{\"email_id\": …, \"id\": …, \"kind\": …, \"body\": {…}, \"received_at\": …}";

/// As postgres-es documents them, the view's under our name.
const TABLES: &str = "
CREATE TABLE events (
    aggregate_type text                         NOT NULL,
    aggregate_id   text                         NOT NULL,
    sequence       bigint CHECK (sequence >= 0) NOT NULL,
    event_type     text                         NOT NULL,
    event_version  text                         NOT NULL,
    payload        json                         NOT NULL,
    metadata       json                         NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
);
CREATE TABLE email_view (
    view_id text                        NOT NULL,
    version bigint CHECK (version >= 0) NOT NULL,
    payload json                        NOT NULL,
    PRIMARY KEY (view_id)
);";

/// Views, events stored, events that the views count, and views that differ.
const OUTCOME: &str = "
SELECT (SELECT count(*) FROM email_view),
       (SELECT count(*) FROM events),
       (SELECT coalesce(sum((payload->>'events')::bigint), 0)::bigint FROM email_view),
       (SELECT count(*) FROM email_view FULL JOIN first_view USING (view_id)
         WHERE email_view.payload::text IS DISTINCT FROM first_view.payload::text)";

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Inbox = GenericQuery<PostgresViewRepository<EmailView, Email>, EmailView, Email>;

/// A line of the events' file.
#[derive(Deserialize)]
struct Line {
    email_id: String,
    #[serde(flatten)]
    report: Reported,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match arguments() {
        Ok(arguments) => run(arguments).await,
        Err(error) => Err(format!("{error}\n{USAGE}").into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-cqrs-es: {error}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    database: String,
    events: String,
    concurrency: usize,
    each: bool,
}

fn arguments() -> Result<Arguments, Failure> {
    let (mut database, mut events, mut concurrency, mut each) = (None, None, 8, false);
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--database" => database = Some(value),
            "--events" => events = Some(value),
            "--concurrency" => concurrency = value.parse().map_err(|_| "N is a whole number")?,
            "--replay" if value == "all" || value == "each" => each = value == "each",
            "--replay" => return Err("--replay is all or each".into()),
            _ => return Err(format!("{name} is unknown").into()),
        }
    }
    if concurrency == 0 {
        return Err("N is at least 1".into());
    }
    let database = database.ok_or("--database is missing")?;
    let events = events.ok_or("--events is missing")?;
    Ok(Arguments { database, events, concurrency, each })
}

/// Measures and prints; gives whether the rebuilt views equal the first.
async fn run(arguments: Arguments) -> Result<bool, Failure> {
    let Arguments { database, events, concurrency, each } = arguments;
    let connections = u32::try_from(concurrency)?.max(10);
    let pool = PgPoolOptions::new().max_connections(connections).connect(&database).await?;
    sqlx::raw_sql(TABLES)
        .execute(&pool)
        .await
        .map_err(|error| format!("give an empty database, its tables are made here: {error}"))?;

    let began = Instant::now();
    let appended = append(&pool, events, concurrency).await?;
    let append_seconds = began.elapsed().as_secs_f64();

    sqlx::raw_sql("CREATE TABLE first_view AS TABLE email_view; TRUNCATE email_view")
        .execute(&pool)
        .await?;

    let began = Instant::now();
    replay(&pool, each.then_some(concurrency)).await?;
    let replay_seconds = began.elapsed().as_secs_f64();

    let (views, stored, counted, different): (i64, i64, i64, i64) =
        sqlx::query_as(OUTCOME).fetch_one(&pool).await?;
    if different > 0 || counted != stored {
        eprintln!("{different} views differ; {counted} of {stored} events are in the views");
    }
    let equal = different == 0 && counted == stored;
    let rate = |events: f64, seconds: f64| (events / seconds * 10.0).round() / 10.0;
    let answer = json!({
        "events": appended,
        "append_per_second": rate(appended as f64, append_seconds),
        "replay_per_second": rate(stored as f64, replay_seconds),
        "views": views,
        "equal": equal,
        "cqrs_es": version("cqrs-es")?,
        "postgres_es": version("postgres-es")?,
    });
    println!("{answer}");
    Ok(equal)
}

/// Executes a command for every line of the file; gives how many.
async fn append(pool: &PgPool, file: String, concurrency: usize) -> Result<u64, Failure> {
    let error = Arc::default();
    let inbox = inbox(pool, &error);
    let cqrs = Arc::new(postgres_cqrs::<Email>(pool.clone(), vec![Box::new(inbox)], ()));
    let mut tasks = JoinSet::new();
    let mut lanes = Vec::new();
    for _ in 0..concurrency {
        let (lane, mut lines) = mpsc::channel::<Line>(256);
        let cqrs = Arc::clone(&cqrs);
        lanes.push(lane);
        tasks.spawn(async move {
            let mut executed = 0;
            while let Some(Line { email_id, report }) = lines.recv().await {
                cqrs.execute(&email_id, Command::Record(report)).await?;
                executed += 1;
            }
            Ok::<u64, Failure>(executed)
        });
    }
    let reader = tokio::task::spawn_blocking(move || hand_out(&file, &lanes));
    let mut executed = 0;
    while let Some(task) = tasks.join_next().await {
        executed += task??;
    }
    reader.await??;
    none(&error)?;
    Ok(executed)
}

/// Reads the file, an email's lines always into the same lane.
fn hand_out(file: &str, lanes: &[mpsc::Sender<Line>]) -> Result<(), Failure> {
    let opened = File::open(file).map_err(|error| format!("{file}: {error}"))?;
    for (number, text) in BufReader::new(opened).lines().enumerate() {
        let line: Line = serde_json::from_str(&text?)
            .map_err(|error| format!("{file}, line {}: {error}", number + 1))?;
        let mut hasher = DefaultHasher::new();
        line.email_id.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % lanes.len() as u64)?;
        // A lane that is gone has failed, and its task says why.
        if lanes[lane].blocking_send(line).is_err() {
            break;
        }
    }
    Ok(())
}

/// Fills the empty view from the stored events: of all emails in one go, or of
/// each by so many tasks.
async fn replay(pool: &PgPool, tasks: Option<usize>) -> Result<(), Failure> {
    let error = Arc::default();
    let store = PostgresEventRepository::new(pool.clone());
    let mut replay = QueryReplay::<_, _, Email>::new(store, inbox(pool, &error));
    replay.use_error_handler(noting(&error));
    let Some(tasks) = tasks else {
        replay.replay_all().await?;
        return none(&error);
    };
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT aggregate_id FROM events").fetch_all(pool).await?;
    let replay = Arc::new(replay);
    let mut running = JoinSet::new();
    for share in ids.chunks(ids.len().div_ceil(tasks).max(1)) {
        let (replay, share) = (Arc::clone(&replay), share.to_vec());
        running.spawn(async move {
            for id in share {
                replay.replay(&id).await?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(task) = running.join_next().await {
        task??;
    }
    none(&error)
}

/// The query that keeps the view.
fn inbox(pool: &PgPool, error: &Arc<OnceLock<String>>) -> Inbox {
    let view = PostgresViewRepository::new("email_view", pool.clone());
    let mut inbox = GenericQuery::new(Arc::new(view));
    inbox.use_error_handler(noting(error));
    inbox
}

/// Keeps the first error: the crate drops errors of views unless it is told
/// what to do with them.
fn noting(error: &Arc<OnceLock<String>>) -> Box<QueryErrorHandler> {
    let first = Arc::clone(error);
    Box::new(move |error| drop(first.set(error.to_string())))
}

fn none(error: &OnceLock<String>) -> Result<(), Failure> {
    error.get().map_or(Ok(()), |error| Err(format!("a view was not updated: {error}").into()))
}

/// The version of a package that this is built with.
fn version(package: &str) -> Result<&'static str, Failure> {
    include_str!("../Cargo.lock")
        .split_once(&format!("name = \"{package}\"\nversion = \""))
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(version, _)| version)
        .ok_or_else(|| format!("{package} is not in Cargo.lock").into())
}
