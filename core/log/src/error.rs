//! Errors of reading the log, appending to it, and using its keys.
//!
//! An error is either an outage, which passes, or permanent: the same call
//! fails again until the data or the settings are repaired.
//! [`ReadError::outage`], [`AppendError::outage`] and [`KeyError::outage`]
//! distinguish them, so that callers retry outages and nothing else, and name
//! the service that is out.

use crate::address::AddressError;
use async_nats::jetstream::{
    self, ErrorCode,
    context::{PublishError, PublishErrorKind},
};
use std::{error::Error, fmt};

/// Newer servers answer some clashes with this code instead of 10071; the
/// client does not know it as "wrong last sequence".
const WRONG_LAST_SEQUENCE_IN_FLIGHT: u64 = 10164;

/// A service that does not answer. A later retry may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The stream of events.
    EventLog,
    /// The stream of data keys.
    KeyStore,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EventLog => "event log",
            Self::KeyStore => "key store",
        })
    }
}

/// Reason why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The server does not answer; try again.
    #[error("the event log does not answer")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The log has a hole. No fold may skip it.
    #[error(
        "the event log has a hole: position {expected} is missing, {found} follows. Events were deleted; `exodrive audit verify --live` gives details"
    )]
    Hole {
        /// The position that should come next.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// A data key is missing that was not erased. No fold may skip the event: it
    /// would look as if the person had been erased.
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
        "the event at position {position} is not what was appended: key {key} does not open it. The log was changed; `exodrive audit verify --live` gives details"
    )]
    Changed {
        /// The event.
        position: u64,
        /// The key's name.
        key: String,
    },
    /// The data key of an event is not available: the key store does not
    /// answer, or holds a key that these settings cannot open.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl ReadError {
    /// The service that is out; `None` if the error is permanent.
    pub fn outage(&self) -> Option<Outage> {
        match self {
            Self::Unavailable(_) => Some(Outage::EventLog),
            Self::Key(error) => error.outage(),
            Self::Hole { .. } | Self::KeyMissing { .. } | Self::Changed { .. } => None,
        }
    }

    pub(crate) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Reason why an event was not (or may not have been) appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Another event was appended to the subject first: load again, decide
    /// again.
    #[error("the subject has changed since it was read")]
    Conflict,
    /// No acknowledgement in time. The event may be stored all the same: send
    /// it again under the same id.
    #[error("the event log did not acknowledge in time")]
    Unavailable(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// The server rejects it, and would reject it again.
    #[error("the event log rejected the event")]
    Rejected(#[source] Box<dyn Error + Send + Sync>),
    /// The log was opened to be read ([`Log::open`](crate::Log::open)), and its
    /// settings were not checked. Nothing was sent.
    #[error("the event log was opened to be read: connect to it to append")]
    OpenedForReading,
    /// The event is larger than the server takes. Nothing was stored.
    #[error("the event is larger than the event log takes")]
    TooLarge,
    /// The event cannot be encoded or encrypted. Nothing was sent.
    #[error("the event cannot be encoded")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    /// The data key for encrypting the event is not available. Nothing was
    /// sent.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The event is the first of a customer who was erased meanwhile. Nothing was sent: decide
    /// again, for the customer that they are now.
    #[error("the customer was erased meanwhile")]
    Erased,
    /// The acknowledgement was lost, or another event was appended first, and
    /// the subject cannot be read: the event may or may not be stored.
    #[error("the event may or may not be stored: the subject cannot be read")]
    Unreadable(#[source] ReadError),
}

impl AppendError {
    /// The service that is out; `None` for [`AppendError::Conflict`] and if the
    /// error is permanent.
    pub fn outage(&self) -> Option<Outage> {
        match self {
            Self::Unavailable(_) => Some(Outage::EventLog),
            Self::Key(error) => error.outage(),
            Self::Unreadable(error) => error.outage(),
            Self::Conflict
            | Self::Erased
            | Self::Rejected(_)
            | Self::OpenedForReading
            | Self::TooLarge
            | Self::Encode(_) => None,
        }
    }

    /// True if the log has answered, with a refusal, or was not asked.
    pub(crate) fn is_answer(&self) -> bool {
        self.outage().is_none()
    }

    /// True if the server has answered that it cannot store the event: it has no space, or the
    /// stream is full.
    pub(crate) fn is_refusal_to_store(&self) -> bool {
        let Self::Unavailable(Some(error)) = self else { return false };
        let publish = error.downcast_ref::<PublishError>().and_then(Error::source);
        let answer = publish
            .and_then(|it| it.downcast_ref::<jetstream::Error>())
            .or_else(|| error.downcast_ref::<jetstream::Error>());
        let codes = [
            ErrorCode::STREAM_STORE_FAILED,
            ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ErrorCode::INSUFFICIENT_RESOURCES,
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ];
        answer.is_some_and(|it| codes.contains(&it.error_code()))
    }

    pub(crate) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Some(error.into()))
    }

    pub(crate) fn encode(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Encode(error.into())
    }

    /// The error that the server's answer to an append means.
    pub(crate) fn of_server(error: jetstream::Error) -> Self {
        match error.error_code() {
            code if is_clash(code) => Self::Conflict,
            code if is_too_large(code) => Self::TooLarge,
            // Anything else (no stream yet after a restart, no space, no
            // leader) may pass, and must be retried rather than lost.
            _ => Self::unavailable(error),
        }
    }
}

