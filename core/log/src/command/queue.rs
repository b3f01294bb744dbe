//! One command at a time about each subject, in the order they came.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// A lock for each subject that a command holds or waits for.
#[derive(Default)]
pub(super) struct Queues {
    locks: Mutex<HashMap<Arc<str>, Lock>>,
}

/// A subject's lock; given back when dropped.
pub(super) struct Turn<'a> {
    queues: &'a Queues,
    subject: Arc<str>,
    lock: Lock,
    held: Option<OwnedMutexGuard<()>>,
}

impl Queues {
    /// Waits until no other command holds the subject.
    pub(super) async fn turn(&self, subject: &Arc<str>) -> Turn<'_> {
        let lock = self.locks().entry(subject.clone()).or_default().clone();
        // Made before the wait, so that its drop removes a lock that no command
        // waits for any longer.
        let mut turn = Turn { queues: self, subject: subject.clone(), lock, held: None };
        turn.held = Some(turn.lock.clone().lock_owned().await);
        turn
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<Arc<str>, Lock>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.held = None;
        let mut locks = self.queues.locks();
        // The map's and this one. Others are made only under the map's lock.
        if Arc::strong_count(&self.lock) == 2 {
            locks.remove(&self.subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_lock_is_removed_with_its_last_waiter() {
        let queues = Queues::default();
        let subject: Arc<str> = "exo.test".into();
        let first = queues.turn(&subject).await;
        assert!(queues.turn(&subject).now_or_never().is_none(), "held twice");
        assert_eq!(queues.locks().len(), 1);
        let mut second = Box::pin(queues.turn(&subject));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let second = second.await;
        assert_eq!(queues.locks().len(), 1);
        drop(second);
        assert!(queues.locks().is_empty());
    }
}
