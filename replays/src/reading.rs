//! Reads the events of keys from the log.

use exodrive_domain::Recorded;
use exodrive_log::{Log, ReadError};
use exodrive_projections::Projection;
use std::time::Duration;

/// Called now and then with the position that a reading has reached, and the position at which it
/// ends.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Events held at a time.
pub(crate) const BATCH: usize = 2_000;
/// Time without an event after which a read of events that the log holds fails.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A long reading continues after this many failures, with a pause after each.
const ATTEMPTS: u32 = 5;
const RETRY_DELAY: Duration = Duration::from_millis(300);

/// The filters of the subjects that a projection reads.
pub(crate) fn filters<P: Projection>() -> Vec<String> {
    P::SUBJECTS.iter().map(|prefix| format!("{prefix}>")).collect()
}

/// Passes to `each` the events after `from`, up to and including `to`, whose subject is one of
/// `filters`, in log order, and holds few of them at a time.
pub(crate) async fn read_filtered(
    log: &Log,
    filters: &[String],
    from: u64,
    to: u64,
    progress: Progress<'_>,
    mut each: impl FnMut(Recorded),
) -> Result<(), ReadError> {
    let mut last = 0;
    for filter in filters {
        last = last.max(log.last_position_under(filter).await?.unwrap_or(0));
    }
    let last = last.min(to);
    let mut reader = log.reader_of(filters, from + 1);
    let (mut position, mut failures) = (from, 0);
    while position < last {
        let batch = match reader.next_batch(BATCH, READ_TIMEOUT).await {
            Ok(batch) if batch.events.is_empty() => Err(ReadError::Unavailable(
                format!("no event came within {} s", READ_TIMEOUT.as_secs()).into(),
            )),
            outcome => outcome,
        };
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) if error.outage().is_some() && failures < ATTEMPTS => {
                failures += 1;
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        failures = 0;
        for event in batch.events {
            position = event.position;
            if position <= to {
                each(event);
            }
        }
        progress(position.min(to), to);
        // Other tasks come before a long reading.
        tokio::task::yield_now().await;
    }
    Ok(())
}
