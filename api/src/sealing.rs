//! Has the log sealed while a worker runs, and says why if that stops.

use exodrive_replays::seal::{SealError, Sealer};
use exodrive_runtime::error_chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often is looked whether there is something to do.
const LOOK: Duration = Duration::from_secs(1);

/// Seals until `stop`. `looked` is cancelled once the log has been compared
/// with its newest seals, whatever came of it.
pub async fn run(sealer: Sealer, looked: CancellationToken, stop: CancellationToken) {
    let mut told = false;
    loop {
        let outcome = tokio::select! {
            outcome = sealer.work(&looked) => outcome,
            () = stop.cancelled() => break,
        };
        match outcome {
            Ok(()) => told = false,
            Err(SealError::Fault(fault)) => {
                if let Err(error) = sealer.halt(&fault).await {
                    let error = error_chain(&error);
                    tracing::warn!(error, "Cannot keep the reason for which sealing has halted");
                }
                tracing::error!(
                    position = fault.position(),
                    reason = fault.to_string(),
                    "Sealing has halted. Find out what happened (`exodrive audit verify --live`), then `exodrive audit unhalt --reason ...`"
                );
                looked.cancel();
            }
            Err(error) if !told => {
                told = true;
                let error = error_chain(&error);
                tracing::warn!(error, "Cannot seal the log at the moment, will try again");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => break,
        }
    }
    // Another worker need not wait for the lease to end.
    let _ = sealer.database.leave_sealing(&sealer.worker).await;
}
