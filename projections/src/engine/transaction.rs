//! Transactions whose beginning and end cannot be interrupted.
//!
//! A future may be dropped at any await: a client hangs up, a lease is lost, a time limit is over.
//! While `begin` or `commit` is under way, sqlx does not know whether the connection is in a
//! transaction. If its future is dropped then, a connection goes back to the pool inside one, and
//! whatever is executed on it next is undone with it; or it is told to undo what is over. So both
//! run in a task of their own, which goes on when nobody waits for it.

use sqlx::{Database, PgConnection, PgPool, Postgres, SqlSafeStr as _, pool::PoolConnection};
use sqlx_core::transaction::TransactionManager as _;
use std::{
    future::Future,
    io,
    ops::{Deref, DerefMut},
    time::Duration,
};

type Manager = <Postgres as Database>::TransactionManager;

/// The longest time for the beginning and the end of a transaction: then its connection is dead, and
/// is closed.
const LONGEST: Duration = Duration::from_secs(10);

/// A transaction on a connection of a pool. It is undone when it is dropped.
#[derive(Debug)]
pub struct Transaction {
    connection: PoolConnection<Postgres>,
    open: bool,
}

impl Transaction {
    /// Begins one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Self::begin_with(pool, "begin").await
    }

    /// Begins one by this statement, which may also set what holds for it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_with(pool: &PgPool, statement: &'static str) -> Result<Self, sqlx::Error> {
        let pool = pool.clone();
        uninterrupted(async move {
            let mut connection = pool.acquire().await?;
            let begun = Manager::begin(&mut connection, Some(statement.into_sql_str()));
            if let Err(error) = in_time(begun).await {
                connection.close_on_drop();
                return Err(error);
            }
            Ok(Self { connection, open: true })
        })
        .await
    }

    /// Makes its changes last.
    ///
    /// # Errors
    /// When the database does not answer: then they may last, or not.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        uninterrupted(async move {
            let ended = in_time(Manager::commit(&mut self.connection)).await;
            self.ended(ended)
        })
        .await
    }

    /// Undoes its changes.
    ///
    /// # Errors
    /// When the database does not answer. It undoes them then.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        uninterrupted(async move {
            let ended = in_time(Manager::rollback(&mut self.connection)).await;
            self.ended(ended)
        })
        .await
    }

    /// Nobody knows whether a transaction goes on whose end was not answered: there may be nothing
    /// to undo, and nothing may follow on its connection.
    fn ended(mut self, ended: Result<(), sqlx::Error>) -> Result<(), sqlx::Error> {
        self.open = false;
        if ended.is_err() {
            self.connection.close_on_drop();
        }
        ended
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            Manager::start_rollback(&mut self.connection);
        }
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

async fn in_time(
    end: impl Future<Output = Result<(), sqlx::Error>> + Send,
) -> Result<(), sqlx::Error> {
    let ended = tokio::time::timeout(LONGEST, end).await;
    ended.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

async fn uninterrupted<T: Send + 'static>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
) -> Result<T, sqlx::Error> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends.
            Err(_) => Err(sqlx::Error::PoolClosed),
        },
    }
}
