//! Transactions whose beginning and end cannot be interrupted.
//!
//! A future may be dropped at any await: a client hangs up, a lease is lost, a time limit is over.
//! While `begin` or `commit` is under way, sqlx does not know whether the connection is in a
//! transaction. If its future is dropped then, a connection goes back to the pool inside one, and
//! whatever is executed on it next is undone with it; or it is told to undo what is over. So both
//! run in a task of their own, which goes on when nobody waits for it.

use sqlx::{PgConnection, PgPool, Postgres};
use std::{
    future::Future,
    io,
    ops::{Deref, DerefMut},
    time::Duration,
};

/// The longest time for the end of a transaction: then its connection is dead, and is closed.
const LONGEST_END: Duration = Duration::from_secs(10);

/// A transaction on a connection of a pool. It is undone when it is dropped.
#[derive(Debug)]
pub struct Transaction(sqlx::Transaction<'static, Postgres>);

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
    #[expect(clippy::disallowed_methods, reason = "in a task that nobody interrupts")]
    pub async fn begin_with(pool: &PgPool, statement: &'static str) -> Result<Self, sqlx::Error> {
        let pool = pool.clone();
        uninterrupted(async move { pool.begin_with(statement).await.map(Self) }).await
    }

    /// Makes its changes last.
    ///
    /// # Errors
    /// When the database does not answer: then they may last, or not.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        uninterrupted(in_time(self.0.commit())).await
    }

    /// Undoes its changes.
    ///
    /// # Errors
    /// When the database does not answer. It undoes them then.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        uninterrupted(in_time(self.0.rollback())).await
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

async fn in_time(
    end: impl Future<Output = Result<(), sqlx::Error>> + Send,
) -> Result<(), sqlx::Error> {
    let ended = tokio::time::timeout(LONGEST_END, end).await;
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
