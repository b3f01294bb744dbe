//! Facts about processes, users and binaries, from the operating system.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Path of `name` in PATH.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// `setpriv`, if it can tie a child's life to ours: servers then end even when this process is killed.
pub(super) fn life_line() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let setpriv = in_path("setpriv")?;
            let help = Command::new(&setpriv).arg("--help").output().ok()?;
            String::from_utf8_lossy(&help.stdout).contains("--pdeathsig").then_some(setpriv)
        })
        .as_deref()
}

/// The time that a stopped process gets to stand still: on a busy machine its threads go on for a moment.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Sends a signal to a process. Stop, continue and kill also reach its descendants, which a group would miss: Postgres
/// puts each of its processes in a session of its own. After a stop all of them stand still.
pub fn send(pid: u32, signal: Signal) -> nix::Result<()> {
    let tree = match signal {
        Signal::SIGKILL => {
            // A stopped parent starts no child between the listing and the kill.
            kill(raw(pid), Signal::SIGSTOP)?;
            descendants(pid)
        }
        Signal::SIGSTOP => {
            kill(raw(pid), Signal::SIGSTOP)?;
            descendants(pid)
        }
        Signal::SIGCONT => descendants(pid),
        _ => Vec::new(),
    };
    let result = kill(raw(pid), signal);
    for child in &tree {
        // The child may have ended meanwhile.
        let _ = kill(raw(*child), signal);
    }
    if signal == Signal::SIGSTOP {
        let began = Instant::now();
        let still = || tree.iter().chain([&pid]).all(|pid| stands_still(*pid));
        while !still() && began.elapsed() < STANDSTILL {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    result
}

/// True if no thread of the process runs: proc(5), state `T`, or the process has ended.
fn stands_still(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
        // The name in parentheses may itself hold spaces and parentheses.
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 'Z', 'X']))
    })
}

fn raw(pid: u32) -> Pid {
    // Zero and negative numbers mean whole groups to kill(2), so a number that does not fit must not become one.
    Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 1).unwrap_or(i32::MAX))
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    for child in
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
    {
        if let Some(parent) = parent_of(child) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).into_iter().flatten() {
            found.push(child);
            open.push(child);
        }
    }
    found
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// First line of a pid file as a number.
pub(super) fn read_pid(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()
}

/// True if the process is alive and its command line or its working folder
/// mentions one of the folders. A pid alone proves nothing: the number may
/// belong to another process by now.
fn works_in(pid: u32, folders: &[&Path]) -> bool {
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else {
        // It has ended, or is another user's.
        return false;
    };
    let command = String::from_utf8_lossy(&command);
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok();
    !command.is_empty()
        && folders.iter().any(|requested| {
            folder.as_ref().is_some_and(|at| at.starts_with(requested))
                || command.split('\0').any(|word| {
                    Path::new(word.rsplit('=').next().unwrap_or(word)).starts_with(requested)
                })
        })
}

/// Stops a server that an earlier, killed run left behind.
pub(super) fn stop_leftover(name: &str, pid: u32, signal: Signal, folders: &[&Path]) {
    if !works_in(pid, folders) {
        return;
    }
    tracing::warn!(service = name, pid, "stopping a leftover of an earlier run");
    let _ = send(pid, Signal::SIGCONT);
    let _ = send(pid, signal);
    let began = Instant::now();
    let mut killed = false;
    while works_in(pid, folders) && began.elapsed() < Duration::from_secs(15) {
        if !killed && began.elapsed() > Duration::from_secs(10) {
            let _ = send(pid, Signal::SIGKILL);
            killed = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
