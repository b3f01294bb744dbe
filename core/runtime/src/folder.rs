//! The files of a data folder for the programs that use it: the secrets of a
//! development system, and the addresses of its API.

use crate::{secret::Secret, services::SyncMode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};
use zeroize::Zeroizing;

const SECRETS: &str = "secrets.json";
const SYSTEM: &str = "system.json";

/// Secrets made for a system that was given none.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    /// Signs webhooks: `whsec_` and base64 of 32 bytes.
    #[serde(serialize_with = "Secret::write")]
    pub webhook: Secret,
    /// Signs tokens.
    #[serde(serialize_with = "Secret::write")]
    pub tokens: Secret,
    /// Makes the links of bookings and the ids of customers.
    #[serde(default = "random", serialize_with = "Secret::write")]
    pub links: Secret,
    /// Keys that wrap the keys that encrypt personal data in the log:
    /// `1:<base64 of 32 bytes>`, several with commas between. Without them the
    /// personal data cannot be read any more.
    #[serde(default = "wrapping_key", serialize_with = "Secret::write")]
    pub data_keys: Secret,
    /// Signs the log's checkpoints: base64 of 32 bytes.
    #[serde(default = "random", serialize_with = "Secret::write")]
    pub seal_key: Secret,
}

fn random() -> Secret {
    Secret::random("")
}

fn wrapping_key() -> Secret {
    Secret::random("1:")
}

/// The addresses on which a running system listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct System {
    /// The API, for example `http://127.0.0.1:8080`.
    pub url: String,
    /// The metrics of the API and of the workers.
    pub metrics_urls: Vec<String>,
    /// The requirements on its event log; `None` if an earlier release started it.
    #[serde(default)]
    pub log: Option<LogRequirements>,
}

/// The requirements on an event log to which a system appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequirements {
    /// The moment at which the server flushes to disk.
    pub sync: SyncMode,
    /// Time for which the server remembers the ids of events.
    pub duplicate_window: Duration,
    /// Copies of the log in a cluster.
    pub replicas: usize,
}

impl Default for LogRequirements {
    /// Flushed before each acknowledgement, ids remembered for three days, one
    /// copy.
    fn default() -> Self {
        let duplicate_window = Duration::from_secs(3 * 24 * 3_600);
        Self { sync: SyncMode::Always, duplicate_window, replicas: 1 }
    }
}

/// The folder's secrets, made on first use.
///
/// # Errors
/// When the file cannot be read or written.
pub fn secrets(data_dir: &Path) -> io::Result<Secrets> {
    if let Some(secrets) = read_json(&data_dir.join(SECRETS))? {
        // A folder of an earlier release gets the secrets that it lacks.
        write(&data_dir.join(SECRETS), &secrets)?;
        return Ok(secrets);
    }
    let secrets = Secrets {
        webhook: Secret::random("whsec_"),
        tokens: random(),
        links: random(),
        data_keys: wrapping_key(),
        seal_key: random(),
    };
    write(&data_dir.join(SECRETS), &secrets)?;
    Ok(secrets)
}

/// The folder's secrets, if it has any.
///
/// # Errors
/// When the file cannot be read.
pub fn existing_secrets(data_dir: &Path) -> io::Result<Option<Secrets>> {
    read_json(&data_dir.join(SECRETS))
}

/// Writes the addresses on which the system listens.
///
/// # Errors
/// When the file cannot be written.
pub fn announce(data_dir: &Path, system: &System) -> io::Result<()> {
    write(&data_dir.join(SYSTEM), system)
}

/// The addresses on which the folder's system listens, or listened last.
///
/// # Errors
/// When the file cannot be read.
pub fn announced(data_dir: &Path) -> io::Result<Option<System>> {
    read_json(&data_dir.join(SYSTEM))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path).map(Zeroizing::new) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, and for the owner only.
fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&Zeroizing::new(serde_json::to_vec_pretty(value)?))?;
    fs::rename(&draft, path)
}
