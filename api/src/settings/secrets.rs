//! The secrets among the settings: those that are given, or else those of the
//! data folder.

use super::{BookingSettings, Connections, HttpSettings, SealSettings, SettingsError};
use exodrive_audit::{seal::SealKeys, webhook_signature::Secrets};
use exodrive_commands::rental::BookingSecret;
use exodrive_log::WrappingKeys;
use exodrive_proof::note::{SigningKey, VerifierKey};
use exodrive_runtime::{folder, secret::Secret};
use std::{fs, io};
use zeroize::Zeroizing;

pub(super) const TOKENS: &str = "EXODRIVE_JWT_SECRET";

impl Connections {
    /// Returns the wrapping keys that are given, or else those of the data
    /// folder.
    ///
    /// # Errors
    /// When there is no key, or it cannot be read.
    pub fn wrapping_keys(&self) -> Result<WrappingKeys, SettingsError> {
        if let Some(keys) = self.given_wrapping_keys()? {
            return Ok(keys);
        }
        let saved = self.kept_secrets()?.ok_or(SettingsError::NoSecret {
            what: "key that wraps the data keys of the log",
            variable: "EXODRIVE_DATA_KEYS",
        })?;
        Ok(WrappingKeys::parse(saved.data_keys.expose())?)
    }

    /// Returns the wrapping keys that are given, if any are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn given_wrapping_keys(&self) -> Result<Option<WrappingKeys>, SettingsError> {
        match (&self.data_keys, &self.data_keys_file) {
            (Some(keys), _) => Ok(Some(WrappingKeys::parse(keys.expose())?)),
            (None, Some(file)) => {
                let wrong = |error| SettingsError::DataKeysFile(file.display().to_string(), error);
                let text = Zeroizing::new(fs::read_to_string(file).map_err(wrong)?);
                let keys = WrappingKeys::parse(&text).map_err(io::Error::other);
                keys.map(Some).map_err(wrong)
            }
            (None, None) => Ok(None),
        }
    }

    /// Returns the secrets that the system of the data folder made for itself,
    /// if there are any.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn kept_secrets(&self) -> Result<Option<folder::Secrets>, SettingsError> {
        folder::existing_secrets(&self.data_dir)
            .map_err(|error| SettingsError::Folder(self.data_dir.display().to_string(), error))
    }
}

impl HttpSettings {
    /// Returns the webhook secrets that are given, or else those of the data
    /// folder.
    ///
    /// # Errors
    /// When there is no secret, or one is invalid.
    pub fn webhook_secrets(&self, connections: &Connections) -> Result<Secrets, SettingsError> {
        if !self.resend_webhook_secrets.is_empty() {
            return Ok(Secrets::parse(self.resend_webhook_secrets.iter().map(Secret::expose))?);
        }
        let saved = connections.kept_secrets()?.ok_or(SettingsError::NoSecret {
            what: "webhook signing secret",
            variable: "EXODRIVE_RESEND_WEBHOOK_SECRETS",
        })?;
        Ok(Secrets::parse([saved.webhook.expose()])?)
    }
}

impl BookingSettings {
    /// Returns the secret that is given, or else that of the data folder, or
    /// else one that is derived from the tokens' secret in the environment.
    ///
    /// # Errors
    /// When there is none of them, or it can be guessed.
    pub fn secret(&self, connections: &Connections) -> Result<BookingSecret, SettingsError> {
        if let Some(secret) = &self.link_secret {
            return Ok(BookingSecret::new(secret));
        }
        if let Some(saved) = connections.kept_secrets()? {
            return Ok(BookingSecret::new(&saved.links));
        }
        let tokens = std::env::var(TOKENS).map_err(|_| SettingsError::NoSecret {
            what: "secret for links of bookings",
            variable: "EXODRIVE_LINK_SECRET",
        })?;
        let weak = |reason| SettingsError::Weak { variable: TOKENS, reason };
        // What follows from a secret is as easy to guess as that.
        let tokens = Secret::new(tokens).map_err(weak)?;
        let derived = Secret::new(format!("links\n{}", tokens.expose())).map_err(weak)?;
        Ok(BookingSecret::new(&derived))
    }
}

impl SealSettings {
    /// Returns the keys that are given, or else the key of the data folder.
    ///
    /// # Errors
    /// When there is no key, or one is invalid.
    pub fn keys(&self, connections: &Connections) -> Result<SealKeys, SettingsError> {
        if let Some(keys) = self.given_keys()? {
            return Ok(keys);
        }
        let saved = connections.kept_secrets()?.ok_or(NO_SEAL_KEY)?;
        self.read_keys(&[saved.seal_key])
    }

    /// Returns the keys that are given, if any are.
    ///
    /// # Errors
    /// When none of them signs, or one is invalid.
    pub fn given_keys(&self) -> Result<Option<SealKeys>, SettingsError> {
        if self.seal_keys.is_empty() { Ok(None) } else { self.read_keys(&self.seal_keys).map(Some) }
    }

    fn read_keys(&self, keys: &[Secret]) -> Result<SealKeys, SettingsError> {
        let origin = self.seal_origin.clone();
        let (mut signing, mut former) = (Vec::new(), Vec::new());
        for text in keys.iter().map(|key| key.expose().trim()) {
            if let Ok(key) = VerifierKey::parse(text) {
                former.push(key);
                continue;
            }
            let seed = fs::read_to_string(text).unwrap_or_else(|_| text.to_owned());
            let seed = Zeroizing::new(seed);
            signing.push(SigningKey::from_text(&origin, seed.trim())?);
        }
        if signing.is_empty() {
            return Err(NO_SEAL_KEY);
        }
        Ok(SealKeys { origin, signing, former })
    }
}

const NO_SEAL_KEY: SettingsError =
    SettingsError::NoSecret { what: "key that signs checkpoints", variable: "EXODRIVE_SEAL_KEYS" };
