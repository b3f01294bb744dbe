//! Erasures of personal data that this database knows of. A database that is restored from a backup
//! is cleaned again, and a restored log learns from it which data keys must be destroyed.

use super::states::GenerationState;
use crate::{Database, Error};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Any two numbers that no other lock uses.
const LOCK: i64 = 0x65_78_6f_5f_65_72_61_73;

/// An erasure that this database knows of.
#[derive(Clone, Debug)]
pub struct KnownErasure {
    /// Its id.
    pub id: Uuid,
    /// Data keys that are destroyed, by name.
    pub keys: Vec<String>,
    /// No row of this database holds the data any more.
    pub applied: bool,
}

/// Held while one worker executes erasures, so that no other worker does. Its
/// connection belongs to no pool: dropped, it is closed, and the lock with it.
pub struct ErasureLock(PgConnection);

impl ErasureLock {
    /// Releases the lock.
    ///
    /// # Errors
    /// When the database does not answer; the lock is gone then too.
    pub async fn release(self) -> Result<(), Error> {
        Ok(self.0.close().await?)
    }
}

impl Database {
    /// The right to execute erasures; `None` while another worker has it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lock_erasures(&self) -> Result<Option<ErasureLock>, Error> {
        // The lock is the connection's: if this future is dropped, it ends with it.
        let mut connection = self.pool().acquire().await?.detach();
        let locked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LOCK);
        if locked.fetch_one(&mut connection).await? {
            return Ok(Some(ErasureLock(connection)));
        }
        connection.close().await?;
        Ok(None)
    }

    /// Every erasure that this database knows of.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn known_erasures(&self) -> Result<Vec<KnownErasure>, Error> {
        let known = sqlx::query_as!(
            KnownErasure,
            r#"select id, keys, applied_at is not null as "applied!" from erasures"#
        );
        Ok(known.fetch_all(self.pool()).await?)
    }

    /// Of some erasures, the number of those that this database does not know to be applied.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn count_not_applied(&self, erasures: &[Uuid]) -> Result<u64, Error> {
        let sql = "select count(*) from unnest($1::uuid[]) as asked
                   where not exists (
                       select from erasures where id = asked and applied_at is not null
                   )";
        let missing: i64 = sqlx::query_scalar(sql).bind(erasures).fetch_one(self.pool()).await?;
        Ok(missing.unsigned_abs())
    }

    /// Rows, by projection, whose keys contain one of these ids: the rest of the log may no longer
    /// show that such a row exists.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows_naming(
        &self,
        ids: &[String],
    ) -> Result<Vec<(&'static str, Vec<String>)>, Error> {
        let generations = sqlx::query!(
            "select projection, generation from generations where state <> $1",
            GenerationState::Dropping as _
        );
        let generations = generations.fetch_all(self.pool()).await?;
        let mut found = Vec::new();
        for name in crate::names() {
            for own in generations.iter().filter(|own| own.projection == name) {
                let table = format!("{name}_g{}.{name}", own.generation);
                let sql = format!(
                    "select key from {table}
                     where exists (select from unnest($1) as id where position(id in key) > 0)"
                );
                let keys = sqlx::query_scalar(AssertSqlSafe(sql)).bind(ids);
                found.push((name, keys.fetch_all(self.pool()).await?));
            }
        }
        Ok(found)
    }

    /// Records an erasure, before any key is destroyed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn record_erasure(&self, id: Uuid, keys: &[String]) -> Result<(), Error> {
        sqlx::query!(
            "insert into erasures (id, keys) values ($1, $2)
             on conflict (id) do update set keys = excluded.keys",
            id,
            keys
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Records that no row holds the data of an erasure any more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mark_erased(&self, id: Uuid) -> Result<(), Error> {
        sqlx::query!("update erasures set applied_at = now() where id = $1", id)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
