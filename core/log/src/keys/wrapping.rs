//! The keys from configuration that wrap the data keys, and the ciphers of both.

use crate::error::KeyError;
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use ring::{hkdf, hmac};
use std::{collections::BTreeMap, fmt, sync::Arc};
use zeroize::Zeroizing;

const NONCE: usize = 24;

/// The keys from configuration that wrap the data keys, by version. The newest
/// wraps new ones, the others open what they wrapped.
#[derive(Clone)]
pub struct WrappingKeys(Arc<BTreeMap<u32, XChaCha20Poly1305>>);

impl fmt::Debug for WrappingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappingKeys({:?})", self.0.keys())
    }
}

/// A text that is not a set of wrapping keys.
#[derive(Debug, thiserror::Error)]
#[error(
    "wrapping keys are written as <version>:<base64 of 32 bytes>, several with commas or line ends between; the highest version is used for new keys"
)]
pub struct WrappingKeysError;

impl WrappingKeys {
    /// Reads `1:<base64 of 32 bytes>,2:…`; keys may also be on lines of their
    /// own.
    ///
    /// # Errors
    /// When a key is malformed, or there is no key.
    pub fn parse(text: &str) -> Result<Self, WrappingKeysError> {
        let mut keys = BTreeMap::new();
        for part in text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
            let (version, key) = part.split_once(':').ok_or(WrappingKeysError)?;
            let version = version.parse().map_err(|_| WrappingKeysError)?;
            let key = Zeroizing::new(BASE64.decode(key).map_err(|_| WrappingKeysError)?);
            let cipher = XChaCha20Poly1305::new_from_slice(&key).map_err(|_| WrappingKeysError)?;
            if keys.insert(version, cipher).is_some() {
                return Err(WrappingKeysError);
            }
        }
        if keys.is_empty() { Err(WrappingKeysError) } else { Ok(Self(Arc::new(keys))) }
    }

    /// The version that wraps new keys.
    pub(crate) fn newest(&self) -> Option<u32> {
        self.0.last_key_value().map(|(version, _)| *version)
    }

    pub(super) fn wrap(&self, name: &str, key: &DataKey) -> Option<(u32, Vec<u8>)> {
        let (version, cipher) = self.0.last_key_value()?;
        Some((*version, encrypt(cipher, &wrapped_as(name, *version), key.as_slice())?))
    }

    pub(super) fn unwrap(
        &self,
        name: &str,
        version: u32,
        wrapped: &[u8],
    ) -> Result<DataKey, KeyError> {
        let unknown = || KeyError::Wrapping { name: name.to_owned(), version };
        let cipher = self.0.get(&version).ok_or_else(unknown)?;
        let key = decrypt(cipher, &wrapped_as(name, version), wrapped).map(Zeroizing::new);
        let key = key.ok_or_else(unknown)?;
        key.as_slice().try_into().map(Zeroizing::new).map_err(|_| unknown())
    }
}

/// A key that encrypts data. Its bytes are overwritten when it is dropped.
pub(super) type DataKey = Zeroizing<[u8; 32]>;

/// A new key.
pub(super) fn random_key() -> DataKey {
    Zeroizing::new(rand::random())
}

/// What a data key is used for. Nothing of it is left when the key is destroyed.
#[derive(Clone)]
pub(crate) struct OpenKey {
    /// Encrypts data.
    pub(crate) cipher: XChaCha20Poly1305,
    mac: Arc<hmac::Key>,
}

impl OpenKey {
    /// Opens a key. The key for MACs is derived from it (HKDF, RFC 5869).
    pub(super) fn new(key: &DataKey) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"exodrive data key");
        let secret = salt.extract(key.as_slice());
        let mac: hmac::Key = match secret.expand(&[b"mac".as_slice()], hmac::HMAC_SHA256) {
            Ok(derived) => derived.into(),
            // It is never longer than 255 hashes.
            Err(ring::error::Unspecified) => hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
        };
        Self { cipher: XChaCha20Poly1305::new((&**key).into()), mac: Arc::new(mac) }
    }

    /// A MAC, of 16 bytes, that nobody can make or check once the key is destroyed.
    pub(crate) fn mac(&self, about: &str, body: &[u8]) -> [u8; 16] {
        mac(&self.mac, about, body)
    }
}

/// The first 16 bytes of HMAC-SHA256 of two texts.
pub(super) fn mac(key: &hmac::Key, about: &str, body: &[u8]) -> [u8; 16] {
    let mut context = hmac::Context::with_key(key);
    context.update(about.as_bytes());
    context.update(&[0]);
    context.update(body);
    let mut first = [0; 16];
    first.copy_from_slice(&context.sign().as_ref()[..16]);
    first
}

/// The identity that a wrapped key is bound to.
fn wrapped_as(name: &str, version: u32) -> Vec<u8> {
    format!("exodrive data key\0{name}\0{version}").into_bytes()
}

/// Nonce and ciphertext.
pub(crate) fn encrypt(cipher: &XChaCha20Poly1305, about: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let nonce = rand::random::<[u8; NONCE]>();
    let payload = Payload { msg: plain, aad: about };
    let sealed = cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
    let mut out = Vec::with_capacity(NONCE + sealed.len());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Some(out)
}

/// Decrypts the output of [`encrypt`]; `None` if it was changed, or belongs to
/// another identity.
pub(crate) fn decrypt(cipher: &XChaCha20Poly1305, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
    cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: about }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_follows_from_its_key_alone() {
        let open = |byte| OpenKey::new(&Zeroizing::new([byte; 32]));
        assert_eq!(open(1).mac("a", b"b"), open(1).mac("a", b"b"));
        assert_ne!(open(1).mac("a", b"b"), open(2).mac("a", b"b"));
        assert_ne!(open(1).mac("a", b"b"), open(1).mac("a", b"c"));
    }

    #[test]
    fn wrapping_keys_are_read_and_the_newest_wraps() {
        let one = format!("1:{}", BASE64.encode([1; 32]));
        let both = format!("{one}\n2:{}\n", BASE64.encode([2; 32]));
        let (old, new) = (WrappingKeys::parse(&one).unwrap(), WrappingKeys::parse(&both).unwrap());
        let key = Zeroizing::new([7; 32]);
        let (version, wrapped) = old.wrap("email.a", &key).unwrap();
        assert_eq!(new.unwrap("email.a", version, &wrapped).unwrap(), key);
        assert_eq!(new.wrap("email.a", &key).unwrap().0, 2);
        assert_eq!(new.newest(), Some(2));
        assert!(new.unwrap("email.b", version, &wrapped).is_err(), "under another name");
        assert!(new.unwrap("email.a", 2, &wrapped).is_err(), "by another key");
        assert!(!format!("{new:?}").contains(&BASE64.encode([2; 32])));
        for wrong in ["", "1:", "x:AAAA", "1:AAAA", &format!("{one},{one}")] {
            assert!(WrappingKeys::parse(wrong).is_err(), "{wrong}");
        }
    }
}
