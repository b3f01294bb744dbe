//! The data folder: its lock, the content of `services.json`, ports and
//! passwords.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rand::RngExt;
use serde::{Deserialize, Deserializer, Serialize};

use super::{ServiceError, ServiceUrls};

/// Content of `services.json`. It holds passwords, so only the owner can read it.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SavedSettings {
    pub(super) nats_port: u16,
    pub(super) nats_monitor_port: u16,
    pub(super) nats_api_password: String,
    pub(super) nats_worker_password: String,
    pub(super) nats_operator_password: String,
    pub(super) postgres_port: u16,
    pub(super) postgres_password: String,
    /// Folder of the Postgres data; outside the data folder if its user cannot get there.
    pub(super) postgres_folder: Option<PathBuf>,
    /// Set once the database exists. Before that, the folder holds an
    /// unfinished initdb and is made again from the beginning.
    pub(super) postgres_made: bool,
    pub(super) redis_port: u16,
    pub(super) redis_password: String,
    /// The addresses to connect to, while the services run.
    #[serde(deserialize_with = "of_this_release")]
    pub(super) urls: Option<ServiceUrls>,
}

/// Reads the addresses. Those of another release count as absent: they are
/// written at each start.
fn of_this_release<'de, D: Deserializer<'de>>(saved: D) -> Result<Option<ServiceUrls>, D::Error> {
    Ok(serde_json::from_value(serde_json::Value::deserialize(saved)?).unwrap_or(None))
}

impl SavedSettings {
    /// Reads the file; a missing one gives an empty value.
    pub(super) fn read(data_dir: &Path) -> Result<Self, ServiceError> {
        let file = data_dir.join("services.json");
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                ServiceError::io(format!("read {}", file.display()), error.into())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(ServiceError::io(format!("read {}", file.display()), error)),
        }
    }

    /// Replaces the file as a whole, so that a reader never sees half of it.
    pub(super) fn write(&self, data_dir: &Path) -> Result<(), ServiceError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| ServiceError::io("write services.json", error.into()))?;
        write_private(&data_dir.join("services.json"), &text)
    }

    pub(super) fn fill_passwords(&mut self) {
        for password in [
            &mut self.nats_api_password,
            &mut self.nats_worker_password,
            &mut self.nats_operator_password,
            &mut self.postgres_password,
            &mut self.redis_password,
        ] {
            if password.is_empty() {
                *password = random_hex();
            }
        }
    }
}

/// 128 random bits as text.
pub(super) fn random_hex() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// Writes a file that only its owner can read, through a rename.
pub(super) fn write_private(file: &Path, text: &str) -> Result<(), ServiceError> {
    let fresh = file.with_extension("new");
    let write = || {
        // The mode applies to a new file only.
        let _ = fs::remove_file(&fresh);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?
            .write_all(text.as_bytes())?;
        fs::rename(&fresh, file)
    };
    write().map_err(|error| ServiceError::io(format!("write {}", file.display()), error))
}

/// Creates a folder and its parents; only the folder itself gets the mode.
pub(super) fn create(folder: &Path, mode: u32) -> Result<(), ServiceError> {
    let make = || {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(mode).create(folder) {
            // The umask may have taken bits away.
            Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode)),
            Err(_) if folder.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    };
    make().map_err(|error| ServiceError::io(format!("create {}", folder.display()), error))
}

/// Takes the lock of a data folder for as long as the result lives.
pub(super) fn lock(data_dir: &Path) -> Result<Flock<File>, ServiceError> {
    let path = data_dir.join("lock");
    let failed = |error| ServiceError::io(format!("lock {}", path.display()), error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    // `running` holds the lock for an instant, so one failed attempt means
    // nothing.
    for _ in 0..10 {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                lock.set_len(0)
                    .and_then(|()| writeln!(&*lock, "{}", std::process::id()))
                    .map_err(failed)?;
                return Ok(lock);
            }
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
            Err((_, error)) => return Err(failed(error.into())),
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    let mut pid = String::new();
    let _ = file.read_to_string(&mut pid);
    Err(ServiceError::Locked { data_dir: data_dir.to_owned(), pid: pid.trim().to_owned() })
}

/// True if a process holds the lock.
pub(super) fn is_locked(data_dir: &Path) -> bool {
    File::open(data_dir.join("lock")).is_ok_and(|file| {
        matches!(
            Flock::lock(file, FlockArg::LockSharedNonblock),
            Err((_, nix::errno::Errno::EWOULDBLOCK))
        )
    })
}

/// Ports on 127.0.0.1 that stay bound until they are released, so that no other
/// process takes them before the server does.
#[derive(Default)]
pub(super) struct Ports(Vec<TcpListener>);

impl Ports {
    /// The requested port if it is free, else another one.
    ///
    /// A new port comes from below the range of outgoing connections: a client
    /// that keeps trying a port of that range while the server is down ends up
    /// connected to itself, and the server cannot come back.
    pub(super) fn reserve(&mut self, requested: u16) -> Result<u16, ServiceError> {
        let mut tried = BTreeSet::new();
        let mut port = requested;
        loop {
            if port != 0
                && let Ok(listener) = TcpListener::bind(("127.0.0.1", port))
            {
                self.0.push(listener);
                return Ok(port);
            }
            tried.insert(port);
            if tried.len() > 200 {
                return Err(ServiceError::io(
                    "find a free port on 127.0.0.1",
                    std::io::ErrorKind::AddrInUse.into(),
                ));
            }
            port = rand::rng().random_range(20_000..32_000);
        }
    }
}
