//! The log's seals in Postgres: the tiles of its Merkle tree, the signed checkpoints, and the
//! reason of a halt. This is not a projection: a projection can be folded again, but a signature
//! that was shown cannot be replaced.

mod error;
mod write;

pub use error::NoNode;
pub use write::{Halted, NewSeal, SealWriteError};

use chrono::{DateTime, Utc};
use exodrive_projections::{
    Database,
    engine::store::{to_i64, to_u64},
};
use exodrive_proof::{
    Hash,
    tile::Tile,
    tree::{
        Nodes, canonical, consistency_nodes, consistency_proof, inclusion_nodes, inclusion_proof,
    },
};
use sqlx::PgPool;
use std::collections::{BTreeSet, HashMap};

/// A signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Number of events that it covers: those at the positions 1 to this.
    pub size: u64,
    /// The root of their Merkle tree.
    pub root: Hash,
    /// The signed note (C2SP tlog-checkpoint), its whole text.
    pub note: String,
    /// Time that it was stored, by the database's clock.
    pub sealed_at: DateTime<Utc>,
}

/// A halt of sealing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Time since when.
    pub halted_at: DateTime<Utc>,
    /// The first position that is wrong, if it is known.
    pub position: Option<u64>,
    /// The defect, and instructions for the operator.
    pub reason: String,
}

/// State of sealing.
#[derive(Clone, Debug)]
pub struct SealState {
    /// Events that are sealed.
    pub sealed: u64,
    /// The halt, if sealing is halted.
    pub halt: Option<Halt>,
    /// The position that the rolling comparison has reached.
    pub checked: u64,
    /// The log that was compared with all tiles last.
    pub compared_log: Option<String>,
}

/// A public key that has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealKey {
    /// The verifier key of C2SP signed-note: name, key id, key.
    pub vkey: String,
    /// Time of its first signature.
    pub first_used_at: DateTime<Utc>,
    /// Time of its last signature.
    pub last_used_at: DateTime<Utc>,
}

/// A place of a tile: its level and its index.
pub type Place = (u8, u64);

/// Tiles in memory, by which nodes of the tree of one size are found.
#[derive(Clone, Debug, Default)]
pub struct Tiles {
    size: u64,
    held: HashMap<Place, Vec<Hash>>,
}

impl Tiles {
    /// These tiles, of the tree of `size` leaves.
    pub fn new(size: u64, held: HashMap<Place, Vec<Hash>>) -> Self {
        Self { size, held }
    }

    /// Adds tiles, or wider ones.
    pub fn extend(&mut self, tiles: impl IntoIterator<Item = (Place, Vec<Hash>)>) {
        self.held.extend(tiles);
    }
}

impl Nodes for Tiles {
    type Error = NoNode;

    fn node(&self, level: u8, index: u64) -> Result<Hash, NoNode> {
        let tile = Tile::holding(level, index, self.size);
        let hash = tile
            .and_then(|tile| tile.node(self.held.get(&(tile.level, tile.index))?, level, index));
        hash.ok_or(NoNode { level, index })
    }
}

/// The tiles that hold these nodes of the tree of `size` leaves.
pub fn places(nodes: &[(u8, u64)], size: u64) -> BTreeSet<Place> {
    let holding = |(level, index): &(u8, u64)| Tile::holding(*level, *index, size);
    nodes.iter().filter_map(holding).map(|tile| (tile.level, tile.index)).collect()
}

/// The seals in Postgres. Cheap to clone.
#[derive(Clone)]
pub struct SealStore {
    pool: PgPool,
    /// For the state of sealing, which does not wait for readers of proofs.
    state: PgPool,
}

/// Reason that the seals could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer, or rejected the statement.
    #[error("the database of the seals failed")]
    Database(#[from] sqlx::Error),
    /// A node of the tree is missing.
    #[error(transparent)]
    NoNode(#[from] NoNode),
}

impl StoreError {
    /// True if Postgres is out: the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Database(error) => exodrive_projections::is_postgres_outage(error),
            Self::NoNode(_) => false,
        }
    }
}

impl SealStore {
    /// The seals that a database holds.
    pub fn of(database: &Database) -> Self {
        Self { pool: database.readers().clone(), state: database.pool().clone() }
    }

