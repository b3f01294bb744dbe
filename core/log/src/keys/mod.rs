//! The keys that encrypt personal data in the log. They are in a stream of
//! their own beside it, so that one can be destroyed while the log does not
//! change.
//!
//! | subject | what it holds | who writes it |
//! | --- | --- | --- |
//! | `exo-keys.<name>` | the key, wrapped, as it was made | API, worker; `mac` only the operator |
//! | `exo-wrapped-a.<name>`, `exo-wrapped-b.<name>` | the same key, wrapped again | operator |
//! | `exo-tombstones.<name>` | that it was destroyed | worker |
//!
//! Each is wrapped (encrypted) by a key from configuration. Three cases are
//! kept apart. A key that was destroyed leaves a tombstone. A key that is
//! missing without a tombstone is an error, and no fold skips it. A stream that
//! does not answer is tried again.

mod customers;
mod holds;
mod records;
mod rewrap;
mod store;
mod tombstones;
mod wrapping;

pub use records::KeyStoreMark;
pub use rewrap::Rewrapped;
pub use store::KEY_CACHE;
pub(crate) use store::{KeyState, KeyStore, KeyStreams};
pub use wrapping::{WrappingKeys, WrappingKeysError};
pub(crate) use wrapping::{decrypt, encrypt};
