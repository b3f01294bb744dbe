//! Personal data in events: its mark, its owner, and the value that replaces it
//! once it is erased.

use crate::{
    EMAIL_IMPORTED, Subject, WEBHOOK_RECEIVED, json,
    value::{address_key, mailboxes},
};
use serde_json::Value;
use std::fmt;

/// The text that readers see for erased personal data.
pub const ERASED: &str = "erased";

/// The key that an event has instead of [`MARK`] once the data under it is
/// erased.
pub const ERASED_MARK: &str = "$erased";

/// Fields of bookings' events that hold free text. They may hold personal data,
/// although no [`Personal`] marks them.
pub const FREE_TEXT: [&str; 3] = ["reason", "reference", "document"];

/// A type with a value that replaces erased data.
pub trait Erasable {
    /// The value that replaces erased data.
    fn erased() -> Self;
}

impl Erasable for String {
    fn erased() -> Self {
        ERASED.to_owned()
    }
}

impl<T: Erasable> Erasable for Option<T> {
    fn erased() -> Self {
        Some(T::erased())
    }
}

/// The personal part of an event's body, and the key that encrypts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protected {
    /// The event holds no personal data.
    Nothing,
    /// The whole body, byte for byte, as a provider sent it. One key for each
    /// email; for a delivery about no email, one of its own.
    Whole(KeyScope),
    /// The parts that are marked in the JSON ([`MARK`], [`FREE_TEXT`]).
    Marked(KeyScope),
}

/// The owner of a data key: all data that is encrypted with one key is erased
/// together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyScope {
    /// One email, by its id.
    Email(String),
    /// One delivery's, about no email, by the provider's message id.
    Delivery(String),
    /// One customer's, by id. May give data again after an erasure: then there
    /// is a new key.
    Customer(String),
    /// One erasure's: the address that it is about.
    Erasure(String),
}

/// The manner in which a body names a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// In passing: in the middle of a text.
    Mention,
    /// As a person that it is about: as an address of its own.
    Own,
}

/// Finds an email address, given by its [`address_key`], in a body.
pub fn trace(body: &[u8], address: &str) -> Option<Trace> {
    match json::parse(body) {
        Some(body) => trace_in(&body, address),
        None => {
            String::from_utf8_lossy(body).to_lowercase().contains(address).then_some(Trace::Mention)
        }
    }
}

fn trace_in(value: &Value, address: &str) -> Option<Trace> {
    match value {
        Value::String(text) => {
            let is_own = |mailbox: &String| address_key(mailbox) == address;
            if text.contains('@') && mailboxes(text).iter().any(is_own) {
                return Some(Trace::Own);
            }
            address_key(text).contains(address).then_some(Trace::Mention)
        }
        Value::Array(items) => items.iter().filter_map(|item| trace_in(item, address)).max(),
        Value::Object(fields) => {
            let named = fields.keys().any(|name| address_key(name).contains(address));
            let within = fields.values().filter_map(|value| trace_in(value, address)).max();
            within.max(named.then_some(Trace::Mention))
        }
        _ => None,
    }
}

/// True for the types of events whose body is as somebody else sent it, byte for byte.
pub fn is_received(kind: &str) -> bool {
    kind == WEBHOOK_RECEIVED || kind == EMAIL_IMPORTED
}

/// True for the types of events that say who a customer is.
pub fn introduces_customer(kind: &str) -> bool {
    let kinds =
        ["exodrive.booking.held", "exodrive.booking.customer_changed", "exodrive.booking.imported"];
    kinds.contains(&kind)
}

/// Returns the personal part of an event. `body` is called only if that part is
/// inside the JSON; the parsed body is returned too.
pub fn protected(
    kind: &str,
    id: &str,
    subject: &Subject,
    body: impl FnOnce() -> Option<Value>,
) -> (Protected, Option<Value>) {
    if is_received(kind) {
        let scope = match subject {
            Subject::Email(email) => KeyScope::Email(email.to_string()),
            _ => KeyScope::Delivery(id.to_owned()),
        };
        return (Protected::Whole(scope), None);
    }
    let scoped: (&str, fn(String) -> KeyScope) = match subject {
        Subject::Booking(_) => ("customer_id", KeyScope::Customer),
        Subject::Erasure(_) => ("erasure_id", KeyScope::Erasure),
        _ => return (Protected::Nothing, None),
    };
    let Some(body) = body() else { return (Protected::Nothing, None) };
    let owner = body.get(scoped.0).and_then(Value::as_str).map(str::to_owned);
    match owner {
        Some(owner) => (Protected::Marked(scoped.1(owner)), Some(body)),
        None => (Protected::Nothing, Some(body)),
    }
}

