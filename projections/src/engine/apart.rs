//! Long work on Postgres, whose connections may be dead without either side knowing it.
//!
//! No time limit tells an index that takes half an hour from an answer that never comes. So the work
//! has connections of its own, by a name that the server shows, and is looked at from two sides:
//! whether anything has happened here, and whether the server works on one of its statements. If
//! neither has been so for a while, what the work waits for is not coming.

use super::{alive, database::Database};
use crate::{Error, Transaction};
use futures::{StreamExt, stream::FuturesUnordered};
use sqlx::PgPool;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// Connections of one work.
const CONNECTIONS: u32 = 3;
/// The time after which one is closed that is not used.
const IDLE: Duration = Duration::from_secs(10);
/// The time between two looks.
const LOOK: Duration = Duration::from_secs(4);
/// Looks in a row that see nothing happen, here or there, after which the work is ended.
const LOOKS: u32 = 4;
/// The longest time for asking the server.
const ANSWER: Duration = Duration::from_secs(5);

/// The database by connections that one long work has for itself. Cheap to clone.
#[derive(Clone)]
pub struct Apart {
    database: Database,
    /// The connections of everybody else: a dead one of the work cannot be asked.
    others: PgPool,
    /// What the server knows the work's connections by.
    name: String,
    pulse: Pulse,
}

/// Counts how often parts of a work go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The same future; each time that it goes on is counted.
    pub(crate) async fn of<T>(&self, part: impl Future<Output = T>) -> T {
        let mut part = pin!(part);
        poll_fn(|context| {
            self.0.fetch_add(1, Ordering::Relaxed);
            part.as_mut().poll(context)
        })
        .await
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Database {
    /// The same database, by connections that `work` has for itself. The server shows them by that
    /// name, and a number for each call.
    pub fn apart(&self, work: &str) -> Apart {
        let name = format!("exodrive {work} {}", Uuid::now_v7().to_string().split_off(24));
        let connections = self.pool().connect_options();
        let pool = self
            .pool()
            .options()
            .clone()
            .max_connections(CONNECTIONS)
            .idle_timeout(IDLE)
            .connect_lazy_with((*connections).clone().application_name(&name));
        let database = self.by(pool);
        Apart { database, others: self.pool().clone(), name, pulse: Pulse::default() }
    }
}

impl Apart {
    /// The database, by the work's connections.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// For parts of the work that run beside it.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Does the work for as long as it takes, unless a connection of it is dead: then, within 30 s, it
    /// is dropped, and the server ends its sessions, so that nothing of it goes on there.
    ///
    /// The work must go on at least every 12 s while it waits for anything but Postgres.
    ///
    /// # Errors
    /// Those of the work, and when its connection is dead.
    pub async fn run<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        // It is polled only when it has something to do, whatever else wakes the task.
        let mut alone = FuturesUnordered::new();
        alone.push(self.pulse.of(work));
        let outcome = tokio::select! {
            outcome = alone.next() => outcome,
            () = self.stands_still() => None,
        };
        drop(alone);
        if let Some(outcome) = outcome {
            return outcome;
        }
        tracing::warn!(name = self.name, "A connection to Postgres is dead; the work begins again");
        let _ = alive::within(ANSWER, self.end_sessions()).await;
        Err(Error::from(alive::no_answer("a connection")).into())
    }

    /// Closes the connections.
    pub(crate) async fn close(&self) {
        let _ = tokio::time::timeout(ANSWER, self.database.pool().close()).await;
    }

    /// Ends when nothing has happened for a while, here or at the server.
    async fn stands_still(&self) {
        let (mut seen, mut still) = (self.pulse.count(), 0);
        while still < LOOKS {
            tokio::time::sleep(LOOK).await;
            let now = self.pulse.count();
            if now != seen {
                (seen, still) = (now, 0);
                continue;
            }
            match alive::within(ANSWER, self.is_worked_on()).await {
                Ok(true) => still = 0,
                Ok(false) => still += 1,
                // Nobody knows. A Postgres that is away may come back with its statements.
                Err(_) => {}
            }
        }
    }

    /// True if the server works on a statement of the work, and does not wait for the client. A
    /// session of which it shows nothing counts as one.
    async fn is_worked_on(&self) -> Result<bool, Error> {
        // What sessions do is shown to the login that they are of.
        let mut transaction =
            Transaction::begin_with(&self.others, "begin; set local role none").await?;
        let sql = "select exists (select from pg_stat_activity
             where application_name = $1 and datname = current_database()
               and coalesce(state in ('active', 'disabled'), true) and wait_event_type is distinct from 'Client')";
        let found = sqlx::query_scalar(sql).bind(&self.name).fetch_one(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok(found)
    }

    /// Has the server end the work's sessions, with what they hold.
    async fn end_sessions(&self) -> Result<(), Error> {
        let mut transaction =
            Transaction::begin_with(&self.others, "begin; set local role none").await?;
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
             where application_name = $1 and datname = current_database()";
        sqlx::query(sql).bind(&self.name).fetch_all(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok(())
    }
}
