//! The data folder: its lock, the content of `services.json`, ports and
//! passwords.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::Range;
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
    /// The ports of the one nats-server of an earlier release.
    #[serde(skip_serializing)]
    nats_port: u16,
    #[serde(skip_serializing)]
    nats_monitor_port: u16,
    pub(super) nats_servers: Vec<NatsServer>,
    pub(super) nats_cluster_password: String,
    pub(super) nats_api_password: String,
    pub(super) nats_worker_password: String,
    pub(super) nats_operator_password: String,
    pub(super) postgres_port: u16,
    /// Of the superuser, which no part of the system uses.
    pub(super) postgres_password: String,
    pub(super) postgres_api_password: String,
    pub(super) postgres_worker_password: String,
    pub(super) postgres_operator_password: String,
    /// Set once the database has the logins of the API, the worker and the operator.
    pub(super) postgres_logins_made: bool,
    /// Folder of the Postgres data; outside the data folder if its user cannot get there.
    pub(super) postgres_folder: Option<PathBuf>,
    /// Set once the database exists. Before that, the folder holds an
    /// unfinished initdb and is made again from the beginning.
    pub(super) postgres_made: bool,
    pub(super) redis_port: u16,
    /// Of the default user, which no part of the system is.
    pub(super) redis_password: String,
    pub(super) redis_api_password: String,
    pub(super) redis_worker_password: String,
    /// The addresses to connect to, while the services run.
    #[serde(deserialize_with = "of_this_release")]
    pub(super) urls: Option<ServiceUrls>,
}

/// The ports of one nats-server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct NatsServer {
    pub(super) port: u16,
    pub(super) monitor_port: u16,
    /// Where the other servers of a cluster connect.
    pub(super) cluster_port: u16,
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

    /// Makes it of so many nats-servers. A folder keeps the number that it was made for: a server
    /// of a cluster does not know the streams of one that was alone.
    pub(super) fn choose_nodes(&mut self, data_dir: &Path, asked: u16) -> Result<(), ServiceError> {
        if self.nats_servers.is_empty() {
            let alone = data_dir.join("nats").exists();
            self.nats_servers.resize_with(if alone { 1 } else { asked.into() }, Default::default);
            if let Some(first) = self.nats_servers.first_mut() {
                (first.port, first.monitor_port) = (self.nats_port, self.nats_monitor_port);
            }
        }
        match u16::try_from(self.nats_servers.len()) {
            Ok(made) if made != asked => {
                Err(ServiceError::OtherNodes { data_dir: data_dir.to_owned(), made, asked })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn fill_passwords(&mut self) {
        for password in [
            &mut self.nats_cluster_password,
            &mut self.nats_api_password,
            &mut self.nats_worker_password,
            &mut self.nats_operator_password,
            &mut self.postgres_password,
            &mut self.postgres_api_password,
            &mut self.postgres_worker_password,
            &mut self.postgres_operator_password,
            &mut self.redis_password,
            &mut self.redis_api_password,
            &mut self.redis_worker_password,
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

/// A claim on a port of 127.0.0.1 that every process of this machine can see,
/// also while no server listens there yet, or not at the moment.
///
/// It is a listener on the same port of 127.0.0.2, to which nobody connects: the
/// operating system ends it with its process. Where that address does not exist
/// (macOS), a claim holds nobody off.
#[derive(Debug)]
pub struct PortClaim(#[expect(dead_code, reason = "held, never read")] Option<TcpListener>);

impl PortClaim {
    /// Claims a port on which nothing listens; `None` if it is taken.
    pub fn on(port: u16) -> Option<Self> {
        let claim = match TcpListener::bind(("127.0.0.2", port)) {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => None,
            Err(_) => return None,
        };
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(Self(claim))
    }

    /// Claims any free port of a range.
    ///
    /// The range stays below that of outgoing connections: a client that keeps
    /// trying a port of that range while the server is down ends up connected to
    /// itself, and the server cannot come back.
    ///
    /// # Errors
    /// `AddrInUse` when 200 ports in a row are taken.
    pub fn within(range: Range<u16>) -> std::io::Result<(u16, Self)> {
        (0..200)
            .map(|_| rand::rng().random_range(range.clone()))
            .find_map(|port| Some((port, Self::on(port)?)))
            .ok_or_else(|| std::io::ErrorKind::AddrInUse.into())
    }
}

/// Claimed ports of the servers of one service.
#[derive(Debug, Default)]
pub(super) struct Ports(Vec<PortClaim>);

impl Ports {
    /// The requested port if it is free, else another one.
    pub(super) fn reserve(&mut self, requested: u16) -> Result<u16, ServiceError> {
        let claimed = match (requested != 0).then(|| PortClaim::on(requested)).flatten() {
            Some(claim) => Ok((requested, claim)),
            None => PortClaim::within(20_000..32_000),
        };
        let (port, claim) =
            claimed.map_err(|error| ServiceError::io("find a free port on 127.0.0.1", error))?;
        self.0.push(claim);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_claimed_once_until_the_claim_ends() {
        let mut ports = Ports::default();
        let port = ports.reserve(0).unwrap();
        assert!(PortClaim::on(port).is_none(), "claimed twice");
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "its server can listen");
        assert_ne!(Ports::default().reserve(port).unwrap(), port);
        drop(ports);
        assert!(PortClaim::on(port).is_some(), "claimed after its end");
    }
}
