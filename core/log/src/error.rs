//! Why the log could not be read, appended to, or its keys used.

use std::error::Error;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The server does not answer; try again.
    #[error("the event log does not answer")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The log has a hole. Nothing may be folded past it.
    #[error(
        "the event log has a hole: position {expected} is missing, {found} follows. Somebody has deleted events; restore the stream from a backup"
    )]
    Hole {
        /// The position that should come next.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// A data key is missing that was not erased. Nothing may be folded past
    /// it: the event would look as if its person had been erased.
    #[error(
        "data key {key} of the event at position {position} is missing, and was not erased: restore stream EXODRIVE_KEYS from a backup"
    )]
    KeyMissing {
        /// The event.
        position: u64,
        /// The key's name.
        key: String,
    },
    /// An encrypted event is not what was appended.
    #[error(
        "the event at position {position} is not what was appended: key {key} does not open it. Somebody has changed the log; `exodrive audit verify --live` says more"
    )]
    Changed {
        /// The event.
        position: u64,
        /// The key's name.
        key: String,
    },
    /// The key store holds what these settings cannot open.
    #[error(transparent)]
    Key(KeyError),
}

impl From<KeyError> for ReadError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unavailable(_) => Self::unavailable(error),
            error => Self::Key(error),
        }
    }
}

impl ReadError {
    pub(crate) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Why an event was not (or may not have been) appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else appended to the subject first: load again, decide again.
    #[error("the subject has changed since it was read")]
    Conflict,
    /// No acknowledgement in time. The event may be stored all the same: send
    /// it again under the same id.
    #[error("the event log did not acknowledge in time")]
    Unavailable(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// The server will not have it; sending it again changes nothing.
    #[error("the event log refused the event")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
}

/// Why a data key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key store does not answer; try again.
    #[error("the key store does not answer")]
    Unavailable(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// It is wrapped by a key that is not configured, or by another one of the
    /// same version.
    #[error(
        "data key {name} cannot be opened with wrapping key {version}: give the right EXODRIVE_DATA_KEYS (older versions beside the newest)"
    )]
    Wrapping {
        /// The data key.
        name: String,
        /// The wrapping key's version.
        version: u32,
    },
    /// A record in the key store that is none.
    #[error("data key {0} cannot be read from the key store")]
    Malformed(String),
}
