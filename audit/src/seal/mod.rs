//! Sealing: the events of the log as leaves of a Merkle tree (RFC 6962), its
//! tiles in Postgres, and its root signed now and then (C2SP tlog-checkpoint).
//!
//! **No checkpoint ever contradicts the one before.** A sealer begins with the newest checkpoint:
//! it is signed by a key of ours, the tiles give its root, the log has the events of the last tile,
//! and the checkpoint that is saved beside the log agrees. Before it signs, it proves to itself
//! that the new tree extends the old one. Tiles and checkpoint are on disk before they are shown to
//! any client. Sealed events are read again continually, a few in each round, and compared with the
//! tiles.
//!
//! **A fault halts it**: a hole, a changed event, a log shorter than its sealed part. The reason is
//! stored. No sealer signs until an operator has cleared it, and then only after all of the log has
//! been compared. What is missing is a fault only once the stream's leader has confirmed it: a cut
//! connection, a lagging replica or a new leader is none.
//!
//! One sealer works at a time, by a lease. A sealer proves in the transaction of each write that it
//! still has the lease.

mod begin;
mod compare;
mod growth;
mod leaf;

pub use compare::{SealError, SealFault, check_seal, check_seals, compare, signed};
pub use leaf::leaf_hash;

use crate::store::{NewSeal, Seal, SealState, SealStore, SealWriteError, Tiles, places};
pub(crate) use compare::Messages;
use exodrive_log::{Log, ReadError, StoredReader};
use exodrive_proof::{
    note::{self, Checkpoint, SigningKey, VerifierKey},
    tile::WIDTH,
    tree::{consistency_nodes, consistency_proof, verify_consistency},
};
use growth::TreeGrowth;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Time between two rounds of a sealer, each of which also renews its lease.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Sealed events that are read again in a round: this many, and more if reading all of them would
/// take longer than this many rounds.
const CHECKED: u64 = 512;
const CHECKED_AT_MOST: u64 = 8_192;
const ROUNDS: u64 = 360;

/// The keys that sign checkpoints.
pub struct SealKeys {
    /// The log's name in its checkpoints.
    pub origin: String,
    /// Every one of these signs.
    pub signing: Vec<SigningKey>,
    /// Keys that sign no more; their signatures remain valid.
    pub former: Vec<VerifierKey>,
}

impl SealKeys {
    /// Every key whose signature counts.
    pub fn verifiers(&self) -> Vec<VerifierKey> {
        let signing = self.signing.iter().map(SigningKey::verifier);
        signing.chain(self.former.iter().cloned()).collect()
    }

    fn vkeys(&self) -> Vec<String> {
        self.signing.iter().map(|key| key.verifier().to_string()).collect()
    }
}

/// The tree of a sealer that has the lease, as far as it has grown.
pub struct Session {
    tree: TreeGrowth,
    reader: StoredReader,
    /// The time at which sealed events were last compared again.
    checked: Instant,
}

/// Seals the log. Any number may run; one of them works.
pub struct Sealer {
    /// The log that is sealed.
    pub log: Log,
    /// The store of tiles and checkpoints, as its owner.
    pub seals: SealStore,
    /// The keys that sign.
    pub keys: Arc<SealKeys>,
    /// An event waits no longer than this for its checkpoint.
    pub interval: Duration,
    /// This worker's name.
    pub worker: String,
}

impl Sealer {
    /// Goes on with a session of sealing, or begins one if no other sealer has
    /// the lease. Waits a moment for new events. Afterwards there is no session
    /// if another sealer took over, or sealing has halted.
    ///
    /// # Errors
    /// [`SealError::Fault`] is for [`Sealer::halt`]; after others it can be
    /// tried again, with a new session.
    pub async fn step(&self, session: &mut Option<Session>) -> Result<(), SealError> {
        *session = match session.take() {
            Some(session) => self.advance(session).await?,
            None => self.begin_session().await?,
        };
        Ok(())
    }

