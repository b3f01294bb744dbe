//! Checks that a sealer makes before it continues from the newest checkpoint.

use super::{
    SealError, SealFault, Sealer, check_seal, compare, compare::Messages, growth::TreeGrowth,
};
use crate::store::{Seal, SealState};
use exodrive_proof::{
    note::Checkpoint,
    tile::{Tile, WIDTH},
    tree::Tree,
};
use std::collections::BTreeMap;

impl Sealer {
    /// The tree that was sealed last, after checks that it may be continued.
    pub(super) async fn begin(&self, standing: &SealState) -> Result<TreeGrowth, SealError> {
        let sealed = self.seals.newest_seal().await?;
        let keys = self.keys.verifiers();
        let tree = match &sealed {
            Some(seal) => check_seal(&self.seals, seal, &keys).await?,
            None => Tree::new(),
        };
        let size = tree.size();
        let end = self.log.last_position_expecting(size).await?;
        if end < size {
            return Err(SealFault::Short { end, sealed: size }.into());
        }
        let floor = self.beside(sealed.as_ref(), &tree).await?;
        let log = exodrive_domain::time::format(&self.log.created_at());
        if standing.compared_log.as_ref() == Some(&log) {
            let last_tile = size.saturating_sub(1) / WIDTH * WIDTH + 1;
            compare(&self.log, &self.seals, last_tile, size, &|_, _| {}).await?;
        } else {
            // Another stream than the one that was sealed, or an alarm was cleared: compare all of
            // it.
            compare(&self.log, &self.seals, 1, size, &|_, _| {}).await?;
            self.seals.seals_compared(&log).await?;
        }
        if let (Some(seal), None) = (&sealed, &floor) {
            self.save_local_checkpoint(&seal.note).await;
        }
        self.seals.use_seal_keys(&self.keys.vkeys()).await?;
        let tiles = self.growing_tiles(size).await?;
        let sealed_leaf = self.seals.sealed_leaf(size).await?;
        Ok(TreeGrowth {
            tree,
            sealed,
            sealed_leaf,
            newest_leaf: sealed_leaf,
            tiles,
            floor,
            due: None,
            behind: end - size,
        })
    }

    /// Compares the checkpoint that is saved beside the log with the newest one. Returns it if the
    /// database lacks it: then the log has been compared with it.
    async fn beside(
        &self,
        sealed: Option<&Seal>,
        tree: &Tree,
    ) -> Result<Option<Checkpoint>, SealError> {
        let Some(note) = self.log.newest_checkpoint().await? else { return Ok(None) };
        let saved = super::signed(&note, &self.keys.verifiers())?;
        let sealed_size = sealed.map_or(0, |seal| seal.size);
        if saved.size <= sealed_size {
            let edge = self.seals.seal_edge(saved.size).await?;
            let root = Tree::from_edge(saved.size, &edge).map(|tree| tree.root());
            if root != Some(saved.root) {
                return Err(SealFault::Fork { from: 1, to: saved.size }.into());
            }
            return Ok(None);
        }
        let end = self.log.last_position_expecting(saved.size).await?;
        if end < saved.size {
            return Err(SealFault::Short { end, sealed: saved.size }.into());
        }
        // Read twice, now and to be sealed: only a log that agrees to its end is signed.
        let (mut grown, mut messages) = (tree.clone(), Messages::new(&self.log, sealed_size + 1));
        while grown.size() < saved.size {
            let batch = messages.next(saved.size - grown.size()).await?;
            for message in &batch.messages {
                grown.push_leaf(super::leaf_hash(message));
            }
            self.seals.take_sealing(&self.worker).await?;
        }
        if grown.root() != saved.root {
            return Err(SealFault::Fork { from: sealed_size + 1, to: saved.size }.into());
        }
        Ok(Some(saved))
    }

    /// The tiles at the edge of the tree, which are not full.
    async fn growing_tiles(
        &self,
        size: u64,
    ) -> Result<BTreeMap<(u8, u64), Vec<exodrive_proof::Hash>>, SealError> {
        let edge = (0_u8..8).filter_map(|level| {
            let nodes = size >> (u32::from(level) * 8);
            let tile = Tile::of(level, nodes / WIDTH, size)?;
            Some((level, tile.index, usize::from(tile.width)))
        });
        let edge: Vec<_> = edge.collect();
        let stored =
            self.seals.seal_tiles(edge.iter().map(|(level, index, _)| (*level, *index))).await?;
        let mut tiles = BTreeMap::new();
        for (level, index, width) in edge {
            let hashes = stored.get(&(level, index)).and_then(|hashes| hashes.get(..width));
            let hashes = hashes.ok_or(SealFault::Tile { level, index })?;
            tiles.insert((level, index), hashes.to_vec());
        }
        Ok(tiles)
    }
}
