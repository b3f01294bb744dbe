//! Has the log sealed while a worker runs, and says why if that stops.

use exodrive_audit::seal::{SealError, SealFault, Sealer};
use exodrive_runtime::error_chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often is looked whether there is something to do.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a last look may take.
const FINAL_SEAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Seals until `stop`.
pub async fn run(sealer: &Sealer, stop: &CancellationToken) {
    let mut reported = false;
    loop {
        let outcome = tokio::select! {
            outcome = sealer.work() => outcome,
            () = stop.cancelled() => break,
        };
        match outcome {
            Ok(()) => reported = false,
            Err(SealError::Fault(fault)) => halt(sealer, &fault).await,
            Err(error) if !reported => {
                reported = true;
                let error = error_chain(&error);
                tracing::warn!(error, "Cannot seal the log at the moment, will try again");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = stop.cancelled() => break,
        }
    }
    // Another worker need not wait for the lease to end.
    let _ = sealer.seals.leave_sealing(&sealer.worker).await;
}

/// Compares the log with its seals once more, for a worker that cannot go on:
/// a log that projections refuse may be one that somebody has changed.
pub async fn seal_before_stop(sealer: &Sealer) {
    let sealed = tokio::time::timeout(FINAL_SEAL_TIMEOUT, sealer.seal_new_events()).await;
    if let Ok(Err(SealError::Fault(fault))) = sealed {
        halt(sealer, &fault).await;
    }
    let _ = sealer.seals.leave_sealing(&sealer.worker).await;
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
