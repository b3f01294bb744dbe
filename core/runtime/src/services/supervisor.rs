//! Supervises one child process: starts it again whenever it ends.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::process;

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// The destination of a child's output.
#[derive(Clone, Debug)]
pub enum Output {
    /// Both streams are those of this process.
    Inherit,
    /// Both streams are appended to this file.
    File(PathBuf),
}

/// A command to supervise.
#[derive(Clone)]
pub struct ProcessSpec {
    /// Name in log lines.
    pub name: String,
    /// Binary to run.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables on top of the environment of this process.
    pub env: Vec<(OsString, OsString)>,
    /// Variables that it does not get from the environment of this process.
    pub without: Vec<OsString>,
    /// Working folder, if not the current one.
    pub folder: Option<PathBuf>,
    /// The destination of its output.
    pub output: Output,
    /// User and group to run as, if not the current ones; needs root.
    pub user: Option<(u32, u32)>,
    /// Signal that asks it to end cleanly.
    pub stop_signal: Signal,
    /// Time it gets to end after that signal, then it is killed.
    pub grace: Duration,
}

impl ProcessSpec {
    /// A command with no arguments that writes to our own output and ends on SIGTERM within ten seconds.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            without: Vec::new(),
            folder: None,
            output: Output::Inherit,
            user: None,
            stop_signal: Signal::SIGTERM,
            grace: Duration::from_secs(10),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Takes a variable from the environment.
    #[must_use]
    pub fn without(mut self, name: impl Into<OsString>) -> Self {
        self.without.push(name.into());
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = match process::life_line() {
            Some(setpriv) => {
                // Checked here because setpriv would report it only in its exit status.
                if self.program.components().count() > 1 && !self.program.is_file() {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        format!("{} does not exist", self.program.display()),
                    ));
                }
                let mut command = Command::new(setpriv);
                command
                    .arg("--pdeathsig")
                    .arg(self.stop_signal.as_str())
                    .arg("--")
                    .arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        for name in &self.without {
            command.env_remove(name);
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if let Output::File(file) = &self.output {
            let log = OpenOptions::new().create(true).append(true).open(file)?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.spawn()
    }
}

#[derive(Default)]
struct State {
    pid: Option<u32>,
    restarts: u32,
    stopping: bool,
    finished: bool,
}

/// A child process in its own process group that is started again when it dies unexpectedly. Dropping this kills it.
pub struct Supervised {
    name: String,
    stop_signal: Signal,
    grace: Duration,
    state: watch::Sender<State>,
    wake: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a command and keeps it running; fails if it cannot be started at all.
///
/// A thread watches each child, not a task, so that a child outlives the runtime that started it: tests share servers
/// and each test has a runtime of its own.
pub fn supervise(spec: ProcessSpec) -> io::Result<Supervised> {
    let (state, _) = watch::channel(State::default());
    let (wake, woken) = mpsc::channel();
    let (started, first) = mpsc::sync_channel(1);
    let (name, stop_signal, grace) = (spec.name.clone(), spec.stop_signal, spec.grace);
    let shared = state.clone();
    let thread = std::thread::Builder::new().name(format!("watch-{name}")).spawn(move || {
        keep_running(&spec, &shared, &woken, started);
        shared.send_modify(|state| state.finished = true);
    })?;
    let supervised = Supervised { name, stop_signal, grace, state, wake, thread: Some(thread) };
    match first.recv() {
        Ok(Ok(())) => Ok(supervised),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the watching thread ended")),
    }
}

fn keep_running(
    spec: &ProcessSpec,
    shared: &watch::Sender<State>,
    woken: &Receiver<()>,
    started: SyncSender<io::Result<()>>,
) {
    let mut started = Some(started);
    let mut backoff = FIRST_BACKOFF;
    loop {
        let began = Instant::now();
        match spawn(spec, shared) {
            None => return,
            Some(Ok(mut child)) => {
                if let Some(started) = started.take() {
                    let _ = started.send(Ok(()));
                }
                let status = child.wait();
                let mut stopping = false;
                shared.send_modify(|state| {
                    state.pid = None;
                    stopping = state.stopping;
                });
                if stopping {
                    return;
                }
                if began.elapsed() >= HEALTHY_AFTER {
                    backoff = FIRST_BACKOFF;
                }
                let status =
                    status.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::warn!(
                    process = spec.name,
                    %status,
                    again_in_ms = backoff.as_millis(),
                    "ended unexpectedly"
                );
            }
            Some(Err(error)) => {
                if let Some(started) = started.take() {
                    let _ = started.send(Err(error));
                    return;
                }
                tracing::warn!(process = spec.name, %error, again_in_ms = backoff.as_millis(), "cannot be started");
            }
        }
        if !matches!(woken.recv_timeout(backoff), Err(RecvTimeoutError::Timeout)) {
            return;
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        shared.send_modify(|state| state.restarts += 1);
    }
}

/// Starts the child unless it must stop. The state is locked meanwhile: a
/// caller that sets `stopping` afterwards sees the pid.
fn spawn(spec: &ProcessSpec, shared: &watch::Sender<State>) -> Option<io::Result<Child>> {
    let mut result = None;
    shared.send_modify(|state| {
        if !state.stopping {
            let child = spec.spawn();
            state.pid = child.as_ref().ok().map(Child::id);
            result = Some(child);
        }
    });
    result
}

impl Supervised {
    /// Name of the command, as in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of the child, unless it is between two lives or stopped for good.
    pub fn pid(&self) -> Option<u32> {
        self.state.borrow().pid
    }

    /// The number of restarts.
    pub fn restarts(&self) -> u32 {
        self.state.borrow().restarts
    }

    /// Sends a signal to the child; false if it does not run now. Stop, continue and kill also reach its descendants.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        // The lock is held until the signal is sent, so that the pid is not forgotten and reused in between.
        let state = self.state.borrow();
        match state.pid {
            Some(pid) => process::send(pid, signal).map(|()| true).map_err(io::Error::from),
            None => Ok(false),
        }
    }

    /// Ends the child for good: asks it to, waits, and kills it when the time is up.
    pub async fn stop(&self) {
        self.ask_to_stop();
        if tokio::time::timeout(self.grace, self.finished()).await.is_err() {
            tracing::warn!(process = self.name, grace = ?self.grace, "did not end in time, killing it");
            let _ = self.signal(Signal::SIGKILL);
            self.finished().await;
        }
    }

    fn ask_to_stop(&self) {
        self.state.send_modify(|state| state.stopping = true);
        let _ = self.wake.send(());
        let _ = self.signal(self.stop_signal);
        // A stopped process gets its signal only when it continues.
        let _ = self.signal(Signal::SIGCONT);
    }

    async fn finished(&self) {
        let mut changes = self.state.subscribe();
        // Fails only without a sender, and we are one.
        let _ = changes.wait_for(|state| state.finished).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.state.send_modify(|state| state.stopping = true);
        let _ = self.wake.send(());
        let _ = self.signal(Signal::SIGKILL);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
