//! The status of the workers of every process.

use super::{to_i64, to_u64};
use crate::{Error, Transaction, engine::database::Database};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

/// Rows of processes that have been silent for longer are dropped.
const RETENTION: std::time::Duration = std::time::Duration::from_secs(3_600);

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum WorkerState {
    /// It has made no step yet.
    Starting,
    /// It works, and waits for its next step.
    Waiting,
    /// Its last step failed; it tries again.
    Failing,
    /// Its settings switch it off.
    Off,
    /// Its process has stopped.
    Stopped,
    /// It panicked, and its process stopped.
    Panicked,
    /// A state that a newer release has and this one does not know.
    Other,
}

impl WorkerState {
    /// As in JSON and in the database.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The status of a worker in one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// The worker's name.
    pub name: String,
    /// The process's name.
    pub process: String,
    /// Its state.
    pub state: WorkerState,
    /// Steps that this process has made.
    pub steps: u64,
    /// Steps that failed since the last one that did not.
    pub failures: u32,
    /// The time of the last step that did not fail.
    pub last_step_at: Option<DateTime<Utc>>,
    /// The error of the last step that failed; later steps leave it.
    pub last_error: Option<String>,
    /// The time of that step.
    pub last_error_at: Option<DateTime<Utc>>,
    /// The time at which the next step is due.
    pub next_step_at: Option<DateTime<Utc>>,
}

/// A status as the database has it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedWorker {
    /// The status that its process wrote.
    pub status: WorkerStatus,
    /// Seconds since then.
    pub age_seconds: f64,
    /// Seconds for which its next step has been due; negative if it is not due
    /// yet, none if none is.
    pub overdue_seconds: Option<f64>,
}

impl RecordedWorker {
    /// True if its process shows signs of life and the worker has worked in it.
    pub fn is_alive(&self) -> bool {
        let state = self.status.state;
        let works =
            !matches!(state, WorkerState::Starting | WorkerState::Stopped | WorkerState::Panicked);
        self.age_seconds < HEARTBEAT_TIMEOUT && works
    }

    /// True if its step does not end.
    pub fn is_stuck(&self) -> bool {
        self.overdue_seconds.is_some_and(|overdue| overdue > LONGEST_STEP)
    }
}

/// Seconds that a step may take: an erasure reads the whole log.
const LONGEST_STEP: f64 = 900.0;
/// A process shows a sign of life every second.
const HEARTBEAT_TIMEOUT: f64 = 10.0;

impl Database {
    /// Stores the status of a process's workers, and deletes rows of processes that
    /// have been silent for an hour.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn record_workers(
        &self,
        process: &str,
        workers: &[WorkerStatus],
    ) -> Result<(), Error> {
        let mut transaction = Transaction::begin(self.pool()).await?;
        sqlx::query!(
            "delete from worker_status
             where heartbeat_at < clock_timestamp() - make_interval(secs => $1)",
            RETENTION.as_secs_f64()
        )
        .execute(&mut *transaction)
        .await?;
        for worker in workers {
            let micros = |at: Option<DateTime<Utc>>| at.map(|at| at.timestamp_micros());
            sqlx::query!(
                "insert into worker_status (name, process, state, steps, failures, last_step_at,
                     last_error, last_error_at, next_step_at)
                 values ($1, $2, $3, $4, $5,
                     timestamptz 'epoch' + $6 * interval '1 microsecond', $7,
                     timestamptz 'epoch' + $8 * interval '1 microsecond',
                     timestamptz 'epoch' + $9 * interval '1 microsecond')
                 on conflict (name, process) do update set state = excluded.state,
                     steps = excluded.steps, failures = excluded.failures,
                     last_step_at = excluded.last_step_at, last_error = excluded.last_error,
                     last_error_at = excluded.last_error_at,
                     next_step_at = excluded.next_step_at, heartbeat_at = clock_timestamp()",
                worker.name,
                process,
                worker.state.name(),
                to_i64(worker.steps),
                i32::try_from(worker.failures).unwrap_or(i32::MAX),
                micros(worker.last_step_at) as Option<i64>,
                worker.last_error,
                micros(worker.last_error_at) as Option<i64>,
                micros(worker.next_step_at) as Option<i64>,
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The last status of every worker in every process, by worker, the latest
    /// first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn workers(&self) -> Result<Vec<RecordedWorker>, Error> {
        let rows = sqlx::query!(
            r#"select name, process, state, steps, failures, last_error,
                 (extract(epoch from last_step_at) * 1000000)::bigint as last_step,
                 (extract(epoch from last_error_at) * 1000000)::bigint as last_error_at,
                 (extract(epoch from next_step_at) * 1000000)::bigint as next_step,
                 extract(epoch from clock_timestamp() - heartbeat_at)::float8 as "age!",
                 extract(epoch from clock_timestamp() - next_step_at)::float8 as overdue
               from worker_status order by name, heartbeat_at desc, process"#
        )
        .fetch_all(self.pool())
        .await?;
        let time = |micros: Option<i64>| micros.and_then(DateTime::from_timestamp_micros);
        Ok(rows
            .into_iter()
            .map(|row| RecordedWorker {
                age_seconds: row.age,
                overdue_seconds: row.overdue,
                status: WorkerStatus {
                    name: row.name,
                    process: row.process,
                    state: row.state.parse().unwrap_or(WorkerState::Other),
                    steps: to_u64(row.steps),
                    failures: u32::try_from(row.failures).unwrap_or(0),
                    last_step_at: time(row.last_step),
                    last_error: row.last_error,
                    last_error_at: time(row.last_error_at),
                    next_step_at: time(row.next_step),
                },
            })
            .collect())
    }
}
