//! A secret that a setting carries.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serializer};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes that a secret has at least, if its kind says nothing else.
pub const LEAST_BYTES: usize = 32;

/// A text that nobody else may know. It is shown nowhere, and its memory is
/// overwritten when it is dropped.
///
/// The environment and the command line keep copies of their own, which this
/// type does not reach.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Secret(Zeroizing<String>);

/// The reason why a text is no secret. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// There is nothing in it, or only white space.
    #[error("it is empty: give a secret, or do not set it at all")]
    Blank,
    /// It can be guessed.
    #[error("it has fewer than {0} bytes: make one with `openssl rand -base64 32`")]
    Short(usize),
}

impl Secret {
    /// Takes a text with at least [`LEAST_BYTES`] bytes.
    ///
    /// # Errors
    /// When it is blank or too short. White space at its ends does not count.
    pub fn new(text: impl Into<String>) -> Result<Self, WeakSecret> {
        Self::with_at_least(LEAST_BYTES, text)
    }

    /// Takes a text with at least `least` bytes.
    ///
    /// # Errors
    /// When it is blank or too short. White space at its ends does not count.
    pub fn with_at_least(least: usize, text: impl Into<String>) -> Result<Self, WeakSecret> {
        let secret = Self(Zeroizing::new(text.into()));
        match secret.0.trim().len() {
            0 => Err(WeakSecret::Blank),
            length if length < least => Err(WeakSecret::Short(least)),
            _ => Ok(secret),
        }
    }

    /// A new one: the base64 of 32 random bytes after `prefix`.
    pub(crate) fn random(prefix: &str) -> Self {
        let bytes = Zeroizing::new(rand::random::<[u8; LEAST_BYTES]>());
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(bytes.as_slice()));
        Self(Zeroizing::new([prefix, &encoded].concat()))
    }

    /// The text, for what signs, verifies or encrypts with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Writes the text into the file of a data folder (`serialize_with`). There
    /// is no `Serialize`, so that nothing else writes it by accident.
    ///
    /// # Errors
    /// When the serializer fails.
    pub(crate) fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.expose())
    }
}

impl TryFrom<String> for Secret {
    type Error = WeakSecret;

    fn try_from(text: String) -> Result<Self, WeakSecret> {
        Self::new(text)
    }
}

/// Shows nothing of it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Shows nothing of it.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_can_be_guessed_is_no_secret() {
        let text = "0123456789abcdef0123456789abcdef";
        assert_eq!(Secret::new(text).unwrap().expose(), text);
        for blank in ["", " ", " \t\r\n"] {
            assert_eq!(Secret::new(blank).err(), Some(WeakSecret::Blank));
            assert_eq!(Secret::with_at_least(1, blank).err(), Some(WeakSecret::Blank));
        }
        for short in [&text[1..], &format!("{} ", &text[1..]), &format!("x{}", " ".repeat(40))] {
            assert_eq!(Secret::new(short).err(), Some(WeakSecret::Short(32)), "{short:?}");
        }
        assert!(serde_json::from_str::<Secret>("\"short\"").is_err());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
        for shown in [format!("{secret}"), format!("{secret:?}"), format!("{secret:#?}")] {
            assert_eq!(shown, "<secret>");
        }
        let refused = Secret::new("hunter2hunter2").unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }
}
