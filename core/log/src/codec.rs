//! The encoding between an event and its stored message: personal data is
//! encrypted on append and decrypted on read. No other part of the system sees
//! ciphertext.
//!
//! A provider's delivery is encrypted whole, with its signature, which is a MAC
//! of it. The body is a byte 1, a nonce of 24 bytes, and XChaCha20-Poly1305 of
//! (length and JSON of the hidden headers, the received bytes). Of other
//! events, the marked values are taken out and encrypted together, under
//! `$sealed`. The ciphertext is bound to the event's identity, so that it
//! cannot be moved to another event.

use crate::{
    error::{AppendError, ReadError},
    event::{NewEvent, StoredMessage},
    keys::{KeyState, KeyStore, decrypt, encrypt},
    wire,
};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use chacha20poly1305::XChaCha20Poly1305;
use chrono::{DateTime, Utc};
use exodrive_domain::{
    Delivery, Protection, Recorded,
    personal::{
        ERASED, ERASED_MARK, FREE_TEXT, KeyScope, MARK, Protected, introduces_customer,
        is_received, protected,
    },
    time,
};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// The data key's name.
const KEY: &str = "exo-key";
/// Header of [`Protection::mac`].
const MAC: &str = "exo-mac";
/// The beginning of a MAC whose key is derived from the data key, and dies with it. The key of those
/// without it is the log's own, for ever: earlier releases have made them.
const OF_DATA_KEY: &str = "k1-";
/// Header of [`Protection::provider_type`].
const PROVIDER_TYPE: &str = "exo-provider-type";
/// Header of [`Protection::happened_at`].
const HAPPENED_AT: &str = "exo-happened-at";
/// The field of a JSON body that holds the ciphertext of its marked values.
/// Each marked value is replaced by its number.
const SEALED: &str = "$sealed";
/// The first byte of a body that is encrypted whole. No JSON begins so.
const WHOLE: u8 = 1;
/// MACs of the received bytes: with the secret, a reader could use them to test
/// guesses of the erased data.
const HIDDEN: [&str; 2] = ["svix-signature", "webhook-signature"];
/// A provider's type is shown to everybody only if it looks like one.
const LONGEST_TYPE: usize = 64;

/// An event in the form in which it is stored.
pub(crate) struct Encoded {
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) provider_headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// Encrypts the personal data of an event.
///
/// # Errors
/// [`AppendError::Key`], [`AppendError::Encode`] or [`AppendError::TooLarge`].
pub(crate) async fn encode(keys: &KeyStore, event: &NewEvent) -> Result<Encoded, AppendError> {
    let plain = || Encoded {
        headers: Vec::new(),
        provider_headers: event.provider_headers.clone(),
        body: event.body.clone(),
    };
    let (kind, id) = (&event.envelope.kind, &event.envelope.id);
    let body = || serde_json::from_slice::<Value>(&event.body).ok();
    let (scope, marked) = match protected(kind, id, &event.subject, body) {
        (Protected::Whole(scope), _) => (scope, None),
        (Protected::Marked(scope), Some(mut body)) => {
            let mut taken = Vec::new();
            // The free text of other events was written by operators.
            let free_text: &[&str] = match scope {
                KeyScope::Customer(_) => &FREE_TEXT,
                _ => &[],
            };
            take_out(&mut body, free_text, &mut taken);
            if taken.is_empty() {
                return Ok(plain());
            }
            (scope, Some((body, taken)))
        }
        _ => return Ok(plain()),
    };
    let (name, key) = keys.for_append(&scope, introduces_customer(kind)).await?;
    let about = about(&name, kind, id, event.envelope.version, &event.subject.to_string());
    let unencrypted = || AppendError::encode("it cannot be encrypted");
    let mac = format!("{OF_DATA_KEY}{}", hex::encode(key.mac(id, &event.body)));
    let cipher = &key.cipher;
    let mut encoded = Encoded {
        headers: vec![(KEY, name.clone()), (MAC, mac)],
        provider_headers: Vec::new(),
        body: Bytes::new(),
    };
    if let Some((mut body, taken)) = marked {
        let values = serde_json::to_vec(&taken).map_err(AppendError::encode)?;
        let sealed = encrypt(cipher, &about, &values).ok_or_else(unencrypted)?;
        if let Value::Object(fields) = &mut body {
            fields.insert(SEALED.to_owned(), BASE64.encode(sealed).into());
        }
        encoded.body = serde_json::to_vec(&body).map_err(AppendError::encode)?.into();
        encoded.provider_headers = event.provider_headers.clone();
        return Ok(encoded);
    }
    let is_hidden = |name: &str| HIDDEN.contains(&name);
    let (hidden, shown): (Vec<_>, Vec<_>) =
        event.provider_headers.iter().cloned().partition(|(name, _)| is_hidden(name));
    let hidden = serde_json::to_vec(&hidden).map_err(AppendError::encode)?;
    let mut frame = Vec::with_capacity(4 + hidden.len() + event.body.len());
    let length = u32::try_from(hidden.len()).map_err(|_| AppendError::TooLarge)?;
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&hidden);
    frame.extend_from_slice(&event.body);
    let sealed = encrypt(cipher, &about, &frame).ok_or_else(unencrypted)?;
    let mut body = Vec::with_capacity(1 + sealed.len());
    body.push(WHOLE);
    body.extend_from_slice(&sealed);
    encoded.body = body.into();
    encoded.provider_headers = shown;
    let delivery = Delivery::parse(&event.body);
    if let Some(kind) = delivery.provider_type.filter(|kind| is_type(kind)) {
        encoded.headers.push((PROVIDER_TYPE, kind));
    }
    if let Some(at) = delivery.happened_at {
        encoded.headers.push((HAPPENED_AT, time::format(&at)));
    }
    Ok(encoded)
}

