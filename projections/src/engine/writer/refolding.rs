//! Rows that are being folded afresh, in a task beside the turn.

use crate::{
    Error,
    engine::{histories::KeyHistories, projection::Projection, store::refolds::Due},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Rows being folded afresh.
pub(super) struct Refold<P: Projection> {
    pub(super) wanted: Wanted,
    pub(super) task: AbortOnDropHandle<Result<KeyHistories<P>, Error>>,
}

/// Who wants it.
pub(super) enum Wanted {
    /// An operator, by this rebuild.
    Key(Uuid, String),
    /// An erasure, or several.
    Erased(Due),
}

impl<P: Projection> Refold<P> {
    pub(super) fn begin(wanted: Wanted, histories: KeyHistories<P>, until: u64) -> Self {
        let task = AbortOnDropHandle::new(tokio::spawn(histories.fold_until(until)));
        Self { wanted, task }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}