impl From<ReadError> for AppendError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(source) => Self::Unavailable(Some(source)),
            error => Self::Unreadable(error),
        }
    }
}

impl From<PublishError> for AppendError {
    fn from(error: PublishError) -> Self {
        let answer = error.source().and_then(|it| it.downcast_ref::<jetstream::Error>());
        let code = answer.map(jetstream::Error::error_code);
        match error.kind() {
            PublishErrorKind::WrongLastSequence => Self::Conflict,
            PublishErrorKind::MaxPayloadExceeded => Self::TooLarge,
            PublishErrorKind::WrongLastMessageId => Self::Rejected(Box::new(error)),
            _ if code.is_some_and(is_clash) => Self::Conflict,
            _ if code.is_some_and(is_too_large) => Self::TooLarge,
            // As in `of_server`.
            _ => Self::unavailable(error),
        }
    }
}

fn is_clash(code: ErrorCode) -> bool {
    code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE
        || code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
        || code.0 == WRONG_LAST_SEQUENCE_IN_FLIGHT
}

fn is_too_large(code: ErrorCode) -> bool {
    code == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
        || code == ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM
}

/// Reason why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server does not answer.
    #[error("the event log does not answer at {address}: is NATS running? (EXODRIVE_NATS_URL)")]
    Unreachable {
        /// Host and port, without credentials.
        address: String,
        /// The client's error.
        #[source]
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// The address, or a file that it names, cannot be used.
    #[error("the address of NATS cannot be used (EXODRIVE_NATS_URL and the settings beside it)")]
    Address(#[from] AddressError),
    /// A server whose certificate is not believed, or one that does not believe the client's.
    #[error(
        "no safe connection to NATS at {address}: {reason}. EXODRIVE_NATS_CA names the file of the authorities that are believed, EXODRIVE_NATS_CLIENT_CERT and EXODRIVE_NATS_CLIENT_KEY what this process shows"
    )]
    Unverified {
        /// Host and port, without credentials.
        address: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// The server answers, and does not know this user.
    #[error(
        "NATS at {address} does not let this user in: its password, credentials file or nkey is not one that the server knows"
    )]
    Unauthorized {
        /// Host and port, without credentials.
        address: String,
        /// The client's error.
        #[source]
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// A setting with which events could be lost or changed.
    #[error("refusing this event log: {setting} is {found}, it must be {requested}. {remedy}")]
    Setting {
        /// The setting's own name, and the server or stream that has it.
        setting: String,
        /// The setting that was found.
        found: String,
        /// The required setting.
        requested: String,
        /// The remedy.
        remedy: String,
    },
    /// A stream is not there, and this user must not make it.
    #[error(
        "NATS has no stream {stream} yet: run `exodrive migrate`, as a user who may make streams (EXODRIVE_NATS_OPERATOR_URL)"
    )]
    Missing {
        /// The stream.
        stream: String,
    },
    /// The server neither answered a request nor refused it.
    #[error(
        "NATS neither answers nor refuses {subject}: is its user allowed to subscribe to {inbox}.>? (docs/nats-permissions.conf)"
    )]
    Silent {
        /// The request's subject.
        subject: &'static str,
        /// What the subjects for answers begin with.
        inbox: String,
    },
    /// The server refused to make or show a stream.
    #[error("cannot {action} stream {stream}")]
    Stream {
        /// The attempted action.
        action: &'static str,
        /// The stream.
        stream: String,
        /// The server's error.
        #[source]
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// The data keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// Reason why a data key is not available.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The log was opened to be read ([`Log::open`](crate::Log::open)). Nothing was
    /// changed.
    #[error("the event log was opened to be read: connect to it to destroy keys")]
    OpenedForReading,
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
    /// A record in the key store is malformed.
    #[error(
        "message {sequence} of stream EXODRIVE_KEYS is no record of data key {name}: somebody has written there who should not. As the operator, delete it (`nats stream rmm EXODRIVE_KEYS {sequence}`), and restore the key's record from a backup of the stream if there was one"
    )]
    Malformed {
        /// The data key.
        name: String,
        /// The message's number in the stream.
        sequence: u64,
    },
    /// There is no key that makes MACs.
    #[error(
        "the key store has no key that makes MACs yet: run `exodrive migrate`, as the operator's user (EXODRIVE_NATS_OPERATOR_URL)"
    )]
    NoMacKey,
    /// The record of the key that makes MACs is malformed.
    #[error(
        "message {sequence} of stream EXODRIVE_KEYS is not the key that makes MACs: somebody has written there who should not. As the operator, delete it (`nats stream rmm EXODRIVE_KEYS {sequence}`) and publish the body of exo-keys.mac from a backup of the stream on that subject again"
    )]
    MacKey {
        /// The message's number in the stream.
        sequence: u64,
    },
    /// A key's only record is a tombstone that is not believed.
    #[error(
        "data key {0} has a tombstone that is not believed, and no key: restore stream EXODRIVE_KEYS from a backup"
    )]
    Doubtful(String),
    /// A new key that cannot be wrapped or written down.
    #[error("data key {0} cannot be encoded")]
    Encode(String),
}

