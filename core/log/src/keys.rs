//! The keys that encrypt personal data in the log. They are in a stream of
//! their own beside it (`exo-keys.<name>`), so that one can be destroyed while
//! the log does not change.
//!
//! Each is wrapped (encrypted) by a key from configuration. Three cases are
//! kept apart. A key that was destroyed leaves a tombstone. A key that is
//! missing without a tombstone is an error, and no fold skips it. A stream that
//! does not answer is tried again.

use crate::{
    error::KeyError,
    names::{KEYS_PREFIX, KEYS_STREAM},
};
use async_nats::{
    HeaderMap, header,
    jetstream::{
        Context,
        context::PublishErrorKind,
        message::PublishMessage,
        stream::{DirectGetErrorKind, LastRawMessageErrorKind, Stream},
    },
};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use chrono::{DateTime, Utc};
use exodrive_domain::{id::ErasureId, personal::KeyScope, time};
use futures::StreamExt;
use moka::sync::Cache;
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    error::Error,
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The longest time for which a process may use a key after its destruction.
pub const KEY_CACHE: Duration = Duration::from_secs(10);
const CACHED_KEYS: u64 = 100_000;
/// The number of keys in one request; the server takes 1,024.
const AT_ONCE: usize = 512;
/// Up to this number, keys are requested one by one.
const FEW: usize = 3;
/// The timeout of an answer of the server.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// What the key for the MACs of copies is derived for.
const COPIES: &[u8] = b"copies outside of the log";

/// Name of the key for the MACs of received bytes. It is never destroyed: it
/// decrypts no data.
const MAC_KEY: &str = "mac";
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

    fn wrap(&self, name: &str, key: &[u8; 32]) -> Option<(u32, Vec<u8>)> {
        let (version, cipher) = self.0.last_key_value()?;
        Some((*version, encrypt(cipher, &wrapped_as(name, *version), key)?))
    }

    fn unwrap(&self, name: &str, version: u32, wrapped: &[u8]) -> Result<DataKey, KeyError> {
        let unknown = || KeyError::Wrapping { name: name.to_owned(), version };
        let cipher = self.0.get(&version).ok_or_else(unknown)?;
        let key = decrypt(cipher, &wrapped_as(name, version), wrapped).map(Zeroizing::new);
        let key = key.ok_or_else(unknown)?;
        key.as_slice().try_into().map(Zeroizing::new).map_err(|_| unknown())
    }
}

/// A key that encrypts data. Its bytes are overwritten when it is dropped.
type DataKey = Zeroizing<[u8; 32]>;

/// A new key.
fn random_key() -> DataKey {
    Zeroizing::new(rand::random())
}

fn cipher(key: &DataKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
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

/// A data key, or the fact that it was erased.
#[derive(Clone)]
pub(crate) enum KeyState {
    Key(XChaCha20Poly1305),
    Erased,
}

/// A record of the key store.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Key { wrapped_by: u32, wrapped: String },
    Erased { erasure: ErasureId, at: String },
}

/// The data keys of a log, with a cache of those in use. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KeyStore {
    context: Context,
    stream: Stream,
    wrapping: WrappingKeys,
    cache: Cache<String, KeyState>,
    mac: hmac::Key,
    /// Made of `mac`, so that no MAC of an event is one of a copy.
    copies: hmac::Key,
}

fn subject(name: &str) -> String {
    format!("{KEYS_PREFIX}.{name}")
}

/// The first name of a scope's keys.
fn name_of(scope: &KeyScope) -> String {
    match scope {
        KeyScope::Email(id) => format!("email.{id}"),
        // A provider's id may contain any character; its digest is valid in a
        // subject.
        KeyScope::Delivery(id) => {
            let digest = digest::digest(&digest::SHA256, id.as_bytes());
            format!("delivery.{}", hex::encode(&digest.as_ref()[..16]))
        }
        KeyScope::Customer(id) => format!("customer.{id}"),
        KeyScope::Erasure(id) => format!("erasure.{id}"),
    }
}

/// What the MAC of a copy is made of. A name holds no zero byte.
fn named(name: &str, copy: &str) -> Vec<u8> {
    [name.as_bytes(), &[0], copy.as_bytes()].concat()
}

