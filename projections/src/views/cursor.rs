//! Cursors: a place in a list as an opaque text. Callers write what they like into it, and only what
//! a list has written is taken: each place has one spelling.
//!
//! This file knows nothing of its crate, so that the fuzzer can be built without it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use exodrive_domain::time;

/// A place in a list, opaque to readers.
fn encode(parts: &[&str]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(parts.join("\n"))
}

/// The parts of a cursor with this many of them; `None` if the text is not such a cursor.
fn decode<const N: usize>(text: &str) -> Option<[String; N]> {
    let plain = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    if plain.contains('\0') {
        return None;
    }
    // The last part may be a name, and contain line feeds.
    let parts: Vec<_> = plain.splitn(N, '\n').map(str::to_owned).collect();
    parts.try_into().ok()
}

/// True if a text is a time as rows have it. They are compared as texts, so a time in another
/// spelling would be another place.
fn is_time(text: &str) -> bool {
    time::parse(text).is_some_and(|time| time::format(&time) == text)
}

/// The position that a cursor names which is nothing but a position.
pub fn parse_position(text: &str) -> Option<u64> {
    let position: u64 = text.parse().ok()?;
    // Positions are an `int64` for readers.
    let valid = i64::try_from(position).is_ok() && position.to_string() == text;
    valid.then_some(position)
}

/// A place in a history: a time, and a position in the log among what has that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) at: String,
    pub(crate) position: i64,
}

impl Place {
    /// The place that a cursor names, if a history has written it.
    pub fn parse(text: &str) -> Option<Self> {
        let [at, position] = decode(text)?;
        let place = Self { at, position: position.parse().ok()? };
        let valid = (place.at.is_empty() || is_time(&place.at)) && place.cursor() == text;
        valid.then_some(place)
    }

    /// The cursor that names it.
    pub(crate) fn cursor(&self) -> String {
        encode(&[&self.at, &self.position.to_string()])
    }
}

/// A place in a list of rows by a time: the time, and the key of a row among those that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPlace {
    pub(crate) at: String,
    pub(crate) key: String,
}

impl RowPlace {
    /// The place that a cursor names, if a list has written it.
    pub fn parse(text: &str) -> Option<Self> {
        let [at, key] = decode(text)?;
        let place = Self { at, key };
        (is_time(&place.at) && place.cursor() == text).then_some(place)
    }

    /// The cursor that names it.
    pub(crate) fn cursor(&self) -> String {
        encode(&[&self.at, &self.key])
    }
}

/// A place in a list that can be sorted in several ways: the name of the order, and the text by
/// which a row is sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedPlace {
    pub(crate) order: String,
    pub(crate) text: String,
}

impl SortedPlace {
    /// The place that a cursor names, if a list has written it in this order.
    pub fn parse(text: &str, order: &str) -> Option<Self> {
        let [named, sorted_by] = decode(text)?;
        let place = Self { order: named, text: sorted_by };
        (place.order == order && place.cursor() == text).then_some(place)
    }

    /// The cursor that names it.
    pub(crate) fn cursor(&self) -> String {
        encode(&[&self.order, &self.text])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_spelling_is_no_cursor() {
        const AT: &str = "2026-11-20T09:15:00.000000Z";
        let spelt = [
            " 2026-11-20T09:15:00.000000Z",
            "2026-11-20T10:15:00.000000+01:00",
            "2026-11-20T09:15:00Z",
            "noon",
        ];
        for at in spelt {
            assert_eq!(Place::parse(&encode(&[at, "7"])), None, "{at}");
            assert_eq!(RowPlace::parse(&encode(&[at, "em-1"])), None, "{at}");
        }
        for position in ["seven", "07", "+7", " 7", "9223372036854775808"] {
            assert_eq!(Place::parse(&encode(&[AT, position])), None, "{position}");
            assert_eq!(parse_position(position), None, "{position}");
        }
        let padded = encode(&[AT, "em-12"]) + "=";
        for other in ["", "%%%", "bm90IGEgY3Vyc29y", &padded, &encode(&[AT, "a\0"])] {
            assert_eq!(RowPlace::parse(other), None, "{other}");
        }
        let name = RowPlace::parse(&encode(&[AT, "a\nb"])).unwrap();
        assert_eq!(name.key, "a\nb");
    }
}
