//! The number of files and sockets that this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of files and sockets that this process may have open as far as the system
/// lets it. Gives that number.
pub fn raise_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "Cannot raise the number of files that may be open");
    }
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|it| usize::try_from(it).ok()).unwrap_or(usize::MAX)
}
