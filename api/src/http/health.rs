//! Liveness and readiness: whether the process lives, and whether the system
//! can do its work.

use super::problem::Problem;
use super::{Api, App, auth::extract::Probe};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use exodrive_audit::store::SealState;
use exodrive_log::{Log, LogHealth, StoreReport, WriteFault};
use exodrive_projections::engine::store::{self, RecordedWorker, WorkerState};
use exodrive_workers::{Description, WORKERS};
use redis::Cmd;
use serde::Serialize;
use std::{
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use utoipa::ToSchema;

/// Time for which a finding serves every caller.
const FRESH: Duration = Duration::from_millis(500);
/// Longest time to wait for one part.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Seconds without a heartbeat after which a worker counts as dead. A worker
/// sends one every second.
const HEARTBEAT_TIMEOUT: f64 = 10.0;

/// Time after which a projection counts as not working that does not move
/// although events wait for it.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// Last findings of the readiness check, so that many callers cost as much as
/// one.
#[derive(Default)]
pub struct Latest(Mutex<Known>);

#[derive(Default)]
struct Known {
    latest: Option<(Instant, Readiness)>,
    waiting: Waiting,
}

/// The positions of projections that events wait for, and since when each is
/// there.
type Waiting = HashMap<String, (u64, Instant)>;

/// Readiness of the system.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`; `degraded`: it works, but slower (Redis does not answer), or
    /// sealing has halted, or a background worker does not work, or the log's
    /// disk is nearly full, or its server does not flush to it before it
    /// acknowledges; `not_ready`.
    status: Overall,
    /// The parts.
    checks: Checks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReadinessStatus)]
enum Overall {
    Ready,
    Degraded,
    NotReady,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct Checks {
    /// The log takes events: its server stores a message beside it, its stream
    /// has a leader, and the last events that were appended were stored.
    log: Check,
    /// The disk of the log's server has space, and has what is acknowledged.
    /// Writes go on until it is full.
    log_store: StoreCheck,
    /// Postgres answers.
    postgres: Check,
    /// Every migration of this release is applied.
    migrations: Check,
    /// Redis answers.
    redis: Check,
    /// The log is sealed, and agrees with the seals. Reads and writes go on if
    /// not.
    seals: SealCheck,
    /// The database holds no erased data. A restored database may hold some
    /// until a worker has cleaned it.
    erasures: Check,
    /// This process has not been asked to stop. One that has goes on answering for a while.
    process: Check,
    /// The background tasks of this process run. One that ended ends the process.
    tasks: TaskCheck,
    /// Every background worker runs in some process. Reads and writes go on if
    /// not.
    workers: Vec<WorkerCheck>,
    /// State of every projection: it has a worker, and rows of this release's
    /// version, and moves while events wait for it.
    projections: Vec<ProjectionCheck>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct Check {
    ok: bool,
    /// Duration of the check in milliseconds.
    ms: f64,
    /// Description of the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct StoreCheck {
    ok: bool,
    /// The part of the server's store that is used, in percent; null if the
    /// monitoring endpoint does not say so.
    used_percent: Option<f64>,
    /// Description of the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct SealCheck {
    ok: bool,
    /// Number of events that the newest checkpoint covers.
    sealed: u64,
    /// Description of the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct TaskCheck {
    ok: bool,
    /// The task that ended, and its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct WorkerCheck {
    /// Name of the worker, as in `exodrive workers`.
    name: &'static str,
    ok: bool,
    /// Steps that failed in a row.
    failures: u32,
    /// Description of the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ProjectionCheck {
    name: String,
    ok: bool,
    position: u64,
    /// Events of the log after that position; null while the log does not
    /// answer.
    lag_events: Option<u64>,
    /// Seconds since the last heartbeat of its worker; null if there was none.
    heartbeat_age_seconds: Option<f64>,
    /// Parked events: those that could not be folded, and those that wait
    /// behind them.
    parked: u64,
    /// Description of the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

/// Says that the process lives. Checks nothing else.
#[utoipa::path(
    get, path = "/livez", tag = "health",
    responses((status = 200, description = "It lives", body = inline(serde_json::Value)), Problem),
)]
pub(crate) async fn livez(_: Probe) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "live" }))
}