    async fn begin_session(&self) -> Result<Option<Session>, SealError> {
        let state = self.read_state().await?.0;
        if state.halt.is_some() || !self.seals.take_sealing(&self.worker).await? {
            return Ok(None);
        }
        let tree = self.begin(&state).await?;
        let reader = self.log.stored_reader(tree.tree.size() + 1);
        Ok(Some(Session { tree, reader, checked: Instant::now() }))
    }

    async fn advance(&self, mut session: Session) -> Result<Option<Session>, SealError> {
        if !self.seals.take_sealing(&self.worker).await? {
            return Ok(None);
        }
        let Session { tree, reader, checked } = &mut session;
        self.gather(tree, reader).await?;
        if tree.is_due() && !self.seal(tree).await? {
            return Ok(None);
        }
        if checked.elapsed() >= self.interval {
            *checked = Instant::now();
            self.check_again(tree.sealed_size()).await?;
        }
        let (state, end) = self.read_state().await?;
        if state.halt.is_some() {
            return Ok(None);
        }
        let size = tree.tree.size();
        if end < size {
            let end = self.log.last_position_expecting(size).await?;
            if end < size {
                return Err(SealFault::Short { end, sealed: size }.into());
            }
        }
        Ok(Some(session))
    }

    /// Compares the log with the newest seals, and signs nothing.
    ///
    /// # Errors
    /// As [`Sealer::step`].
    pub async fn compare_newest(&self) -> Result<(), SealError> {
        let state = self.seals.sealing().await?;
        if state.halt.is_none() {
            self.begin(&state).await?;
        }
        Ok(())
    }

