//! The names of the streams and of the subjects in them.

/// The log's stream.
pub const STREAM: &str = "EXODRIVE";
/// The stream that readiness writes to, apart from the log.
pub const CANARY_STREAM: &str = "EXODRIVE_CANARY";
/// Its subject.
pub(crate) const CANARY_SUBJECT: &str = "exo-canary";
/// Wrapped data keys, and the tombstones of those that were destroyed. Its
/// messages can be deleted: an erasure does.
pub const KEYS_STREAM: &str = "EXODRIVE_KEYS";
/// The subjects of keys as they were made.
pub const KEYS_SUBJECTS: &str = "exo-keys.>";
/// The prefix of their subjects.
pub(crate) const KEYS_PREFIX: &str = "exo-keys";
/// The prefixes of the subjects of keys that were wrapped again, which take turns.
pub(crate) const WRAPPED_PREFIXES: [&str; 2] = ["exo-wrapped-a", "exo-wrapped-b"];
/// The prefix of the subjects of tombstones.
pub(crate) const TOMBSTONES_PREFIX: &str = "exo-tombstones";
/// The last signed checkpoint; each subject keeps its last message only.
pub const SEALS_STREAM: &str = "EXODRIVE_SEALS";
/// Its subjects.
pub const SEALS_SUBJECTS: &str = "exo-seals.>";
/// Refused webhooks, without personal data. The oldest are deleted after 90
/// days, or when there are a million.
pub const REFUSALS_STREAM: &str = "EXODRIVE_REFUSALS";
/// Its subjects.
pub const REFUSALS_SUBJECTS: &str = "exo-refusals.>";
/// The subject of those of Resend.
pub(crate) const REFUSALS_SUBJECT: &str = "exo-refusals.resend";