/// Says whether the system can do its work, part by part.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "Ready, or degraded: Redis does not answer, sealing has halted, a background worker does not work, the log's disk is nearly full, or its server does not flush to it before it acknowledges", body = Readiness),
        (status = 503, description = "Not ready; `checks` says why", body = Readiness),
        Problem,
    ),
)]
pub(crate) async fn readyz(State(api): App, _: Probe) -> Response {
    let mut known = api.health.0.lock().await;
    let readiness = match &known.latest {
        Some((at, readiness))
            if at.elapsed() < FRESH
                && readiness.checks.process.ok != api.closing.is_cancelled() =>
        {
            readiness.clone()
        }
        _ => {
            let readiness = examine(&api, &mut known.waiting).await;
            known.latest = Some((Instant::now(), readiness.clone()));
            readiness
        }
    };
    drop(known);
    let status = match readiness.status {
        Overall::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        Overall::Ready | Overall::Degraded => StatusCode::OK,
    };
    let mut response = (status, Json(readiness)).into_response();
    response.extensions_mut().insert(super::layers::request::NotAProblem);
    response
}

async fn examine(api: &Arc<Api>, waiting: &mut Waiting) -> Readiness {
    let ping = Cmd::ping();
    let ((log, end), postgres, migrated, seals, workers, redis) = tokio::join!(
        check_log(&api.log),
        check(api.database.projections(), "it did not answer"),
        check(api.database.is_migrated(), "it did not answer"),
        check(api.seals.sealing(), "it did not answer"),
        check(api.database.workers(), "it did not answer"),
        check(api.redis.query::<String>(&ping), "it did not answer"),
    );
    let workers = check_workers(workers.1.as_deref());
    let ended = api.tasks.ended();
    let tasks = TaskCheck { ok: ended.is_none(), problem: ended.map(|ended| ended.to_string()) };
    let seals = check_seals(seals.1);
    let (mut migrations, migrated) = migrated;
    if migrated == Some(false) {
        migrations = Check {
            ok: false,
            problem: Some("some are not applied: run `exodrive migrate`"),
            ..migrations
        };
    }
    let (postgres, projections) = postgres;
    let projections = check_projections(projections, end, waiting);
    let cleaning = "erased data is being removed from a restored database: is a worker running?";
    let closed = api.gate.is_closed();
    let erasures = Check { ok: !closed, ms: 0.0, problem: closed.then_some(cleaning) };
    let closing = api.closing.is_cancelled();
    let process =
        Check { ok: !closing, ms: 0.0, problem: closing.then_some("it is being stopped") };
    let whole =
        [&log, &postgres, &migrations, &erasures, &process].into_iter().all(|check| check.ok)
            && tasks.ok
            && !projections.is_empty()
            && projections.iter().all(|projection| projection.ok);
    let log_store = check_store(api.log.store_report());
    let reduced =
        !redis.0.ok || !log_store.ok || !seals.ok || workers.iter().any(|worker| !worker.ok);
    let status = match (whole, !reduced) {
        (false, _) => Overall::NotReady,
        (true, false) => Overall::Degraded,
        (true, true) => Overall::Ready,
    };
    let redis = redis.0;
    let checks = Checks {
        log,
        log_store,
        postgres,
        migrations,
        redis,
        seals,
        erasures,
        process,
        tasks,
        workers,
        projections,
    };
    Readiness { status, checks }
}

/// Whether the log takes events, and where it ends.
async fn check_log(log: &Log) -> (Check, Option<u64>) {
    let started = Instant::now();
    let LogHealth { end, fault } = log.health(CHECK_TIMEOUT).await;
    let ms = started.elapsed().as_secs_f64() * 1_000.0;
    (Check { ok: fault.is_none(), ms, problem: fault.map(WriteFault::text) }, end)
}

fn check_store(report: StoreReport) -> StoreCheck {
    let problem = if report.is_failing() {
        Some("a server could not write to it, and takes no events until it is restarted")
    } else if report.acknowledges_unflushed() {
        Some(
            "a server acknowledges before it has flushed to it: see `Durability` in docs/operating.md",
        )
    } else if report.is_nearly_full() {
        Some("it is nearly full: see `Full disks` in docs/operating.md")
    } else {
        None
    };
    let used_percent = report.used().map(|used| (used * 1_000.0).round() / 10.0);
    StoreCheck { ok: problem.is_none(), used_percent, problem }
}

fn check_seals(standing: Option<SealState>) -> SealCheck {
    let halted = standing.as_ref().is_some_and(|standing| standing.halt.is_some());
    let problem = match &standing {
        None => Some("their status is not known"),
        Some(_) if halted => Some(
            "the log is not what was sealed, and sealing has halted: see `exodrive audit verify --live`",
        ),
        Some(_) => None,
    };
    SealCheck { ok: !halted, sealed: standing.map_or(0, |it| it.sealed), problem }
}

/// Failures in a row after which a worker counts as not working.
const FAILURES: u32 = 3;

