//! What a database needs before workers and readers can use it.

use super::{
    database::{Database, options},
    logins,
    projection::Definition,
    store::generations,
};
use crate::{Error, for_each_projection};
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};

impl Database {
    /// Applies the migrations at this address, gives the workers' role what is its own, and creates
    /// the first generation of every projection that has none. Does nothing to a database that is
    /// ready. It keeps nobody waiting: it gives up a lock that it does not get within 2 s, and tries
    /// again for a minute.
    ///
    /// # Errors
    /// When the database fails, or the login may not do so.
    pub async fn migrate(url: &str) -> Result<(), Error> {
        let deadline = Instant::now() + MIGRATION_LIMIT;
        loop {
            match Self::try_to_migrate(url).await {
                Err(error) if error.is_contention() && Instant::now() < deadline => {
                    let error = exodrive_runtime::error_chain(&error);
                    tracing::warn!(error, "Others use what is to be migrated: it is tried again");
                    tokio::time::sleep(jittered(MIGRATION_PAUSE)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_to_migrate(url: &str) -> Result<(), Error> {
        let options = options(url, "exodrive migrate")?.options([("lock_timeout", "2s")]);
        // A connection of its own, whose end gives up every lock.
        let mut connection = PgConnection::connect_with(&options).await?;
        exodrive_migrations::MIGRATOR.run(&mut connection).await?;
        logins::hand_over(&mut connection).await?;
        connection.close().await?;
        let workers = Self::for_workers(url)?;
        for_each_projection!(P => generations::ensure(Definition::of::<P>(), workers.pool()).await?);
        workers.pool().close().await;
        Ok(())
    }
}

/// Time for which a migration that others are in the way of is tried again.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
/// The pause between two attempts: half of it, and up to half more.
const MIGRATION_PAUSE: Duration = Duration::from_secs(1);

/// From half of a duration to all of it, so that those who wait do not meet again.
fn jittered(duration: Duration) -> Duration {
    // Some of the random bits of an id.
    let share = f64::from(uuid::Uuid::now_v7().as_fields().3[7]) / f64::from(u8::MAX);
    duration.mul_f64(0.5 + share / 2.0)
}
