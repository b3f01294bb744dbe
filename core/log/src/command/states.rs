//! The states that this process caches.

use super::state::{DecisionState, Loaded};
use exodrive_domain::Subject;
use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Half of the greatest number of cached states: the cache has two generations
/// of this many.
const GENERATION: usize = 4_096;

/// The subject and type of a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) subject: Arc<str>,
    pub(super) name: &'static str,
    pub(super) version: u32,
}

impl Key {
    pub(super) fn new<S: DecisionState>(subject: &Subject) -> Self {
        Self { subject: subject.to_string().into(), name: S::NAME, version: S::VERSION }
    }
}

/// A state of any type, and its position.
#[derive(Clone)]
struct CachedState {
    state: Arc<dyn Any + Send + Sync>,
    position: u64,
}

/// The states that were used last.
#[derive(Default)]
pub(super) struct States {
    generations: Mutex<Generations>,
}

/// A state that is used moves to the young generation. When that is full, the
/// old generation is dropped and the young one becomes the old one.
#[derive(Default)]
struct Generations {
    young: HashMap<Key, CachedState>,
    old: HashMap<Key, CachedState>,
}

impl States {
    pub(super) fn get<S: DecisionState>(&self, key: &Key) -> Option<Loaded<S>> {
        let mut generations = self.lock();
        let saved = match generations.young.get(key) {
            Some(saved) => saved.clone(),
            None => {
                let saved = generations.old.remove(key)?;
                let _gone = generations.insert(key, saved.clone());
                saved
            }
        };
        Some(Loaded { state: saved.state.downcast().ok()?, position: saved.position })
    }

    /// Caches a state, unless a newer one is cached.
    pub(super) fn keep<S: DecisionState>(&self, key: &Key, loaded: &Loaded<S>) {
        let saved = CachedState { state: loaded.state.clone(), position: loaded.position };
        // Dropped when the lock is no longer held.
        let _gone;
        let mut generations = self.lock();
        let known = generations.young.get(key).or_else(|| generations.old.get(key));
        if known.is_none_or(|known| known.position <= saved.position) {
            generations.old.remove(key);
            _gone = generations.insert(key, saved);
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        let mut generations = self.lock();
        generations.young.remove(key);
        generations.old.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Returns the states that are no longer cached.
    fn insert(&mut self, key: &Key, saved: CachedState) -> HashMap<Key, CachedState> {
        let mut gone = HashMap::new();
        if self.young.len() >= GENERATION {
            gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        self.young.insert(key.clone(), saved);
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exodrive_domain::KnownEvent;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Default, Serialize, Deserialize)]
    struct Nothing;

    impl DecisionState for Nothing {
        const NAME: &'static str = "nothing";
        const VERSION: u32 = 1;

        fn evolve(&mut self, _: &KnownEvent<'_>) {}
    }

    fn key(n: usize) -> Key {
        Key::new::<Nothing>(&Subject::Email(format!("em-{n}").parse().unwrap()))
    }

    fn at(position: u64) -> Loaded<Nothing> {
        Loaded { position, ..Loaded::default() }
    }

    #[test]
    fn what_is_used_stays_and_the_number_is_bounded() {
        let states = States::default();
        for n in 0..5 * GENERATION {
            states.keep(&key(n), &at(1));
            assert!(states.get::<Nothing>(&key(0)).is_some(), "{n}");
        }
        let generations = states.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
        assert!(!generations.young.contains_key(&key(1)));
    }

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let states = States::default();
        states.keep(&key(0), &at(7));
        states.keep(&key(0), &at(6));
        assert_eq!(states.get::<Nothing>(&key(0)).unwrap().position, 7);
        states.remove(&key(0));
        assert!(states.get::<Nothing>(&key(0)).is_none());
    }
}