/// `recorded`: rows of the database; `None` if it does not answer.
fn check_workers(recorded: Option<&[RecordedWorker]>) -> Vec<WorkerCheck> {
    let check = |worker: &Description| {
        let of_worker =
            || recorded.into_iter().flatten().filter(|it| it.status.name == worker.name);
        let failures = of_worker().filter(|it| it.is_alive()).map(|it| it.status.failures).min();
        let panicked = of_worker().any(|it| it.status.state == WorkerState::Panicked);
        let problem = match (recorded, failures) {
            (None, _) => Some("its status is not known"),
            (_, Some(_))
                if of_worker().filter(|it| it.is_alive()).all(RecordedWorker::is_stuck) =>
            {
                Some("its step does not end")
            }
            (_, Some(failures)) if failures >= FAILURES => {
                Some("its steps fail: `exodrive workers status` says why")
            }
            (_, Some(_)) => None,
            (_, None) if panicked => {
                Some("no process runs it, and it has panicked: see `exodrive workers status`")
            }
            (_, None) => Some("no process runs it: start one with `exodrive work`"),
        };
        let failures = failures.unwrap_or(0);
        WorkerCheck { name: worker.name, ok: problem.is_none(), failures, problem }
    };
    WORKERS.iter().map(check).collect()
}

/// `found`: rows of the database; `None` if it does not answer, and then none is ready.
fn check_projections(
    found: Option<Vec<store::Status>>,
    end: Option<u64>,
    waiting: &mut Waiting,
) -> Vec<ProjectionCheck> {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let check = |projection: store::Status| {
        let position = count(projection.position);
        let lag_events = end.map(|end| end.saturating_sub(position));
        let waits = !projection.paused && lag_events.is_some_and(|lag| lag > 0);
        let has_worker =
            projection.heartbeat_age_seconds.is_some_and(|age| age < HEARTBEAT_TIMEOUT);
        let problem = if !has_worker {
            Some("it has no worker: is `exodrive work` running?")
        } else if projection.version < exodrive_projections::version(&projection.name) {
            // Rows of an older version are for another release to read.
            Some("it has no rows of this release's version yet")
        } else if stands_still(waiting, &projection.name, position, waits) {
            Some("it stands still although events wait: the worker's log says why")
        } else {
            None
        };
        ProjectionCheck {
            ok: problem.is_none(),
            position,
            lag_events,
            heartbeat_age_seconds: projection.heartbeat_age_seconds,
            parked: count(projection.parked),
            name: projection.name,
            problem,
        }
    };
    found.into_iter().flatten().map(check).collect()
}

/// True if a projection has not moved for a while although events wait for it. A
/// worker that can write none of its rows sends heartbeats all the same.
fn stands_still(waiting: &mut Waiting, name: &str, position: u64, waits: bool) -> bool {
    if !waits {
        waiting.remove(name);
        return false;
    }
    let now = Instant::now();
    let (at, since) = waiting.entry(name.to_owned()).or_insert((position, now));
    if *at != position {
        (*at, *since) = (position, now);
    }
    since.elapsed() > STANDS_STILL
}

async fn check<T, E: std::error::Error>(
    part: impl Future<Output = Result<T, E>>,
    problem: &'static str,
) -> (Check, Option<T>) {
    let started = Instant::now();
    let outcome = tokio::time::timeout(CHECK_TIMEOUT, part).await;
    let ms = started.elapsed().as_secs_f64() * 1_000.0;
    match outcome {
        Ok(Ok(value)) => (Check { ok: true, ms, problem: None }, Some(value)),
        Ok(Err(error)) => {
            tracing::debug!(error = exodrive_runtime::error_chain(&error), "Readiness: {problem}");
            (Check { ok: false, ms, problem: Some(problem) }, None)
        }
        Err(_) => (Check { ok: false, ms, problem: Some(problem) }, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_stands_still_that_does_not_move_although_events_wait() {
        let mut waiting = Waiting::new();
        assert!(!stands_still(&mut waiting, "inbox", 5, true), "only just");
        let Some(long_ago) = Instant::now().checked_sub(2 * STANDS_STILL) else { return };
        waiting.insert("inbox".to_owned(), (5, long_ago));
        assert!(stands_still(&mut waiting, "inbox", 5, true));
        assert!(!stands_still(&mut waiting, "cars", 5, true), "that is another one");
        assert!(!stands_still(&mut waiting, "inbox", 6, true), "it has moved");
        waiting.insert("inbox".to_owned(), (6, long_ago));
        assert!(!stands_still(&mut waiting, "inbox", 6, false), "nothing waits, or it is paused");
        assert!(!stands_still(&mut waiting, "inbox", 6, true), "and that is forgotten");
    }
}