/// Personal data. `Debug` does not show it, and it has no `Serialize` of its
/// own. A field of an event declares `#[serde(with = "personal::marked")]`,
/// which writes it under [`MARK`]. So the code that stores events finds all of
/// it in the JSON without knowing the types.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Personal<T>(pub T);

/// The one key of a JSON object that holds personal data.
pub const MARK: &str = "$personal";

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(personal)")
    }
}

/// Serde adapter: `{"$personal": …}`.
pub mod marked {
    use super::{Erasable, Personal};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize)]
    struct Marked<T> {
        #[serde(rename = "$personal")]
        value: T,
    }

    #[derive(Deserialize)]
    #[serde(bound = "T: Deserialize<'de>")]
    struct Found<T> {
        #[serde(rename = "$personal", default, deserialize_with = "present")]
        value: Option<T>,
        #[serde(rename = "$erased", default)]
        erased: bool,
    }

    /// Reads a field that is present, although it may be null.
    fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Option<T>, D::Error> {
        T::deserialize(input).map(Some)
    }

    /// Writes the value under the mark.
    pub fn serialize<T: Serialize, S: Serializer>(
        personal: &Personal<T>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        Marked { value: &personal.0 }.serialize(out)
    }

    /// Reads the output of [`serialize`], and an erased value.
    pub fn deserialize<'de, T: Deserialize<'de> + Erasable, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Personal<T>, D::Error> {
        match Found::deserialize(input)? {
            Found { erased: true, .. } => Ok(Personal(T::erased())),
            Found { value: Some(value), .. } => Ok(Personal(value)),
            Found { value: None, .. } => Err(D::Error::missing_field("$personal")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Note {
        #[serde(with = "marked")]
        text: Personal<String>,
    }

    #[test]
    fn it_is_marked_in_json_and_hidden_in_debug() {
        let note = Note { text: Personal("call Dana".into()) };
        let json = serde_json::to_value(&note).unwrap();
        assert_eq!(json, serde_json::json!({"text": {MARK: "call Dana"}}));
        assert_eq!(serde_json::from_value::<Note>(json).unwrap(), note);
        assert!(!format!("{note:?}").contains("Dana"));
    }

    #[test]
    fn events_that_say_who_a_customer_is_are_of_known_types() {
        let kinds = crate::booking::BookingChange::KINDS;
        let found: Vec<_> = kinds.iter().filter(|kind| introduces_customer(kind)).collect();
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn a_person_is_found_as_an_address_or_as_a_mention() {
        let found = |body: &str| trace(body.as_bytes(), "dana@example.com");
        assert_eq!(found(r#"{"data":{"to":["DANA@example.com"]}}"#), Some(Trace::Own));
        assert_eq!(found(r#"{"from":"Dana Ray <dana@example.com>"}"#), Some(Trace::Own));
        assert_eq!(found(r#"{"a":["x"],"b":"ask dana@example.com"}"#), Some(Trace::Mention));
        assert_eq!(found(r#"{"to":["d\u0061na@example.com"]}"#), Some(Trace::Own));
        assert_eq!(found("no JSON: dana@example.com"), Some(Trace::Mention));
        assert_eq!(found(r#"{"to":["bo@example.com"]}"#), None);
    }

    #[test]
    fn an_erased_value_is_marked() {
        let note: Note = serde_json::from_str(r#"{"text":{"$erased":true}}"#).unwrap();
        assert_eq!(note.text.0, ERASED);
        assert!(serde_json::from_str::<Note>(r#"{"text":{}}"#).is_err());
    }
}
