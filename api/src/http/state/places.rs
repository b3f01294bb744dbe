//! Places of users: how much of one kind each may have in progress at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The places of every user. Cheap to clone.
#[derive(Clone)]
pub struct Places {
    most: usize,
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// A place of a user, until it is dropped.
pub(crate) struct Place {
    places: Places,
    user: String,
}

impl Places {
    /// Each user has at most so many.
    pub fn of_each(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A place of this user, if there is one left.
    pub(crate) fn take(&self, user: &str) -> Option<Place> {
        let mut taken = self.taken();
        let count = taken.entry(user.to_owned()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { places: self.clone(), user: user.to_owned() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_so_many_places_and_leaves_nothing_behind() {
        let places = Places::of_each(2);
        let of_ada = [places.take("ada").unwrap(), places.take("ada").unwrap()];
        assert!(places.take("ada").is_none());
        let of_bob = places.take("bob");
        assert!(of_bob.is_some());
        drop(of_ada);
        assert!(places.take("ada").is_some());
        drop(of_bob);
        assert!(places.taken().is_empty());
    }
}
