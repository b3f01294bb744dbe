//! The ids of legal holds, by the email addresses that they are about.
//!
//! An id says nothing of the address. It is found by an index, as that of a customer: a data key
//! whose name is a MAC of the address (`hold.<mac>`), and from which the id is derived. It is
//! written once. When the person is erased the index is deleted, and leaves no tombstone; from then
//! on nobody can tell whom the id in the erasure's event was about.

use super::{
    records::{AT_ONCE, Place},
    store::{KeyState, KeyStore},
    wrapping::{OpenKey, random_key},
};
use crate::error::KeyError;
use exodrive_domain::id::HoldId;
use std::collections::HashSet;
use uuid::Builder;

/// What the MACs of addresses, and the ids, are about.
const ABOUT: &str = "hold";

fn id_of(index: &OpenKey) -> HoldId {
    Builder::from_custom_bytes(index.mac(ABOUT, b"")).into_uuid().into()
}

impl KeyStore {
    fn index_of_hold(&self, address: &str) -> String {
        format!("hold.{}", self.mac(ABOUT, address.as_bytes()))
    }

    /// The id of the hold on this address; `None` if it has none yet.
    pub(crate) async fn find_hold(&self, address: &str) -> Result<Option<HoldId>, KeyError> {
        let index = self.index_of_hold(address);
        Ok(match self.read_of_leader(&index).await? {
            Some(KeyState::Key(key)) => Some(id_of(&key)),
            Some(KeyState::Erased) | None => None,
        })
    }

    /// As [`KeyStore::find_hold`]; makes an id if there is none.
    pub(crate) async fn find_or_make_hold(&self, address: &str) -> Result<HoldId, KeyError> {
        if let Some(id) = self.find_hold(address).await? {
            return Ok(id);
        }
        // Whether this process was first or another one: it is found now.
        self.put(&self.index_of_hold(address), &random_key()).await?;
        self.find_hold(address).await?.ok_or(KeyError::Unavailable(None))
    }

    /// Deletes the indexes of these holds.
    pub(crate) async fn forget_holds(&self, holds: &HashSet<HoldId>) -> Result<(), KeyError> {
        if holds.is_empty() {
            return Ok(());
        }
        let indexes: Vec<_> = self.records.names("*.hold.>").await?.into_iter().collect();
        for indexes in indexes.chunks(AT_ONCE) {
            for (index, state) in self.read_now(indexes).await? {
                if let KeyState::Key(key) = state
                    && holds.contains(&id_of(&key))
                {
                    self.records.delete(&index, &Place::OF_KEYS).await?;
                }
            }
        }
        Ok(())
    }
}
