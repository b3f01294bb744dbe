//! The keys that a token issuer publishes (JWKS, RFC 7517). One task fetches
//! them; requests read what it fetched last, and ask it for more.

use jsonwebtoken::{DecodingKey, jwk::JwkSet};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Bytes of the largest set of keys that is read.
const LARGEST_SET: usize = 1 << 20;
/// Time limit of a fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which a fetch that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Time for which a request waits for a fetch.
const WAIT: Duration = Duration::from_secs(6);

/// Keys by id. A set of one key may leave ids out, in the set and in tokens.
type KeySet = HashMap<Option<String>, DecodingKey>;

/// When keys are fetched, and how long they are believed.
#[derive(Clone, Copy, Debug)]
pub struct JwksTimes {
    /// Interval between two fetches.
    pub refresh: Duration,
    /// Age from which on keys are not believed.
    pub greatest_age: Duration,
    /// Shortest interval between two fetches that unknown key ids cause.
    pub unknown_key: Duration,
}

/// The reason why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer does not publish it.
    Unknown,
    /// The issuer's keys cannot be read, and were not for too long.
    Unavailable,
}

/// The keys of a token issuer. Cheap to clone.
#[derive(Clone)]
pub struct PublishedKeys(Arc<Shared>);

struct Shared {
    source: String,
    times: JwksTimes,
    seen: watch::Sender<Seen>,
    wanted: Notify,
}

/// What the fetches have given so far.
#[derive(Clone, Default)]
struct Seen {
    keys: Arc<KeySet>,
    /// Begin of the last fetch that succeeded.
    fetched: Option<Instant>,
    /// Number of fetches that have ended.
    fetches: u64,
    /// True if the last one failed.
    failed: bool,
    /// Begin of the last fetch that an unknown key id caused.
    wanted: Option<Instant>,
}

impl Seen {
    fn is_fresh(&self, times: JwksTimes) -> bool {
        self.fetched.is_some_and(|at| at.elapsed() < times.greatest_age)
    }

    fn may_be_wanted(&self, times: JwksTimes) -> bool {
        self.wanted.is_none_or(|at| at.elapsed() >= times.unknown_key)
    }

    fn find(&self, id: &Option<String>, times: JwksTimes) -> Result<DecodingKey, NoKey> {
        match (self.is_fresh(times), self.keys.get(id)) {
            (false, _) => Err(NoKey::Unavailable),
            (true, Some(key)) => Ok(key.clone()),
            // It may be published where it cannot be read.
            (true, None) if self.failed => Err(NoKey::Unavailable),
            (true, None) => Err(NoKey::Unknown),
        }
    }
}

impl PublishedKeys {
    /// The keys at a URL or in a file. They are there once
    /// [`PublishedKeys::follow`] runs.
    pub fn new(source: String, times: JwksTimes) -> Self {
        let (seen, wanted) = (watch::Sender::default(), Notify::new());
        Self(Arc::new(Shared { source, times, seen, wanted }))
    }

    /// A number that changes with every fetch; `None` while no key is believed.
    pub(super) fn generation(&self) -> Option<u64> {
        let seen = self.0.seen.borrow();
        seen.is_fresh(self.0.times).then_some(seen.fetches)
    }

    /// The key with this id, and the generation that it is of. An unknown id
    /// causes a fetch, unless one has caused a fetch a moment ago.
    ///
    /// # Errors
    /// [`NoKey`].
    pub(super) async fn key(&self, id: &Option<String>) -> Result<(DecodingKey, u64), NoKey> {
        let times = self.0.times;
        let mut seen = self.after(0).await?;
        let mut found = seen.find(id, times);
        if found.is_err() && seen.is_fresh(times) && seen.may_be_wanted(times) {
            self.0.wanted.notify_one();
            seen = self.after(seen.fetches).await?;
            found = seen.find(id, times);
        }
        found.map(|key| (key, seen.fetches))
    }

