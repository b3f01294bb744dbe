//! One reading of the log for all projections of a worker: each event is
//! fetched and decoded once, however many fold it.

use exodrive_domain::{DecodeError, Payload, Recorded, decode};
use exodrive_log::{Log, ReadError, Reader};
use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Events in a batch, at most.
const BATCH: usize = 4_000;
/// Bytes of bodies that are cached for projections that are behind the foremost one. A projection
/// that is further behind reads for itself.
const WINDOW_BYTES: usize = 64 << 20;

/// An event, and its decoded payload.
pub(crate) struct Decoded {
    pub(crate) recorded: Recorded,
    pub(crate) payload: Result<Payload, DecodeError>,
}

impl From<Recorded> for Decoded {
    fn from(recorded: Recorded) -> Self {
        // Reading a body is our own code too; its defects park an event.
        let payload = catch_unwind(AssertUnwindSafe(|| decode(&recorded)));
        let payload = payload.unwrap_or_else(|_| {
            let reason = "reading it panicked; see the worker's log".to_owned();
            Err(DecodeError::Body { kind: recorded.envelope.kind.clone(), reason })
        });
        Self { payload, recorded }
    }
}

struct Batch {
    events: Vec<Decoded>,
    pending: u64,
    bytes: usize,
}

/// Consecutive events from a subscription's position on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    batch: Arc<Batch>,
    /// The index of the first of them; at most the number of events in the batch.
    from: usize,
}

impl Events {
    /// Events that were not read consecutively.
    pub(crate) fn of(events: Vec<Decoded>) -> Self {
        Self { batch: Arc::new(Batch { events, pending: 0, bytes: 0 }), from: 0 }
    }

    pub(crate) fn all(&self) -> &[Decoded] {
        &self.batch.events[self.from..]
    }

    /// Number of later events in the log when the last one was read.
    pub(crate) fn pending(&self) -> u64 {
        self.batch.pending
    }
}

/// One reading of the log that several projections share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Feed(Arc<Shared>);

struct Shared {
    log: Log,
    /// Reads beyond the window. Held while reading, so that one projection reads and the others get
    /// the same events.
    tip: tokio::sync::Mutex<Option<Reader>>,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// The position that the reader at the tip reads next. It is here because the holder of the tip
    /// may wait for long, and a projection that is behind must not wait with it.
    tip: u64,
    /// The next position of each subscription.
    needed: HashMap<u64, u64>,
    subscriptions: u64,
}

/// One projection's position in the feed.
pub(crate) struct Subscription {
    feed: Feed,
    id: u64,
    next: u64,
    /// Events up to here are not taken from the window.
    again_until: u64,
    /// Reads events that have left the window.
    own: Option<Reader>,
}

impl Feed {
    pub(crate) fn new(log: Log) -> Self {
        let (tip, window) = (tokio::sync::Mutex::new(None), Mutex::default());
        Self(Arc::new(Shared { log, tip, window }))
    }

    /// Begins to read at `position`.
    pub(crate) fn subscribe(&self, position: u64) -> Subscription {
        let mut window = self.window();
        window.subscriptions += 1;
        let id = window.subscriptions;
        window.needed.insert(id, position);
        drop(window);
        Subscription { feed: self.clone(), id, next: position, again_until: 0, own: None }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.0.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn find_batch(&self, position: u64) -> Option<Events> {
        let batch = self.batches.iter().find(|batch| last(batch) >= position)?;
        if batch.events.first()?.recorded.position > position {
            return None;
        }
        let from = batch.events.partition_point(|event| event.recorded.position < position);
        Some(Events { batch: batch.clone(), from })
    }

    /// Drops batches that no subscription needs any more, and the oldest beyond the limit.
    fn trim(&mut self) {
        let needed = self.needed.values().min().copied().unwrap_or(u64::MAX);
        while let Some(oldest) = self.batches.front()
            && (last(oldest) < needed || self.bytes > WINDOW_BYTES)
        {
            self.bytes -= oldest.bytes;
            self.batches.pop_front();
        }
    }
}

fn last(batch: &Batch) -> u64 {
    batch.events.last().map_or(0, |event| event.recorded.position)
}

async fn read_batch(reader: &mut Reader, wait: Duration) -> Result<Arc<Batch>, ReadError> {
    let batch = reader.next_batch(BATCH, wait).await?;
    let bytes = batch.events.iter().map(|event| event.body.len()).sum();
    let events = batch.events.into_iter().map(Decoded::from).collect();
    Ok(Arc::new(Batch { events, pending: batch.pending, bytes }))
}

impl Subscription {
    /// From now on takes no event up to this position from the window: it may have been erased
    /// since it was read.
    pub(crate) fn read_again(&mut self, until: u64) {
        self.again_until = self.again_until.max(until);
    }

    /// The next events; `None` if none came within `wait`.
    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<Events>, ReadError> {
        let events = self.read_next(wait).await?;
        if let Some(event) = events.as_ref().and_then(|events| events.all().last()) {
            self.next = event.recorded.position + 1;
        }
        let mut window = self.feed.window();
        window.needed.insert(self.id, self.next);
        window.trim();
        Ok(events.filter(|events| !events.all().is_empty()))
    }

    async fn read_next(&mut self, wait: Duration) -> Result<Option<Events>, ReadError> {
        if let Some(place) = self.place() {
            return self.read_at(place, wait).await;
        }
        let shared = self.feed.0.clone();
        let Ok(mut tip) = tokio::time::timeout(wait, shared.tip.lock()).await else {
            return Ok(None);
        };
        // The previous holder of the tip may have read these events.
        if let Some(place) = self.place() {
            drop(tip);
            return self.read_at(place, wait).await;
        }
        self.own = None;
        if tip.is_none() || self.feed.window().tip != self.next {
            *tip = Some(shared.log.reader(self.next));
            self.feed.window().tip = self.next;
        }
        let Some(reader) = tip.as_mut() else { return Ok(None) };
        let batch = match read_batch(reader, wait).await {
            Ok(batch) => batch,
            Err(error) => {
                *tip = None;
                self.feed.window().tip = 0;
                return Err(error);
            }
        };
        if batch.events.is_empty() {
            return Ok(None);
        }
        let mut window = self.feed.window();
        window.tip = last(&batch) + 1;
        window.bytes += batch.bytes;
        window.batches.push_back(batch.clone());
        Ok(Some(Events { batch, from: 0 }))
    }

    /// The place of the next event; `None` at the tip.
    fn place(&self) -> Option<ReadFrom> {
        let window = self.feed.window();
        let may_take = self.next > self.again_until;
        let held = may_take.then(|| window.find_batch(self.next)).flatten().map(ReadFrom::Window);
        held.or_else(|| (self.next < window.tip).then_some(ReadFrom::Behind))
    }

    async fn read_at(
        &mut self,
        place: ReadFrom,
        wait: Duration,
    ) -> Result<Option<Events>, ReadError> {
        match place {
            ReadFrom::Window(events) => {
                self.own = None;
                Ok(Some(events))
            }
            ReadFrom::Behind => {
                let own = self.own.get_or_insert_with(|| self.feed.0.log.reader(self.next));
                let batch = read_batch(own, wait).await?;
                Ok(Some(Events { batch, from: 0 }))
            }
        }
    }
}

/// The place of events that were read before.
enum ReadFrom {
    Window(Events),
    Behind,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut window = self.feed.window();
        window.needed.remove(&self.id);
        window.trim();
    }
}
