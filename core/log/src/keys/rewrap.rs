//! Wraps data keys again by the newest wrapping key, so that an older one can be retired.

use super::{
    records::{AT_ONCE, Family, Place, Stored},
    store::{KeyStore, unwrap, wrapped},
};
use crate::error::KeyError;
use serde::Serialize;

/// What was found in the key store, and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewrapped {
    /// Keys that were wrapped again now.
    pub rewrapped: u64,
    /// Keys that the newest wrapping key had wrapped before.
    pub already: u64,
    /// Keys that are destroyed; there is nothing to wrap.
    pub destroyed: u64,
    /// The version of the wrapping key that wraps all of them now.
    pub version: u32,
}

/// What became of one key.
enum Outcome {
    Rewrapped,
    Already,
    Destroyed,
}

impl KeyStore {
    /// Wraps every key by the newest wrapping key: stores the new record, reads it back, and has
    /// the server overwrite the old ones on disk. May be interrupted at any point and repeated.
    /// Calls `progress` with the number of keys that are done, and of all.
    ///
    /// # Errors
    /// When the key store does not answer, when this user may not write there, or when a key is
    /// wrapped by a key that is not configured: it names the key.
    pub(crate) async fn rewrap(
        &self,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Rewrapped, KeyError> {
        let version = self.wrapping.newest().ok_or(KeyError::NoMacKey)?;
        let names = self.records.names(">").await?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut report = Rewrapped { version, ..Rewrapped::default() };
        let mut done = 0;
        for chunk in names.chunks(AT_ONCE) {
            let mut families = self.records.read(chunk).await?;
            for name in chunk {
                match self.rewrap_one(name, families.remove(*name).unwrap_or_default()).await? {
                    Outcome::Rewrapped => report.rewrapped += 1,
                    Outcome::Already => report.already += 1,
                    Outcome::Destroyed => report.destroyed += 1,
                }
                done += 1;
                progress(done, names.len() as u64);
            }
        }
        Ok(report)
    }

    async fn rewrap_one(&self, name: &str, mut family: Family) -> Result<Outcome, KeyError> {
        let newest = self.wrapping.newest();
        let mut outcome = Outcome::Already;
        loop {
            if self.is_erased(name, &family).await? {
                return Ok(Outcome::Destroyed);
            }
            let Some(record) = family.newest() else { return Ok(Outcome::Destroyed) };
            let stored = record.read(name)?;
            let key = unwrap(&self.wrapping, name, &stored)?;
            let (Some(key), Stored::Key { wrapped_by, .. }) = (key, &stored) else {
                return Err(KeyError::Doubtful(name.to_owned()));
            };
            if Some(*wrapped_by) == newest {
                let kept = record.place;
                let old: Vec<_> = Place::OF_KEYS.into_iter().filter(|it| *it != kept).collect();
                self.records.delete(name, &old).await?;
                return Ok(outcome);
            }
            let place = match record.place {
                Place::Wrapped(0) => Place::Wrapped(1),
                _ => Place::Wrapped(0),
            };
            // An interrupted turn has left an older record there.
            if family.at(place).is_some() {
                self.records.delete(name, &[place]).await?;
                family = self.records.read_of_leader(name).await?;
                continue;
            }
            let again = wrapped(&self.wrapping, name, &key)?;
            if self.records.publish(place, name, &again, family.last()).await? {
                outcome = Outcome::Rewrapped;
            }
            // The new record must open before the old one goes.
            family = self.records.read_of_leader(name).await?;
        }
    }
}