    /// The state of sealing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sealing(&self) -> Result<SealState, StoreError> {
        let row = sqlx::query!(
            r#"select (select max(size) from seal_checkpoints) as sealed,
                 checked_position, compared_log,
                 (extract(epoch from halted_at) * 1000000)::bigint as halted_at, position,
                 reason as "reason?"
               from seal_state left join seal_halts on cleared_at is null"#
        )
        .fetch_one(&self.state)
        .await?;
        let halt = row.halted_at.map(|halted_at| {
            Ok::<_, StoreError>(Halt {
                halted_at: time(halted_at)?,
                position: row.position.map(to_u64),
                reason: row.reason.ok_or_else(|| malformed("a halt has no reason"))?,
            })
        });
        let halt = halt.transpose()?;
        Ok(SealState {
            sealed: to_u64(row.sealed.unwrap_or(0)),
            halt,
            checked: to_u64(row.checked_position),
            compared_log: row.compared_log,
        })
    }

    /// The newest checkpoint; `None` before the first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn newest_seal(&self) -> Result<Option<Seal>, StoreError> {
        let row = sqlx::query_as!(
            Row,
            r#"select size, root, note,
                 (extract(epoch from sealed_at) * 1000000)::bigint as "sealed_at!"
               from seal_checkpoints order by size desc limit 1"#
        );
        row.fetch_optional(&self.pool).await?.map(Seal::try_from).transpose()
    }

    /// Up to `limit` checkpoints with a size from `from` to `to`, by size.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn seals_between(
        &self,
        from: u64,
        to: u64,
        limit: i64,
    ) -> Result<Vec<Seal>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"select size, root, note,
                 (extract(epoch from sealed_at) * 1000000)::bigint as "sealed_at!"
               from seal_checkpoints where size between $1 and $2 order by size limit $3"#,
            to_i64(from),
            to_i64(to),
            limit
        );
        rows.fetch_all(&self.pool).await?.into_iter().map(Seal::try_from).collect()
    }

    /// The public keys that have signed, the newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn seal_keys(&self) -> Result<Vec<SealKey>, StoreError> {
        let keys = sqlx::query!(
            r#"select vkey, (extract(epoch from first_used_at) * 1000000)::bigint as "first!",
                 (extract(epoch from last_used_at) * 1000000)::bigint as "last!"
               from seal_keys order by first_used_at desc, vkey"#
        );
        let keys = keys.fetch_all(&self.pool).await?.into_iter();
        keys.map(|key| {
            Ok(SealKey {
                vkey: key.vkey,
                first_used_at: time(key.first)?,
                last_used_at: time(key.last)?,
            })
        })
        .collect()
    }

    /// Stored tiles. A missing one is left out.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn seal_tiles(
        &self,
        places: impl IntoIterator<Item = Place>,
    ) -> Result<HashMap<Place, Vec<Hash>>, StoreError> {
        let (levels, indexes): (Vec<_>, Vec<_>) =
            places.into_iter().map(|(level, index)| (i16::from(level), to_i64(index))).unzip();
        let rows = sqlx::query!(
            r#"select level, index, hashes from seal_tiles
               join unnest($1::smallint[], $2::bigint[]) as wanted (level, index)
               using (level, index)"#,
            &levels,
            &indexes
        );
        let tile = |level: i16, index: i64, hashes: &[u8]| {
            let level = u8::try_from(level).unwrap_or(u8::MAX);
            ((level, to_u64(index)), hashes.as_chunks().0.to_vec())
        };
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| tile(row.level, row.index, &row.hashes)).collect())
    }

    /// The tiles that hold these nodes (level and index of each) of the tree of `size` leaves.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn seal_nodes(&self, nodes: &[(u8, u64)], size: u64) -> Result<Tiles, StoreError> {
        Ok(Tiles::new(size, self.seal_tiles(places(nodes, size)).await?))
    }

    /// The hash of the event at a position; `None` if it is not sealed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sealed_leaf(&self, position: u64) -> Result<Option<Hash>, StoreError> {
        let Some(index) = position.checked_sub(1) else { return Ok(None) };
        let sealed = self.newest_seal().await?.map_or(0, |seal| seal.size);
        if index >= sealed {
            return Ok(None);
        }
        let tiles = self.seal_nodes(&[(0, index)], sealed).await?;
        Ok(Some(tiles.node(0, index)?))
    }

    /// The proof that the event at a position is in the tree of `size` leaves,
    /// which must be sealed (RFC 9162, section 2.1.3), and the event's hash.
    ///
    /// # Errors
    /// When the database does not answer, or lacks a tile.
    pub async fn prove_inclusion(
        &self,
        position: u64,
        size: u64,
    ) -> Result<(Hash, Vec<Hash>), StoreError> {
        let index = position.saturating_sub(1);
        let mut nodes = inclusion_nodes(index, size);
        nodes.push((0, index));
        let tiles = self.seal_nodes(&nodes, size).await?;
        Ok((tiles.node(0, index)?, inclusion_proof(index, size, &tiles)?))
    }

    /// The proof that the tree of `from` leaves is the beginning of the tree of
    /// `to`, which must be sealed (RFC 9162, section 2.1.4).
    ///
    /// # Errors
    /// When the database does not answer, or lacks a tile.
    pub async fn prove_consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, StoreError> {
        let tiles = self.seal_nodes(&consistency_nodes(from, to), to).await?;
        Ok(consistency_proof(from, to, &tiles)?)
    }

    /// The edge of the tree of `size` leaves: the hashes of the fewest complete
    /// subtrees that cover it, from left to right.
    ///
    /// # Errors
    /// When the database does not answer, or lacks a tile.
    pub async fn seal_edge(&self, size: u64) -> Result<Vec<Hash>, StoreError> {
        let nodes = canonical(0, size);
        let tiles = self.seal_nodes(&nodes, size).await?;
        let hash = |(level, index)| tiles.node(level, index).map_err(StoreError::from);
        nodes.into_iter().map(hash).collect()
    }
}

struct Row {
    size: i64,
    root: Vec<u8>,
    note: String,
    sealed_at: i64,
}

/// A time of Postgres, which has years that [`DateTime`] does not.
fn time(micros: i64) -> Result<DateTime<Utc>, StoreError> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| malformed("a time is beyond the year 262142"))
}

fn malformed(what: &'static str) -> StoreError {
    StoreError::Database(sqlx::Error::Decode(what.into()))
}

impl TryFrom<Row> for Seal {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let root = row.root.try_into().map_err(|_| malformed("a root has not 32 bytes"))?;
        let sealed_at = time(row.sealed_at)?;
        Ok(Self { size: to_u64(row.size), root, note: row.note, sealed_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_cannot_be_read_is_not_1970() {
        // In the year 294247, which a `timestamptz` still has.
        assert!(matches!(time(i64::MAX), Err(StoreError::Database(_))));
        assert_eq!(time(1).unwrap().timestamp_micros(), 1);
    }
}
