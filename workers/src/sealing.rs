//! Seals the log while the process runs, and says why if that stops.

use crate::{Next, StepError, System, Worker};
use exodrive_audit::{
    seal::{SealError, SealFault, Sealer, Session},
    store::SealStore,
};
use exodrive_runtime::error_chain;
use std::time::Duration;

/// The pause while another process seals, or sealing has halted.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The time limit of the last comparison.
const LAST_COMPARISON: Duration = Duration::from_secs(60);

/// Seals the log.
pub struct Sealing {
    sealer: Sealer,
    session: Option<Session>,
}

impl Worker for Sealing {
    const NAME: &'static str = "sealing";
    const ABOUT: &'static str =
        "Seals the log: Merkle tree, signed checkpoints, rolling comparison.";

    fn new(system: &System) -> Self {
        let sealer = Sealer {
            log: system.log.clone(),
            seals: SealStore::of(&system.database),
            keys: system.seal_keys.clone(),
            interval: system.seal_interval,
            worker: system.process.clone(),
        };
        Self { sealer, session: None }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        match self.sealer.step(&mut self.session).await {
            Ok(()) => {}
            // It is known, and no retry repairs it.
            Err(SealError::Fault(fault)) => halt(&self.sealer, &fault).await,
            Err(error) => {
                // Another process seals, or fails too and shows it.
                self.stop().await;
                return Err(error.into());
            }
        }
        Ok(if self.session.is_some() { Next::Now } else { Next::After(POLL_INTERVAL) })
    }

    async fn stop(&mut self) {
        // Another process need not wait for the lease to end.
        let _ = self.sealer.seals.leave_sealing(&self.sealer.worker).await;
    }
}

/// Compares the log with its seals once more, for a process that cannot go on: a
/// log that projections refuse may be one that somebody has changed.
pub async fn compare_once_more(system: &System) {
    let mut sealing = Sealing::new(system);
    let compared = tokio::time::timeout(LAST_COMPARISON, sealing.sealer.compare_newest()).await;
    if let Ok(Err(SealError::Fault(fault))) = compared {
        halt(&sealing.sealer, &fault).await;
    }
    sealing.stop().await;
}

async fn halt(sealer: &Sealer, fault: &SealFault) {
    if let Err(error) = sealer.halt(fault).await {
        let error = error_chain(&error);
        tracing::warn!(error, "Cannot keep the reason for which sealing has halted");
    }
    tracing::error!(
        position = fault.position(),
        reason = fault.to_string(),
        "Sealing has halted. Find out what happened (`exodrive audit verify --live`), then `exodrive audit unhalt --reason ...`"
    );
}
