//! Reads the events of keys from the log.

use exodrive_domain::Recorded;
use exodrive_log::{Log, ReadError, Reader};
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
    let mut reading = Reading::begin(log, filters, from, to).await?;
    while let Some(events) = reading.next().await? {
        events.into_iter().for_each(&mut each);
        progress(reading.position.min(to), to);
        // Other tasks come before a long reading.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Reads the events of some subjects, in log order, a batch at a time.
pub(crate) struct Reading {
    reader: Reader,
    /// The last position that was read.
    pub(crate) position: u64,
    /// The last position at which an event can be expected.
    last: u64,
    to: u64,
}

impl Reading {
    /// A reading of the events after `from`, up to and including `to`, whose subject is one of
    /// `filters`.
    pub(crate) async fn begin(
        log: &Log,
        filters: &[String],
        from: u64,
        to: u64,
    ) -> Result<Self, ReadError> {
        let mut last = 0;
        for filter in filters {
            last = last.max(log.last_position_under(filter).await?.unwrap_or(0));
        }
        let reader = log.reader_of(filters, from + 1);
        Ok(Self { reader, position: from, last: last.min(to), to })
    }

    /// The next events; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Recorded>>, ReadError> {
        let mut failures = 0;
        while self.position < self.last {
            let error = match self.reader.next_batch(BATCH, READ_TIMEOUT).await {
                Ok(batch) => match batch.events.last() {
                    Some(newest) => {
                        self.position = newest.position;
                        let mut events = batch.events;
                        events.retain(|event| event.position <= self.to);
                        return Ok(Some(events));
                    }
                    None => ReadError::Unavailable(
                        format!("no event came within {} s", READ_TIMEOUT.as_secs()).into(),
                    ),
                },
                Err(error) => error,
            };
            if error.outage().is_none() || failures == ATTEMPTS {
                return Err(error);
            }
            failures += 1;
            tokio::time::sleep(RETRY_DELAY).await;
        }
        Ok(None)
    }
}
