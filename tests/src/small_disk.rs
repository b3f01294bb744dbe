//! A disk of Postgres that is full when a test wants it to be.

use crate::World;
use exodrive_runtime::services::Service;
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// The size of the file system that is mounted.
const SIZE: &str = "160m";
/// The size of a file beyond which nothing is written, where none can be mounted: much less than the
/// server's own log has.
const FILE: u64 = 64 << 10;
/// The time between two looks for new processes of the server.
const LOOK: Duration = Duration::from_millis(20);

/// The disk of a private Postgres. Dropping it gives the space back.
pub enum SmallDisk {
    /// A file system of its own, in the server's folder.
    Mounted(PathBuf),
    /// Where none can be mounted: the server's processes can write no file beyond a size while it is
    /// set.
    Limited(Arc<Limit>),
}

/// What keeps the processes of a server from writing.
#[derive(Default)]
pub struct Limit {
    is_set: AtomicBool,
    /// The process that has started the others; 0 while there is none.
    postmaster: AtomicU32,
    is_over: AtomicBool,
}

impl SmallDisk {
    /// Moves the data of a world's Postgres onto a small file system, while the server is stopped.
    /// Where none can be mounted, it says so, and limits what the server can write.
    ///
    /// # Panics
    /// When the data cannot be moved.
    #[expect(clippy::print_stdout, reason = "the output of a test says how it was made")]
    pub async fn of_postgres(world: &World) -> Self {
        let folder = world.data_dir().join("postgres").canonicalize().unwrap();
        let kept = folder.with_extension("kept");
        world.services.stop_service(Service::Postgres).await.unwrap();
        copy(&folder, &kept);
        let options = format!("size={SIZE},mode=0700");
        let mounting = ["-t", "tmpfs", "-o", &options, "none"];
        let mounted = Command::new("mount").args(mounting).arg(&folder).output();
        let refused = match mounted {
            Ok(done) if done.status.success() => None,
            Ok(done) => Some(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let disk = match refused {
            None => {
                copy(&kept, &folder);
                Self::Mounted(folder)
            }
            Some(reason) => {
                println!(
                    "No file system can be mounted here ({reason}): Postgres is kept from writing to its files"
                );
                Self::Limited(Limit::watch())
            }
        };
        fs::remove_dir_all(&kept).unwrap();
        world.services.start_service(Service::Postgres).await.unwrap();
        disk.seen(world);
        disk
    }

    /// True if what is in space that the server has already can still be written.
    pub fn is_mounted(&self) -> bool {
        matches!(self, Self::Mounted(_))
    }

    /// Takes all of the space.
    ///
    /// # Panics
    /// When a write fails for another reason.
    pub fn fill(&self) {
        match self {
            Self::Mounted(folder) => {
                let mut ballast = File::create(folder.join("ballast")).unwrap();
                // In smaller and smaller pieces, until not even one byte has space.
                for size in [1 << 20, 4 << 10, 1] {
                    let piece = vec![1; size];
                    let error = loop {
                        if let Err(error) = ballast.write_all(&piece) {
                            break error;
                        }
                    };
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                }
            }
            Self::Limited(limit) => limit.is_set.store(true, Ordering::SeqCst),
        }
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// When nobody has taken it.
    pub fn free(&self) {
        match self {
            Self::Mounted(folder) => fs::remove_file(folder.join("ballast")).unwrap(),
            Self::Limited(limit) => {
                limit.is_set.store(false, Ordering::SeqCst);
                limit.apply();
            }
        }
    }

    /// Tells it which process the server is now; call it again and again while the disk is full.
    pub fn seen(&self, world: &World) {
        if let Self::Limited(limit) = self {
            let pid = world.services.pid(Service::Postgres).unwrap_or(0);
            limit.postmaster.store(pid, Ordering::SeqCst);
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        match self {
            // The server may still run.
            Self::Mounted(folder) => {
                let _ = Command::new("umount").arg("--lazy").arg(folder).status();
            }
            Self::Limited(limit) => limit.is_over.store(true, Ordering::SeqCst),
        }
    }
}

impl Limit {
    fn watch() -> Arc<Self> {
        let limit = Arc::new(Self::default());
        let own = limit.clone();
        thread::spawn(move || {
            while !own.is_over.load(Ordering::SeqCst) {
                if own.is_set.load(Ordering::SeqCst) {
                    own.apply();
                }
                thread::sleep(LOOK);
            }
        });
        limit
    }

    /// Sets or lifts the limit of each process of the server; what they start has it too.
    fn apply(&self) {
        let postmaster = self.postmaster.load(Ordering::SeqCst);
        if postmaster == 0 {
            return;
        }
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        let children = children.unwrap_or_default();
        let pids = children.split_whitespace().map(str::to_owned);
        // Only the soft limit, which whoever owns the process may raise again.
        let size =
            if self.is_set.load(Ordering::SeqCst) { FILE.to_string() } else { "unlimited".into() };
        for pid in std::iter::once(postmaster.to_string()).chain(pids) {
            let limit = format!("--fsize={size}:");
            let _ = Command::new("prlimit").args(["--pid", &pid, &limit]).output();
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("--archive").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success(), "{} cannot be copied", from.display());
}