    /// What is known once more than this number of fetches have ended.
    async fn after(&self, fetches: u64) -> Result<Seen, NoKey> {
        let mut seen = self.0.seen.subscribe();
        let seen = timeout(WAIT, seen.wait_for(|seen| seen.fetches > fetches)).await;
        match seen {
            Ok(Ok(seen)) => Ok(seen.clone()),
            Ok(Err(_)) | Err(_) => Err(NoKey::Unavailable),
        }
    }

    /// Fetches the keys again and again until `stop` is cancelled, one fetch at
    /// a time.
    pub async fn follow(self, stop: CancellationToken) {
        let mut next = tokio::time::Instant::now();
        loop {
            let wanted = tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => false,
                () = self.0.wanted.notified() => true,
            };
            // Many may have asked at once, before the fetch that answers all.
            if wanted && !self.0.seen.borrow().may_be_wanted(self.0.times) {
                continue;
            }
            let began = Instant::now();
            let read = tokio::select! {
                () = stop.cancelled() => return,
                read = fetch(&self.0.source) => read,
            };
            if let Err(error) = &read {
                tracing::warn!(error, "Cannot read the token issuer's keys (EXODRIVE_JWT_JWKS)");
            }
            let pause = if read.is_ok() { self.0.times.refresh } else { RETRY };
            next = tokio::time::Instant::now() + pause.min(self.0.times.refresh);
            self.0.seen.send_modify(|seen| {
                seen.fetches += 1;
                seen.failed = read.is_err();
                if wanted {
                    seen.wanted = Some(began);
                }
                if let Ok(keys) = read {
                    (seen.keys, seen.fetched) = (Arc::new(keys), Some(began));
                }
            });
        }
    }
}

async fn fetch(source: &str) -> Result<KeySet, String> {
    let text = if source.starts_with("http://") || source.starts_with("https://") {
        // The address may have a password in it.
        let shown = |error: reqwest::Error| exodrive_runtime::error_chain(&error.without_url());
        let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).build().map_err(shown)?;
        let answer = client.get(source).send().await.and_then(|it| it.error_for_status());
        let mut answer = answer.map_err(shown)?;
        let mut text = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(shown)? {
            text.extend_from_slice(&part);
            if text.len() > LARGEST_SET {
                return Err(format!("it has more than {LARGEST_SET} bytes"));
            }
        }
        String::from_utf8(text).map_err(|error| error.to_string())?
    } else {
        tokio::fs::read_to_string(source).await.map_err(|error| error.to_string())?
    };
    read_keys(&text)
}

fn read_keys(text: &str) -> Result<KeySet, String> {
    let set: JwkSet = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let (mut keys, mut nameless) = (KeySet::new(), 0);
    for jwk in &set.keys {
        // A set may hold keys for others, of kinds that are not known here (RFC 7517, section 5).
        let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
        nameless += usize::from(jwk.common.key_id.is_none());
        keys.insert(jwk.common.key_id.clone(), key);
    }
    // A token without an id cannot say which of them it means.
    if nameless > 1 {
        tracing::warn!(nameless, "Keys of the token issuer without an id are not used");
        keys.remove(&None);
    }
    if keys.is_empty() {
        return Err("it has no key that is known here and that a token can name".to_owned());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::{super::token_crypto, *};
    use serde_json::{Value, json};

    #[test]
    fn a_set_that_does_not_end_is_not_read_to_its_end() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4_096];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut asked).await;
                let mut part = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
                while tokio::io::AsyncWriteExt::write_all(&mut stream, &part).await.is_ok() {
                    part = vec![b' '; 65_536];
                }
            });
            fetch(&format!("http://{address}/keys")).await.unwrap_err()
        });
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn keys_without_ids_do_not_hide_each_other() {
        token_crypto::install();
        let key = |x: &str| json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        let one = key("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let other = key("PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw");
        let mut named = one.clone();
        named["kid"] = json!("k1");
        let read = |keys: &[&Value]| read_keys(&json!({ "keys": keys }).to_string());
        assert!(read(&[&one]).unwrap().contains_key(&None));
        assert!(read(&[&one, &other]).is_err());
        let kept = read(&[&one, &other, &named]).unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), [&Some("k1".to_owned())]);
        assert!(read(&[]).is_err());
    }
}
