//! What is wrong with a value.

/// The fault of a value, for people. It reads after the name of the field, for
/// example `must have 1 to 100 characters`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub String);

impl InvalidValue {
    pub(crate) fn new(detail: impl Into<String>) -> Self {
        Self(detail.into())
    }
}

/// An invalid part of a command: its place, as a JSON pointer, and the fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidField {
    /// For example `/base_per_day_cents`.
    pub pointer: String,
    /// A text for people.
    pub detail: String,
}

impl InvalidField {
    /// A fault.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}
