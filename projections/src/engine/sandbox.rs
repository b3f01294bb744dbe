//! A thread for code that may panic or never end: a projection's own code.

use crate::Error;
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tokio::sync::oneshot;

/// Bytes of stack for a fold: a fold that overflows it ends the process.
const STACK: usize = 8 << 20;
/// Time between two checks of a thread.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Marks the event that the code is at, and the row.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    position: AtomicU64,
    /// One more than the row's number; 0 if there is none yet.
    row: AtomicUsize,
}

impl Mark {
    pub(crate) fn at(&self, position: u64) {
        self.row.store(0, Ordering::Relaxed);
        self.position.store(position, Ordering::Relaxed);
    }

    pub(crate) fn set_row(&self, position: u64, row: usize) {
        self.position.store(position, Ordering::Relaxed);
        self.row.store(row + 1, Ordering::Relaxed);
    }

    fn place(&self) -> HungFold {
        let row = self.row.load(Ordering::Relaxed).checked_sub(1);
        HungFold { position: self.position.load(Ordering::Relaxed), row }
    }
}

const NOWHERE: HungFold = HungFold { position: 0, row: None };

type Job = Box<dyn FnOnce(&Mark) + Send>;

/// The event and row of a fold that did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HungFold {
    /// Position of the event; 0 if there was none.
    pub(crate) position: u64,
    /// Number of the row; `None` if the rows were not known yet.
    pub(crate) row: Option<usize>,
}

impl HungFold {
    /// Why a projection cannot go on after it.
    pub(crate) fn error(self, projection: &'static str) -> Error {
        Error::HungFold { projection, position: self.position }
    }
}

/// Runs jobs on a thread of its own, which is started when first needed.
pub(crate) struct Sandbox {
    /// Processor time that one event may take. It is not elapsed time: a thread that gets no
    /// processor is not at fault.
    limit: Duration,
    thread: Option<Thread>,
}

struct Thread {
    jobs: mpsc::Sender<Job>,
    id: i32,
    mark: Arc<Mark>,
}

impl Sandbox {
    /// A sandbox in which one event may take this much processor time.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, thread: None }
    }

    /// Runs a job and returns its result. A thread that hangs is abandoned at the lowest priority,
    /// because no thread can be stopped.
    ///
    /// # Errors
    /// [`HungFold`], with the event that the job last marked.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&Mark) -> T + Send + 'static,
    ) -> Result<T, HungFold> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start().await.ok_or(NOWHERE)?,
        };
        thread.mark.at(0);
        // What the thread has used for earlier jobs is no fault of this one.
        let mut seen = (NOWHERE, processor_time(thread.id));
        let (answer, mut answered) = oneshot::channel();
        let job: Job = Box::new(move |mark| drop(answer.send(job(mark))));
        if thread.jobs.send(job).is_err() {
            return Err(NOWHERE);
        }
        loop {
            match tokio::time::timeout(POLL_INTERVAL, &mut answered).await {
                Ok(Ok(value)) => {
                    self.thread = Some(thread);
                    return Ok(value);
                }
                // The thread panicked outside of the code whose panics are caught.
                Ok(Err(_)) => return Err(thread.mark.place()),
                Err(_) => {}
            }
            let at = thread.mark.place();
            let used = processor_time(thread.id);
            if at != seen.0 {
                seen = (at, used);
                continue;
            }
            let used = used.saturating_sub(seen.1);
            if used > self.limit {
                tracing::error!(
                    position = at.position,
                    row = at.row,
                    used_ms = used.as_millis(),
                    limit_ms = self.limit.as_millis(),
                    "A fold has used more processor time on one event than it may; its thread is \
                     left alone at the lowest priority"
                );
                lower_priority(thread.id);
                return Err(at);
            }
        }
    }
}

impl Thread {
    async fn start() -> Option<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell_id, id) = oneshot::channel();
        let mark = Arc::new(Mark::default());
        let own = mark.clone();
        let started =
            thread::Builder::new().name("fold".to_owned()).stack_size(STACK).spawn(move || {
                let _ = tell_id.send(nix::unistd::gettid().as_raw());
                while let Ok(job) = todo.recv() {
                    job(&own);
                }
            });
        started.ok()?;
        Some(Self { jobs, id: id.await.ok()?, mark })
    }
}

/// Processor time that a thread of this process has used: fields `utime` and `stime` of proc(5), in
/// hundredths of a second on Linux.
fn processor_time(thread: i32) -> Duration {
    // A thread that has ended has no such file, and uses no more time.
    let Ok(text) = fs::read_to_string(format!("/proc/self/task/{thread}/stat")) else {
        return Duration::ZERO;
    };
    // The second field, a name, may contain anything but ends with the last `)`.
    let fields = text.rsplit_once(')').map_or(&*text, |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// Linux accepts a thread's id instead of a process's here (setpriority(2)).
fn lower_priority(thread: i32) {
    if let Some(thread) = rustix::process::Pid::from_raw(thread) {
        let _ = rustix::process::setpriority_process(Some(thread), 19);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    /// Uses the processor for this long, as the kernel counts it.
    fn work(time: Duration) {
        let own = nix::unistd::gettid().as_raw();
        let before = processor_time(own);
        while processor_time(own) - before < time {
            std::hint::black_box(());
        }
    }

    #[tokio::test]
    async fn what_a_thread_did_before_does_not_make_its_next_job_hang() {
        let mut sandbox = Sandbox::new(LIMIT);
        for position in 1..=5 {
            let done = sandbox.run(move |mark| {
                mark.at(position);
                work(LIMIT / 2);
            });
            assert_eq!(done.await, Ok(()));
        }
        // Elapsed time does not count, and no event is marked yet.
        let slow = sandbox.run(|_| thread::sleep(3 * POLL_INTERVAL));
        assert_eq!(slow.await, Ok(()));
    }

    #[tokio::test]
    async fn the_limit_is_that_of_one_event() {
        let mut sandbox = Sandbox::new(LIMIT);
        let long = sandbox.run(|mark| {
            mark.at(4);
            work(4 * LIMIT);
        });
        assert_eq!(long.await, Err(HungFold { position: 4, row: None }));
        let mut sandbox = Sandbox::new(10 * LIMIT);
        let long = sandbox.run(|mark| {
            mark.at(4);
            work(4 * LIMIT);
        });
        assert_eq!(long.await, Ok(()));
    }

    #[tokio::test]
    async fn a_job_that_never_ends_is_left_and_the_next_one_runs() {
        let mut sandbox = Sandbox::new(LIMIT);
        assert_eq!(sandbox.run(|_| 1).await, Ok(1));
        let hung = sandbox.run(|mark| {
            mark.at(7);
            loop {
                std::hint::black_box(());
            }
            #[expect(unreachable_code, reason = "gives the loop a type")]
            0
        });
        assert_eq!(hung.await, Err(HungFold { position: 7, row: None }));
        assert_eq!(sandbox.run(|_| 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_is_reported_with_where_it_was() {
        let mut sandbox = Sandbox::new(LIMIT);
        let lost = sandbox.run(|mark| {
            mark.set_row(3, 1);
            if mark.place().position == 3 {
                panic!("a panic of a test");
            }
        });
        assert_eq!(lost.await, Err(HungFold { position: 3, row: Some(1) }));
        assert_eq!(sandbox.run(|_| 2).await, Ok(2));
    }
}