impl KeyStore {
    /// Opens the key store and the key that makes MACs, which proves that the
    /// wrapping keys are the right ones.
    pub(crate) async fn open(
        context: Context,
        stream: Stream,
        wrapping: WrappingKeys,
    ) -> Result<Self, KeyError> {
        let cache = Cache::builder().max_capacity(CACHED_KEYS).time_to_live(KEY_CACHE).build();
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
        let copies = mac.clone();
        let mut store = Self { context, stream, wrapping, cache, mac, copies };
        let key = match store.read_stored(MAC_KEY).await? {
            Some(stored) => store.unwrap(MAC_KEY, &stored)?,
            None => {
                let key = random_key();
                match store.put(MAC_KEY, &key).await? {
                    true => Some(key),
                    false => match store.read_stored(MAC_KEY).await? {
                        Some(stored) => store.unwrap(MAC_KEY, &stored)?,
                        None => None,
                    },
                }
            }
        };
        let key = key.ok_or_else(|| KeyError::Malformed(MAC_KEY.to_owned()))?;
        store.mac = hmac::Key::new(hmac::HMAC_SHA256, key.as_slice());
        let derived = hmac::sign(&store.mac, COPIES);
        store.copies = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        Ok(store)
    }

    /// A copy with its MAC before it: 64 hexadecimal digits and a line feed.
    pub(crate) fn seal_copy(&self, name: &str, copy: &str) -> String {
        let tag = hmac::sign(&self.copies, &named(name, copy));
        format!("{}\n{copy}", hex::encode(tag))
    }

