//! The private redis-server.

use std::path::{Path, PathBuf};

use super::folder::{self, SavedSettings};
use super::supervisor::ProcessSpec;
use super::{ServiceError, process};

/// The users and their permissions: the same as on a production server.
const PRODUCTION: &str = include_str!("../../../../docs/redis.conf");

/// The address of a database of the private server, as one of its users; the default user has no
/// name.
pub(super) fn url(saved: &SavedSettings, user: &str, password: &str) -> String {
    format!("redis://{user}:{password}@127.0.0.1:{}/0", saved.redis_port)
}

/// Path of redis-server.
pub(super) fn binary() -> Result<PathBuf, ServiceError> {
    process::in_path("redis-server").ok_or_else(|| ServiceError::Missing {
        what: "redis-server".to_owned(),
        found: "none in PATH".to_owned(),
    })
}

pub(super) fn pid_file(data_dir: &Path) -> PathBuf {
    data_dir.join("redis/redis.pid")
}

/// Writes the configuration and returns the command. Redis stores nothing on
/// disk: all of its content can be built again.
pub(super) fn prepare(
    data_dir: &Path,
    saved: &SavedSettings,
    neighbours: u16,
    binary: &Path,
) -> Result<ProcessSpec, ServiceError> {
    let home = data_dir.join("redis");
    folder::create(&home, 0o700)?;
    let users: String = PRODUCTION
        .lines()
        .filter(|line| line.starts_with("user exodrive-"))
        .map(|line| format!("{line}\n"))
        .collect();
    let users = users
        .replace("PASSWORD-OF-API", &saved.redis_api_password)
        .replace("PASSWORD-OF-WORKER", &saved.redis_worker_password);
    let text = format!(
        "bind 127.0.0.1\nport {}\nrequirepass {}\nsave \"\"\nappendonly no\ndir {home:?}\npidfile {:?}\ndatabases {}\n{users}",
        saved.redis_port,
        saved.redis_password,
        pid_file(data_dir),
        neighbours.max(15) + 1,
    );
    let file = home.join("redis.conf");
    folder::write_private(&file, &text)?;
    let mut spec = ProcessSpec::new("redis-server", binary).arg(file);
    spec.folder = Some(home);
    Ok(spec)
}
