//! Rows that are being folded again, in a task beside the writer.

use crate::{
    Error,
    engine::{histories::KeyHistories, projection::Projection, store::refolds::Due},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Rows that are being folded again.
pub(super) struct Refold<P: Projection> {
    pub(super) source: RefoldSource,
    pub(super) task: AbortOnDropHandle<Result<KeyHistories<P>, Error>>,
}

/// The requester.
pub(super) enum RefoldSource {
    /// An operator, by this rebuild.
    Key(Uuid, String),
    /// An erasure, or several.
    Erased(Due),
}

impl RefoldSource {
    /// The rows that are to be folded again.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        let (key, due) = match self {
            Self::Key(_, key) => (Some(key), None),
            Self::Erased(due) => (None, Some(due.rows.keys())),
        };
        key.into_iter().chain(due.into_iter().flatten())
    }
}

impl<P: Projection> Refold<P> {
    pub(super) fn new(source: RefoldSource, histories: KeyHistories<P>, until: u64) -> Self {
        let task = AbortOnDropHandle::new(tokio::spawn(histories.fold_until(until)));
        Self { source, task }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}
