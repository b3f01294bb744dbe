//! The states that decisions are made on.

use exodrive_domain::Event;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// What decisions about one subject are made on: a fold of its events. Holds
/// no personal data, since snapshots of it are kept in Redis.
pub trait DecisionState:
    Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Names its snapshots; no two states share it.
    const NAME: &'static str;
    /// Raised when the fold or the shape changes: older snapshots are then not
    /// read.
    const VERSION: u32;

    /// Takes in the next event of the subject. Must not rest on `stored_at`,
    /// which is a guess for an event that this process has just appended.
    fn evolve(&mut self, event: &Event<'_>);
}

/// A subject's state.
#[derive(Clone, Debug)]
pub struct Loaded<S> {
    /// The fold of its events.
    pub state: Arc<S>,
    /// The position of the last of them; 0 when there is none.
    pub position: u64,
}

impl<S: Default> Default for Loaded<S> {
    fn default() -> Self {
        Self { state: Arc::default(), position: 0 }
    }
}
