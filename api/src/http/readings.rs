//! How much of the log may be read and folded at a time for answers: each takes a thread, and the
//! time that its events take.

use super::problem::{ApiError, Code};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Events that take one unit of what may be read at a time.
const EVENTS: u64 = 1_000;
/// Units that a reading of everything takes, and the most that any takes.
const EVERYTHING: u32 = 10;
/// Units: two readings of everything, or twenty of a thousand events.
const UNITS: usize = 20;
/// Seconds after which a refused request may be sent again.
const RETRY_AFTER: u64 = 5;

/// The readings in progress. Cheap to clone.
#[derive(Clone)]
pub struct Readings(Arc<Semaphore>);

/// The room of a reading, until it is dropped.
pub(super) type Room = OwnedSemaphorePermit;

impl Default for Readings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNITS)))
    }
}

impl Readings {
    /// Room to read everything.
    ///
    /// # Errors
    /// 503 if others read too much at the moment.
    pub(super) fn of_everything(&self) -> Result<Room, ApiError> {
        self.take(EVERYTHING)
    }

    /// Room to read so many events.
    ///
    /// # Errors
    /// As [`Readings::of_everything`].
    pub(super) fn of_events(&self, events: u64) -> Result<Room, ApiError> {
        let units = u32::try_from(events / EVENTS).unwrap_or(EVERYTHING);
        self.take(units.min(EVERYTHING))
    }

    fn take(&self, units: u32) -> Result<Room, ApiError> {
        self.0.clone().try_acquire_many_owned(units).map_err(|_| {
            let detail = "Others are reading much of the log; this request would have to, too.";
            let mut error = ApiError::new(Code::Busy, detail);
            error.retry_after = Some(RETRY_AFTER);
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_take_room_by_their_events() {
        let readings = Readings::default();
        let small: Vec<_> = (0..100).map(|_| readings.of_events(999).unwrap()).collect();
        let large = readings.of_events(7_000_000).unwrap();
        let everything = readings.of_everything().unwrap();
        let busy = readings.of_events(1_000).unwrap_err();
        assert_eq!((busy.code, busy.retry_after), (Code::Busy, Some(RETRY_AFTER)));
        drop(large);
        let some: Vec<_> = (0..5).map(|_| readings.of_events(2_500).unwrap()).collect();
        assert!(readings.of_everything().is_err());
        drop((small, everything, some));
        assert_eq!(readings.0.available_permits(), UNITS);
    }
}
