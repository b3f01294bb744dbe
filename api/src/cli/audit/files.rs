//! Files with keys and checkpoints.

use crate::cli::Failure;
use exodrive_proof::note::{KeyError, SignedNote};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Reads the text of a file.
pub(super) fn text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()).into())
}

/// Reads the public keys of a file, one on each line.
pub(super) fn keys<K>(
    path: &Path,
    parse: fn(&str) -> Result<K, KeyError>,
) -> Result<Vec<K>, Failure> {
    let text = text(path)?;
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.map(parse).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|error| format!("{}: {error}", path.display()))?;
    if keys.is_empty() {
        return Err(format!("{} holds no key", path.display()).into());
    }
    Ok(keys)
}

/// Reads the checkpoint of a file.
pub(super) fn checkpoint(path: &Path) -> Result<SignedNote, Failure> {
    text(path)?.parse().map_err(|error| {
        format!("{}: {error}; give a file as `exodrive audit checkpoint` writes it", path.display())
            .into()
    })
}

/// Writes a secret into a new file, for its owner only.
pub(super) fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = written.and_then(|mut file| {
        file.write_all(secret.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} is there already; name a new file", path.display()).into()
        }
        _ => format!("{} cannot be written: {error}", path.display()).into(),
    })
}

/// Replaces a file whole or not at all. Returns once it is on disk.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let replaced = || {
        let mut draft = path.as_os_str().to_owned();
        draft.push(".draft");
        let mut file = File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        // The new name must outlive a power cut, too.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    replaced()
        .map_err(|error: io::Error| format!("{} cannot be written: {error}", path.display()).into())
}
