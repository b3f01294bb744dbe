//! Connections to Postgres that are dead without either side knowing it: a server that hangs, or a
//! network that has forgotten a connection and answers nothing.

use crate::Error;
use sqlx::{Connection, PgConnection, Postgres, pool::PoolOptions};
use std::{future::Future, io, time::Duration};

/// The longest time that an idle connection takes to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// A pool that gives no dead connection, and keeps none that is given back: the pool itself would
/// wait for its answer for as long as the operating system keeps it, and its place would be taken
/// so long.
pub(crate) fn without_dead(pool: PoolOptions<Postgres>) -> PoolOptions<Postgres> {
    pool.test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(answers(connection)))
        .after_release(|connection, _| Box::pin(answers(connection)))
}

/// True; an error has the pool drop the connection without a farewell.
async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match tokio::time::timeout(ANSWER, connection.ping()).await {
        Ok(answered) => answered.map(|()| true),
        Err(_) => Err(no_answer("a connection")),
    }
}

/// Work on the database that takes less than `limit`, unless its connection is dead.
///
/// # Errors
/// Those of the work, and when it has not ended in time.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(no_answer("the database").into()),
    }
}

pub(crate) fn no_answer(of: &str) -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer of {of} in time")).into()
}