    /// Halts sealing, for this reason, until an operator clears it. Returns false if it was halted
    /// already.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn halt(&self, fault: &SealFault) -> Result<bool, SealError> {
        metrics::gauge!("exodrive_seal_halted").set(1.0);
        Ok(self.seals.halt_sealing(fault.position(), &fault.to_string()).await?)
    }

    /// Sets the metrics; returns the state of sealing and the log's end.
    async fn read_state(&self) -> Result<(SealState, u64), SealError> {
        let standing = self.seals.sealing().await?;
        let end = self.log.last_position().await?;
        metrics::gauge!("exodrive_seal_halted").set(f64::from(u8::from(standing.halt.is_some())));
        metrics::gauge!("exodrive_seal_position").set(standing.sealed as f64);
        metrics::gauge!("exodrive_seal_checked_position").set(standing.checked as f64);
        metrics::gauge!("exodrive_seal_lag_events").set(end.saturating_sub(standing.sealed) as f64);
        Ok((standing, end))
    }

    /// Reads the next events, for a moment.
    async fn gather(
        &self,
        growing: &mut TreeGrowth,
        reader: &mut StoredReader,
    ) -> Result<(), SealError> {
        let now = Instant::now();
        let wait = growing
            .due
            .map_or(POLL_INTERVAL, |due| due.saturating_duration_since(now).min(POLL_INTERVAL));
        let batch = match reader.next_batch(growing.room(), wait).await {
            Err(ReadError::Hole { expected, .. }) => {
                return Err(SealFault::Missing { position: expected }.into());
            }
            batch => batch?,
        };
        if batch.messages.is_empty() {
            growing.behind = 0;
            return Ok(());
        }
        growing.behind = batch.pending;
        growing.due.get_or_insert(now + self.interval);
        for message in &batch.messages {
            growing.push(leaf_hash(message));
        }
        Ok(())
    }

    /// Signs the present tree and stores the checkpoint. Returns false if another sealer has taken
    /// over.
    async fn seal(&self, growing: &mut TreeGrowth) -> Result<bool, SealError> {
        let (size, root) = (growing.tree.size(), growing.tree.root());
        let early = match &growing.floor {
            Some(floor) if size == floor.size && root != floor.root => {
                return Err(SealFault::Fork { from: growing.sealed_size() + 1, to: size }.into());
            }
            Some(floor) => size < floor.size,
            None => false,
        };
        self.check_sealed_event(growing).await?;
        self.extends(growing).await?;
        let checkpoint =
            Checkpoint { origin: self.keys.origin.clone(), size, root, extensions: Vec::new() };
        let signing: Vec<_> = self.keys.signing.iter().collect();
        let note = note::sign(&checkpoint, &signing).to_string();
        let seal = (!early).then_some(NewSeal { size, root, note: &note });
        let before = growing.sealed.as_ref().map(|seal| seal.note.as_str());
        let saved = self.seals.append_seal(&self.worker, before, &growing.tiles, seal.as_ref());
        match saved.await {
            Ok(()) => {}
            Err(SealWriteError::TakenOver) => return Ok(false),
            Err(SealWriteError::TileChanged((level, index))) => {
                return Err(SealFault::Tile { level, index }.into());
            }
            Err(SealWriteError::Database(error)) => return Err(error.into()),
        }
        growing.due = None;
        growing.tiles.retain(|_, hashes| (hashes.len() as u64) < WIDTH);
        if early {
            return Ok(true);
        }
        self.seals.use_seal_keys(&self.keys.vkeys()).await?;
        self.save_local_checkpoint(&note).await;
        growing.floor = None;
        growing.sealed_leaf = growing.newest_leaf;
        growing.sealed = Some(Seal { size, root, note, sealed_at: self.log.now() });
        Ok(true)
    }

    /// Reads the last sealed event again: a message inserted or removed before it would have moved
    /// it.
    async fn check_sealed_event(&self, growing: &TreeGrowth) -> Result<(), SealError> {
        let position = growing.sealed_size();
        let Some(sealed) = growing.sealed_leaf else { return Ok(()) };
        match self.log.read_expected(position).await? {
            Some(message) if leaf_hash(&message) == sealed => Ok(()),
            Some(_) => Err(SealFault::Changed { position }.into()),
            None => Err(SealFault::Missing { position }.into()),
        }
    }

    /// Proves that the tree extends the newest checkpoint, with the tiles that
    /// the database holds.
    async fn extends(&self, growing: &TreeGrowth) -> Result<(), SealError> {
        let Some(sealed) = &growing.sealed else { return Ok(()) };
        let (size, root) = (growing.tree.size(), growing.tree.root());
        let fault = SealFault::Root { size: sealed.size };
        let nodes = consistency_nodes(sealed.size, size);
        let stored = places(&nodes, size).into_iter().filter(|it| !growing.tiles.contains_key(it));
        let mut tiles = Tiles::new(size, self.seals.seal_tiles(stored).await?);
        tiles.extend(growing.tiles.clone());
        let proof = consistency_proof(sealed.size, size, &tiles).map_err(|_| fault.clone())?;
        if verify_consistency(sealed.size, size, &sealed.root, &root, &proof) {
            return Ok(());
        }
        Err(fault.into())
    }

    /// Reads some sealed events again.
    async fn check_again(&self, sealed: u64) -> Result<(), SealError> {
        if sealed == 0 {
            return Ok(());
        }
        let checked = self.seals.sealing().await?.checked;
        let from = if checked >= sealed { 1 } else { checked + 1 };
        let count = (sealed / ROUNDS).clamp(CHECKED, CHECKED_AT_MOST);
        let to = (from + count - 1).min(sealed);
        compare(&self.log, &self.seals, from, to, &|_, _| {}).await?;
        Ok(self.seals.seals_checked(to).await?)
    }

    /// Saves the newest checkpoint beside the log. After a failure the next one is saved instead.
    async fn save_local_checkpoint(&self, note: &str) {
        if let Err(error) = self.log.keep_checkpoint(note).await {
            tracing::warn!(%error, "Cannot save the newest checkpoint beside the log, will save the next one");
        }
    }
}