impl KeyError {
    /// The service that is out; `None` if the error is permanent.
    pub fn outage(&self) -> Option<Outage> {
        match self {
            Self::Unavailable(_) => Some(Outage::KeyStore),
            Self::OpenedForReading
            | Self::Wrapping { .. }
            | Self::Malformed { .. }
            | Self::NoMacKey
            | Self::MacKey { .. }
            | Self::Doubtful(_)
            | Self::Encode(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong_wrapping_key() -> KeyError {
        KeyError::Wrapping { name: "email.a".to_owned(), version: 2 }
    }

    #[test]
    fn a_permanent_fault_is_no_outage() {
        let too_large = PublishError::new(PublishErrorKind::MaxPayloadExceeded);
        assert!(matches!(AppendError::from(too_large), AppendError::TooLarge));
        for error in [
            AppendError::TooLarge,
            AppendError::encode("no JSON"),
            AppendError::from(wrong_wrapping_key()),
            AppendError::from(ReadError::from(wrong_wrapping_key())),
            AppendError::from(ReadError::Hole { expected: 1, found: 2 }),
            AppendError::Rejected("no".into()),
        ] {
            assert_eq!(error.outage(), None, "{error:?}");
        }
        for error in [
            ReadError::from(wrong_wrapping_key()),
            ReadError::from(KeyError::MacKey { sequence: 1 }),
        ] {
            assert_eq!(error.outage(), None, "{error:?}");
        }
    }

    #[test]
    fn a_refusal_to_store_is_told_from_an_outage() {
        let answer = |err_code: u64| -> jetstream::Error {
            let answer =
                serde_json::json!({ "code": 503, "err_code": err_code, "description": "no" });
            serde_json::from_value(answer).unwrap()
        };
        let full = ErrorCode::STREAM_STORE_FAILED.0;
        assert!(AppendError::of_server(answer(full)).is_refusal_to_store());
        let of_publish = |code| {
            AppendError::from(PublishError::with_source(PublishErrorKind::Other, answer(code)))
        };
        assert!(of_publish(full).is_refusal_to_store());
        let no_leader = ErrorCode::CLUSTER_NOT_AVAILABLE.0;
        assert!(!AppendError::of_server(answer(no_leader)).is_refusal_to_store());
        assert!(!AppendError::Unavailable(None).is_refusal_to_store());
    }

    #[test]
    fn an_outage_is_named_by_the_service_that_is_out() {
        let no_answer = PublishError::new(PublishErrorKind::TimedOut);
        assert_eq!(AppendError::from(no_answer).outage(), Some(Outage::EventLog));
        let lost = AppendError::from(ReadError::unavailable("no answer"));
        assert_eq!(lost.outage(), Some(Outage::EventLog));
        let keys = || KeyError::Unavailable(None);
        assert_eq!(ReadError::from(keys()).outage(), Some(Outage::KeyStore));
        assert_eq!(ReadError::from(keys()).to_string(), "the key store does not answer");
        assert_eq!(AppendError::from(keys()).outage(), Some(Outage::KeyStore));
        assert_eq!(AppendError::from(ReadError::from(keys())).outage(), Some(Outage::KeyStore));
        assert_eq!(Outage::KeyStore.to_string(), "key store");
    }
}
