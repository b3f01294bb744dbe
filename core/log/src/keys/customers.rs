//! The ids of customers, by their email addresses.
//!
//! An id says nothing of the address. A person is found by an index: a data key whose name is a
//! MAC of the address (`index.<mac>.1`), and from which the id is derived. It is written once, so
//! two first bookings of one address at once are of one customer. An erasure deletes it, and
//! leaves no tombstone: who comes back afterwards is somebody else. Until it is deleted, an index
//! whose customer is erased counts for nothing, and the next one does (`index.<mac>.2`).
//!
//! Customers of earlier releases have ids that were derived from the address and the link secret.
//! They keep them while the data key of such a customer is there.

use super::{
    records::{AT_ONCE, Place},
    store::{KeyState, KeyStore, name_of},
    wrapping::{OpenKey, random_key},
};
use crate::error::KeyError;
use exodrive_domain::{id::CustomerId, personal::KeyScope};
use std::collections::HashMap;
use uuid::Builder;

/// What the MACs of addresses, and the ids, are about.
const ABOUT: &str = "customer";
/// Indexes that one address has: one, and others while that of an erased customer is there.
const INDEXES: u32 = 4;
/// Attempts to make a customer while others do the same.
const ATTEMPTS: u32 = 20;

fn key_of(id: CustomerId) -> String {
    name_of(&KeyScope::Customer(id.to_string()))
}

fn id_of(index: &OpenKey) -> CustomerId {
    Builder::from_custom_bytes(index.mac(ABOUT, b"")).into_uuid().into()
}

impl KeyStore {
    fn indexes_of(&self, address: &str) -> Vec<String> {
        let mac = self.mac(ABOUT, address.as_bytes());
        (1..=INDEXES).map(|n| format!("index.{mac}.{n}")).collect()
    }

    /// The id of the customer with this address; `None` if there is none yet. `earlier`: the ids
    /// that earlier releases may have given them.
    pub(crate) async fn find_customer(
        &self,
        address: &str,
        earlier: &[CustomerId],
    ) -> Result<Option<CustomerId>, KeyError> {
        let indexes = self.indexes_of(address);
        let found = self.read_now(&indexes).await?;
        let ids: Vec<_> = indexes
            .iter()
            .filter_map(|index| match found.get(index)? {
                KeyState::Key(key) => Some(id_of(key)),
                KeyState::Erased => None,
            })
            .collect();
        if !ids.is_empty() {
            let keys: Vec<_> = ids.iter().map(|id| key_of(*id)).collect();
            let states = self.read_now(&keys).await?;
            let living = ids.into_iter().zip(&keys);
            let mut living =
                living.filter(|(_, key)| !matches!(states.get(*key), Some(KeyState::Erased)));
            if let Some((id, _)) = living.next() {
                return Ok(Some(id));
            }
        }
        for id in earlier {
            if self.has_key(&key_of(*id)).await? {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }

    /// As [`KeyStore::find_customer`]; makes the customer if there is none.
    pub(crate) async fn find_or_make_customer(
        &self,
        address: &str,
        earlier: &[CustomerId],
    ) -> Result<CustomerId, KeyError> {
        for _ in 0..ATTEMPTS {
            if let Some(id) = self.find_customer(address, earlier).await? {
                return Ok(id);
            }
            for index in self.indexes_of(address) {
                // Whether this process was first or another one: it is found now.
                if self.put(&index, &random_key()).await? {
                    break;
                }
                if !self.is_of_erased(&index).await? {
                    break;
                }
            }
        }
        Err(KeyError::Unavailable(None))
    }

    async fn is_of_erased(&self, index: &str) -> Result<bool, KeyError> {
        match self.read_now(&[index.to_owned()]).await?.get(index) {
            Some(KeyState::Key(key)) => {
                let key = key_of(id_of(key));
                let state = self.read_now(std::slice::from_ref(&key)).await?.remove(&key);
                Ok(matches!(state, Some(KeyState::Erased)))
            }
            Some(KeyState::Erased) => Ok(true),
            None => Ok(false),
        }
    }

    /// Deletes the indexes of customers who are erased.
    pub(crate) async fn forget_erased_customers(&self) -> Result<(), KeyError> {
        let indexes: Vec<_> = self.records.names("*.index.>").await?.into_iter().collect();
        for indexes in indexes.chunks(AT_ONCE) {
            let found = self.read_now(indexes).await?;
            let customers: HashMap<String, &String> = found
                .iter()
                .filter_map(|(index, state)| match state {
                    KeyState::Key(key) => Some((key_of(id_of(key)), index)),
                    KeyState::Erased => None,
                })
                .collect();
            let keys: Vec<_> = customers.keys().cloned().collect();
            for (key, state) in self.read_now(&keys).await? {
                if let (KeyState::Erased, Some(index)) = (state, customers.get(&key)) {
                    self.records.delete(index, &Place::OF_KEYS).await?;
                }
            }
        }
        Ok(())
    }
}