    /// The copy, if its MAC is of these keys and of this name.
    pub(crate) fn open_copy<'a>(&self, name: &str, sealed: &'a str) -> Option<&'a str> {
        let (tag, copy) = sealed.split_once('\n')?;
        let tag = hex::decode(tag).ok()?;
        hmac::verify(&self.copies, &named(name, copy), &tag).ok()?;
        Some(copy)
    }

    /// A keyed MAC, 32 hexadecimal digits.
    pub(crate) fn mac(&self, about: &str, body: &[u8]) -> String {
        hex::encode(self.mac_bytes(about, body))
    }

    /// The same, as 16 bytes.
    pub(crate) fn mac_bytes(&self, about: &str, body: &[u8]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(about.as_bytes());
        context.update(&[0]);
        context.update(body);
        let mut first = [0; 16];
        first.copy_from_slice(&context.sign().as_ref()[..16]);
        first
    }

    /// The key to encrypt with, and its name; makes a key if there is no key
    /// yet. An erased scope gets a new key if its person may give data again.
    /// Otherwise it gets a key that is not stored, so that late data is erased
    /// at once.
    pub(crate) async fn for_append(
        &self,
        scope: &KeyScope,
    ) -> Result<(String, XChaCha20Poly1305), KeyError> {
        let first = name_of(scope);
        let mut name = first.clone();
        for again in 2.. {
            match self.find_or_make(&name).await? {
                KeyState::Key(cipher) => return Ok((name, cipher)),
                KeyState::Erased if matches!(scope, KeyScope::Customer(_)) => {
                    name = format!("{first}.{again}");
                }
                KeyState::Erased => break,
            }
        }
        Ok((name, cipher(&random_key())))
    }

    async fn find_or_make(&self, name: &str) -> Result<KeyState, KeyError> {
        if let Some(held) = self.cache.get(name) {
            return Ok(held);
        }
        // Most keys that are not cached do not exist yet.
        let key = random_key();
        if self.put(name, &key).await? {
            let held = KeyState::Key(cipher(&key));
            self.cache.insert(name.to_owned(), held.clone());
            return Ok(held);
        }
        self.find_key(name).await?.ok_or_else(|| KeyError::Malformed(name.to_owned()))
    }

    /// Keys by name; a name that is not in the answer is missing.
    pub(crate) async fn find_all(
        &self,
        names: HashSet<&str>,
    ) -> Result<HashMap<String, KeyState>, KeyError> {
        let mut all = HashMap::with_capacity(names.len());
        let mut missing = Vec::new();
        for name in names {
            match self.cache.get(name) {
                Some(held) => drop(all.insert(name.to_owned(), held)),
                None => missing.push(name),
            }
        }
        for names in missing.chunks(AT_ONCE) {
            // A few keys are read one by one below, which is less work.
            if names.len() > FEW {
                for (name, stored) in self.read_many(names).await? {
                    let held = self.keep(&name, &stored)?;
                    all.insert(name, held);
                }
            }
            for name in names {
                if !all.contains_key(*name)
                    && let Some(held) = self.find_key(name).await?
                {
                    all.insert((*name).to_owned(), held);
                }
            }
        }
        Ok(all)
    }

    pub(crate) async fn find_key(&self, name: &str) -> Result<Option<KeyState>, KeyError> {
        if let Some(held) = self.cache.get(name) {
            return Ok(Some(held));
        }
        match self.read_stored(name).await? {
            Some(stored) => self.keep(name, &stored).map(Some),
            None => Ok(None),
        }
    }

    /// Unwraps the key of a record and caches it for [`KEY_CACHE`].
    fn keep(&self, name: &str, stored: &Stored) -> Result<KeyState, KeyError> {
        let held = match self.unwrap(name, stored)? {
            Some(key) => KeyState::Key(cipher(&key)),
            None => KeyState::Erased,
        };
        self.cache.insert(name.to_owned(), held.clone());
        Ok(held)
    }

    /// The key; `None` if it was erased.
    fn unwrap(&self, name: &str, stored: &Stored) -> Result<Option<DataKey>, KeyError> {
        match stored {
            Stored::Erased { .. } => Ok(None),
            Stored::Key { wrapped_by, wrapped } => {
                let wrapped = BASE64.decode(wrapped);
                let wrapped = wrapped.map_err(|_| KeyError::Malformed(name.to_owned()))?;
                self.wrapping.unwrap(name, *wrapped_by, &wrapped).map(Some)
            }
        }
    }

    /// The records of many names by one request, which the client has no call
    /// for (`multi_last`,
    /// <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md>).
    /// Those that the server does not have are not in the answer.
    async fn read_many(&self, names: &[&str]) -> Result<Vec<(String, Stored)>, KeyError> {
        let client = self.context.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(key_store_unavailable)?;
        let subjects: Vec<_> = names.iter().map(|name| subject(name)).collect();
        let request = serde_json::json!({ "multi_last": subjects }).to_string();
        let asked = format!("$JS.API.DIRECT.GET.{KEYS_STREAM}");
        client
            .publish_with_reply(asked, inbox, request.into())
            .await
            .map_err(key_store_unavailable)?;
        let mut found = Vec::with_capacity(names.len());
        loop {
            let answer =
                timeout(READ_TIMEOUT, answers.next()).await.map_err(key_store_unavailable)?;
            let answer = answer.ok_or(KeyError::Unavailable(None))?;
            match answer.status.map(|status| status.as_u16()) {
                None => {}
                // The end, or the answer that there is no match.
                Some(204 | 404) => return Ok(found),
                Some(_) => return Err(KeyError::Unavailable(None)),
            }
            let headers = answer.headers.as_ref();
            let subject = headers.and_then(|headers| headers.get(header::NATS_SUBJECT));
            let subject = subject.map(|subject| subject.as_str());
            let name = subject.and_then(|it| it.strip_prefix(KEYS_PREFIX)?.strip_prefix('.'));
            let name = name
                .ok_or_else(|| KeyError::Malformed("of an answer without a name".to_owned()))?
                .to_owned();
            match serde_json::from_slice(&answer.payload) {
                Ok(stored) => found.push((name, stored)),
                Err(_) => return Err(KeyError::Malformed(name)),
            }
        }
    }

    async fn read_stored(&self, name: &str) -> Result<Option<Stored>, KeyError> {
        let body = match self.stream.direct_get_last_for_subject(subject(name)).await {
            Ok(message) => message.payload,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {
                // A replica that is behind gives the same answer; only the leader's counts.
                match self.stream.get_last_raw_message_by_subject(&subject(name)).await {
                    Ok(message) => message.payload,
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                        return Ok(None);
                    }
                    Err(error) => return Err(key_store_unavailable(error)),
                }
            }
            Err(error) => return Err(key_store_unavailable(error)),
        };
        let stored = serde_json::from_slice(&body);
        stored.map(Some).map_err(|_| KeyError::Malformed(name.to_owned()))
    }

    /// Stores a new key; `false` if there is one, or a tombstone.
    async fn put(&self, name: &str, key: &[u8; 32]) -> Result<bool, KeyError> {
        let (wrapped_by, wrapped) =
            self.wrapping.wrap(name, key).ok_or_else(|| KeyError::Encode(name.to_owned()))?;
        let stored = Stored::Key { wrapped_by, wrapped: BASE64.encode(wrapped) };
        self.publish(name, &stored, 0).await
    }

    /// Stores a record if the name's last one is at `last`.
    async fn publish(&self, name: &str, stored: &Stored, last: u64) -> Result<bool, KeyError> {
        let body = serde_json::to_vec(stored);
        let body = body.map_err(|_| KeyError::Encode(name.to_owned()))?;
        let message = PublishMessage::build()
            .headers(HeaderMap::new())
            .payload(body.into())
            .expected_stream(KEYS_STREAM)
            .expected_last_subject_sequence(last);
        let sent = self.context.send_publish(subject(name), message).await;
        match async { sent?.await }.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
            Err(error) => Err(key_store_unavailable(error)),
        }
    }

    /// Destroys a key: leaves a tombstone, then makes the server overwrite
    /// the key on disk. May be repeated: a destroyed key is not made again.
    pub(crate) async fn destroy(
        &self,
        name: &str,
        erasure: ErasureId,
        at: DateTime<Utc>,
    ) -> Result<(), KeyError> {
        let tombstone = loop {
            let last = match self.stream.get_last_raw_message_by_subject(&subject(name)).await {
                Ok(message) => Some(message),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
                Err(error) => return Err(key_store_unavailable(error)),
            };
            if let Some(last) = &last
                && let Ok(Stored::Erased { .. }) = serde_json::from_slice(&last.payload)
            {
                break last.sequence;
            }
            let stored = Stored::Erased { erasure, at: time::format(&at) };
            let position = last.map_or(0, |last| last.sequence);
            self.publish(name, &stored, position).await?;
        };
        self.cache.insert(name.to_owned(), KeyState::Erased);
        loop {
            let first = self.stream.direct_get_next_for_subject(subject(name), Some(1)).await;
            match first {
                Ok(message) if message.sequence < tombstone => {
                    // Overwrites it, unlike a purge.
                    self.stream
                        .delete_message(message.sequence)
                        .await
                        .map_err(key_store_unavailable)?;
                }
                Ok(_) => return Ok(()),
                Err(error) => return Err(key_store_unavailable(error)),
            }
        }
    }

    /// True if a key is destroyed.
    pub(crate) async fn is_destroyed(&self, name: &str) -> Result<bool, KeyError> {
        Ok(matches!(self.read_stored(name).await?, Some(Stored::Erased { .. })))
    }
}

fn key_store_unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> KeyError {
    KeyError::Unavailable(Some(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keys_are_read_and_the_newest_wraps() {
        let one = format!("1:{}", BASE64.encode([1; 32]));
        let both = format!("{one}\n2:{}\n", BASE64.encode([2; 32]));
        let (old, new) = (WrappingKeys::parse(&one).unwrap(), WrappingKeys::parse(&both).unwrap());
        let (version, wrapped) = old.wrap("email.a", &[7; 32]).unwrap();
        assert_eq!(new.unwrap("email.a", version, &wrapped).unwrap(), Zeroizing::new([7; 32]));
        assert_eq!(new.wrap("email.a", &[7; 32]).unwrap().0, 2);
        assert!(new.unwrap("email.b", version, &wrapped).is_err(), "under another name");
        assert!(new.unwrap("email.a", 2, &wrapped).is_err(), "by another key");
        assert!(!format!("{new:?}").contains(&BASE64.encode([2; 32])));
        for wrong in ["", "1:", "x:AAAA", "1:AAAA", &format!("{one},{one}")] {
            assert!(WrappingKeys::parse(wrong).is_err(), "{wrong}");
        }
    }
}
