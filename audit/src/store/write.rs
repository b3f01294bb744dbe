//! Writes of the sealer: its lease, tiles and checkpoints, and halts.

use super::{Place, SealStore, StoreError};
use exodrive_projections::{Transaction, engine::store::to_i64};
use exodrive_proof::Hash;
use std::{collections::BTreeMap, time::Duration};

/// Time without a heartbeat after which another sealer takes over.
const LEASE: Duration = Duration::from_secs(5);
/// Advisory lock of a transaction that writes a checkpoint.
const LOCK: i64 = 0x0065_786f_7365_616c;

/// A checkpoint to be stored.
#[derive(Clone, Debug)]
pub struct NewSeal<'a> {
    /// Number of events that it covers.
    pub size: u64,
    /// The root of their tree.
    pub root: Hash,
    /// The signed note.
    pub note: &'a str,
}

/// Reason that tiles and a checkpoint were not written.
#[derive(Debug, thiserror::Error)]
pub enum SealWriteError {
    /// Another sealer has taken over, or sealing was halted: read the state again.
    #[error("the state of sealing has changed since it was read")]
    TakenOver,
    /// A tile holds other hashes than those that it should begin with.
    #[error("the tile at level {}, index {} holds other hashes than were sealed", .0.0, .0.1)]
    TileChanged(Place),
    /// Postgres failed.
    #[error(transparent)]
    Database(#[from] StoreError),
}

impl From<sqlx::Error> for SealWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// True if this call halted sealing; false if it was halted already.
pub type Halted = bool;

impl SealStore {
    /// Takes or renews the lease of sealing. Returns false if another sealer has it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_sealing(&self, worker: &str) -> Result<bool, StoreError> {
        let taken = sqlx::query!(
            "update seal_state set worker = $1,
                 lease_until = clock_timestamp() + make_interval(secs => $2)
             where worker = $1 or lease_until is null or lease_until < clock_timestamp()",
            worker,
            LEASE.as_secs_f64()
        )
        .execute(&self.pool)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Gives the lease up, so that another sealer can take it at once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn leave_sealing(&self, worker: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "update seal_state set worker = null, lease_until = null where worker = $1",
            worker
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Stores wider tiles, and a checkpoint that is based on them, at once: both are on disk when
    /// this returns. `before` is the note that was the newest, which it must still be.
    ///
    /// # Errors
    /// [`SealWriteError`]; nothing is written then.
    pub async fn append_seal(
        &self,
        worker: &str,
        before: Option<&str>,
        tiles: &BTreeMap<Place, Vec<Hash>>,
        seal: Option<&NewSeal<'_>>,
    ) -> Result<(), SealWriteError> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        // Workers do not wait for the disk otherwise; a client that gets a signature must be able
        // to rely on it.
        sqlx::query!("set local synchronous_commit = on").execute(&mut *transaction).await?;
        sqlx::query!("select pg_advisory_xact_lock($1)", LOCK).fetch_one(&mut *transaction).await?;
        let stands = sqlx::query_scalar!(
            r#"select worker = $1 and not exists (select from seal_halts where cleared_at is null)
                 and (select note from seal_checkpoints order by size desc limit 1)
                     is not distinct from $2 as "stands!"
               from seal_state"#,
            worker,
            before
        )
        .fetch_one(&mut *transaction)
        .await?;
        if !stands {
            return Err(SealWriteError::TakenOver);
        }
        for (place, hashes) in tiles {
            let (level, index) = *place;
            let grown = sqlx::query!(
                "insert into seal_tiles (level, index, hashes) values ($1, $2, $3)
                 on conflict (level, index) do update set hashes =
                     case when length(excluded.hashes) > length(seal_tiles.hashes)
                         then excluded.hashes else seal_tiles.hashes end
                 where substring(excluded.hashes for length(seal_tiles.hashes))
                     = substring(seal_tiles.hashes for length(excluded.hashes))",
                i16::from(level),
                to_i64(index),
                hashes.as_flattened()
            )
            .execute(&mut *transaction)
            .await?;
            if grown.rows_affected() == 0 {
                return Err(SealWriteError::TileChanged(*place));
            }
        }
        if let Some(seal) = seal {
            sqlx::query!(
                "insert into seal_checkpoints (size, root, note) values ($1, $2, $3)",
                to_i64(seal.size),
                &seal.root[..],
                seal.note
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Remembers that these keys sign.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn use_seal_keys(&self, vkeys: &[String]) -> Result<(), StoreError> {
        sqlx::query!(
            "insert into seal_keys (vkey) select * from unnest($1::text[])
             on conflict (vkey) do update set last_used_at = clock_timestamp()",
            vkeys
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Halts sealing, for this reason, until an operator clears it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn halt_sealing(
        &self,
        position: Option<u64>,
        reason: &str,
    ) -> Result<Halted, StoreError> {
        let halted = sqlx::query!(
            "insert into seal_halts (position, reason) values ($1, $2) on conflict do nothing",
            position.map(to_i64),
            reason
        );
        Ok(halted.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Lets sealing continue, after the whole log has been compared again. Returns the reason of
    /// the halt; `None` if there was none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn clear_seal_halt(
        &self,
        by: &str,
        because: &str,
    ) -> Result<Option<String>, StoreError> {
        let mut transaction = Transaction::begin(&self.pool).await?;
        sqlx::query!("set local synchronous_commit = on").execute(&mut *transaction).await?;
        sqlx::query!("update seal_state set compared_log = null")
            .execute(&mut *transaction)
            .await?;
        let reason = sqlx::query_scalar!(
            "update seal_halts set cleared_at = clock_timestamp(), cleared_by = $1,
                 cleared_because = $2
             where cleared_at is null returning reason",
            by,
            because
        )
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(reason)
    }

    /// Stores the position that the rolling comparison has reached.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn seals_checked(&self, position: u64) -> Result<(), StoreError> {
        sqlx::query!("update seal_state set checked_position = $1", to_i64(position))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Stores the identity of the log that was compared with all tiles.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn seals_compared(&self, log: &str) -> Result<(), StoreError> {
        sqlx::query!("update seal_state set compared_log = $1", log).execute(&self.pool).await?;
        Ok(())
    }
}