fn is_type(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_');
    text.len() <= LONGEST_TYPE && text.chars().all(valid)
}

/// The identity that a ciphertext is bound to.
fn about(key: &str, kind: &str, id: &str, version: u32, subject: &str) -> Vec<u8> {
    ["exodrive event", key, kind, id, &version.to_string(), subject].join("\0").into_bytes()
}

/// Takes personal values out, leaving their numbers.
fn take_out(value: &mut Value, free_text: &[&str], taken: &mut Vec<Value>) {
    fn take(value: &mut Value, taken: &mut Vec<Value>) {
        let number = json!({ SEALED: taken.len() });
        taken.push(std::mem::replace(value, number));
    }
    match value {
        Value::Object(fields) if fields.len() == 1 && fields.contains_key(MARK) => {
            fields.values_mut().for_each(|value| take(value, taken));
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                if free_text.contains(&name.as_str()) && value.is_string() {
                    take(value, taken);
                } else {
                    take_out(value, free_text, taken);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| take_out(item, free_text, taken)),
        _ => {}
    }
}

/// Puts values back; without them, marks them as erased. `None` if there is no value of a number.
fn put_back(value: &mut Value, values: Option<&[Value]>) -> Option<()> {
    match value {
        Value::Object(fields) => {
            if fields.len() == 1
                && let Some(number) = fields.get(SEALED).and_then(Value::as_u64)
            {
                *value = match values {
                    Some(values) => values.get(usize::try_from(number).ok()?)?.clone(),
                    None => ERASED.into(),
                };
                return Some(());
            }
            if values.is_none() && fields.len() == 1 && fields.contains_key(MARK) {
                *value = json!({ ERASED_MARK: true });
                return Some(());
            }
            fields.values_mut().try_for_each(|value| put_back(value, values))
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| put_back(item, values)),
        _ => Some(()),
    }
}

/// The events in stored messages, in the same order.
pub(crate) async fn decode(
    keys: &KeyStore,
    messages: Vec<StoredMessage>,
) -> Result<Vec<Recorded>, ReadError> {
    let names: HashSet<&str> = messages.iter().filter_map(key_name).collect();
    let held = match names.is_empty() {
        true => HashMap::new(),
        false => keys.find_all(names).await?,
    };
    messages.into_iter().map(|message| open(&held, message)).collect()
}

fn key_name(message: &StoredMessage) -> Option<&str> {
    header(&message.headers, KEY)
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
}

fn open(held: &HashMap<String, KeyState>, message: StoredMessage) -> Result<Recorded, ReadError> {
    let Some(key) = key_name(&message).map(str::to_owned) else {
        return Ok(wire::recorded(message));
    };
    let position = message.position;
    let text = |name| header(&message.headers, name).map(str::to_owned);
    let protection = Protection {
        // A message of somebody else has none: no repeat is like it.
        mac: text(MAC).unwrap_or_default(),
        erased: false,
        provider_type: text(PROVIDER_TYPE),
        happened_at: text(HAPPENED_AT)
            .as_deref()
            .and_then(|at| -> Option<DateTime<Utc>> { time::parse(at) }),
        key: key.clone(),
    };
    let mut recorded = wire::recorded(message);
    let cipher = match held.get(&key) {
        None => return Err(ReadError::KeyMissing { position, key }),
        Some(KeyState::Erased) => None,
        Some(KeyState::Key(key)) => Some(&key.cipher),
    };
    let valid = match recorded.body.first() {
        Some(&WHOLE) => open_whole(&mut recorded, &key, cipher),
        _ => open_marked(&mut recorded, &key, cipher),
    };
    let erased = match valid {
        Some(erased) => erased,
        None => return Err(ReadError::Changed { position, key }),
    };
    recorded.protection = Some(Protection { erased, ..protection });
    Ok(recorded)
}

/// Returns true if it is erased; `None` if it was changed after it was stored.
fn open_whole(
    recorded: &mut Recorded,
    key: &str,
    cipher: Option<&XChaCha20Poly1305>,
) -> Option<bool> {
    let Some(cipher) = cipher else {
        recorded.body = Bytes::new();
        return Some(true);
    };
    let frame = decrypt(cipher, &about_recorded(recorded, key), recorded.body.get(1..)?)?;
    let (length, _) = frame.split_first_chunk::<4>()?;
    let body = 4 + usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let hidden: Vec<(String, String)> = serde_json::from_slice(frame.get(4..body)?).ok()?;
    recorded.provider_headers.extend(hidden);
    recorded.provider_headers.sort_unstable();
    recorded.body = Bytes::from(frame).slice(body..);
    Some(false)
}

fn open_marked(
    recorded: &mut Recorded,
    key: &str,
    cipher: Option<&XChaCha20Poly1305>,
) -> Option<bool> {
    let mut body: Map<String, Value> = serde_json::from_slice(&recorded.body).ok()?;
    let sealed = body.remove(SEALED)?;
    let values: Option<Vec<Value>> = match cipher {
        None => None,
        Some(cipher) => {
            let sealed = BASE64.decode(sealed.as_str()?).ok()?;
            let values = decrypt(cipher, &about_recorded(recorded, key), &sealed)?;
            Some(serde_json::from_slice(&values).ok()?)
        }
    };
    for value in body.values_mut() {
        put_back(value, values.as_deref())?;
    }
    recorded.body = serde_json::to_vec(&body).ok()?.into();
    Some(values.is_none())
}

fn about_recorded(recorded: &Recorded, key: &str) -> Vec<u8> {
    let envelope = &recorded.envelope;
    about(key, &envelope.kind, &envelope.id, envelope.version, &recorded.subject)
}

/// True if a recorded event is the one that was to be appended: it has the same
/// id and the same received bytes, or the same JSON. What is erased is compared by its MAC, if an
/// earlier release has made it, and else with nothing.
pub(crate) fn is_same(keys: &KeyStore, event: &NewEvent, recorded: &Recorded) -> bool {
    let is_same_body = || {
        let parse = |body| serde_json::from_slice::<Value>(body).ok();
        // Of JSON with values taken out, the names are in another order afterwards.
        let is_json = !is_received(&event.envelope.kind);
        recorded.body == event.body
            || is_json && parse(&recorded.body).is_some_and(|it| parse(&event.body) == Some(it))
    };
    recorded.envelope.id == event.envelope.id
        && match &recorded.protection {
            None => recorded.body == event.body,
            Some(protection) if !protection.mac.starts_with(OF_DATA_KEY) => {
                protection.mac == keys.mac(&event.envelope.id, &event.body)
            }
            Some(protection) => !protection.erased && is_same_body(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z$]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,6}|reason", inner.clone(), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
                inner.prop_map(|value| json!({ MARK: value })),
            ]
        })
    }

    fn texts(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::String(text) => out.push(text.clone()),
            Value::Array(items) => items.iter().for_each(|item| texts(item, out)),
            Value::Object(fields) => fields.values().for_each(|value| texts(value, out)),
            _ => {}
        }
    }

    #[test]
    fn a_number_without_a_value_is_no_value() {
        let mut body = json!({ "notes": [{ SEALED: 0 }, { SEALED: 1 }] });
        assert_eq!(put_back(&mut body, Some(&[json!("one")])), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_out_is_put_back(body in any_json()) {
            let (mut changed, mut taken) = (body.clone(), Vec::new());
            take_out(&mut changed, &FREE_TEXT, &mut taken);
            prop_assert_eq!(put_back(&mut changed, Some(&taken)), Some(()));
            prop_assert_eq!(changed, body);
        }

        #[test]
        fn what_is_erased_is_nowhere(name in "[A-Z]{12}", at in any::<prop::sample::Index>()) {
            let mut fields = [json!(1), json!("status"), json!(null)];
            fields[at.index(3)] = json!({ MARK: { "name": [name.clone()] } });
            let mut body = json!({ "reason": name.clone(), "fields": fields });
            let mut taken = Vec::new();
            take_out(&mut body, &FREE_TEXT, &mut taken);
            prop_assert_eq!(put_back(&mut body, None), Some(()));
            let mut left = Vec::new();
            texts(&body, &mut left);
            prop_assert!(!left.contains(&name));
            prop_assert_eq!(&body["reason"], ERASED);
        }
    }
}
