//! Cursors: a place in a list as an opaque text. Callers write what they like into it.
//!
//! This file knows nothing of its crate, so that the fuzzer can be built without it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use exodrive_domain::time;

/// A place in a list, opaque to readers.
pub(crate) fn encode_cursor(parts: &[&str]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(parts.join("\n"))
}

/// The parts of a cursor with this many of them; `None` if the text is not such a cursor.
pub(crate) fn decode_cursor<const N: usize>(text: &str) -> Option<[String; N]> {
    let plain = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    if plain.contains('\0') {
        return None;
    }
    // The last part may be a name, and contain line feeds.
    let parts: Vec<_> = plain.splitn(N, '\n').map(str::to_owned).collect();
    parts.try_into().ok()
}

/// A place in a history: a time, and a position in the log among what has that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) at: String,
    pub(crate) position: i64,
}

impl Place {
    /// The place that a cursor names, if a history has written it: times of rows are compared as
    /// texts, so a time in another spelling would be another place.
    pub fn parse(text: &str) -> Option<Self> {
        let [at, position] = decode_cursor(text)?;
        let position = position.parse().ok()?;
        let is_time =
            at.is_empty() || time::parse(&at).is_some_and(|time| time::format(&time) == at);
        (is_time && Self::cursor(&at, position) == text).then_some(Self { at, position })
    }

    /// The cursor that names a place.
    pub(crate) fn cursor(at: &str, position: i64) -> String {
        encode_cursor(&[at, &position.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_others_are_not() {
        let cursor = encode_cursor(&["2026-11-20", "em-1"]);
        assert_eq!(decode_cursor(&cursor), Some(["2026-11-20".to_owned(), "em-1".to_owned()]));
        assert_eq!(decode_cursor::<3>(&cursor), None);
        let cursor = encode_cursor(&["name", "a\nb"]);
        assert_eq!(decode_cursor(&cursor), Some(["name".to_owned(), "a\nb".to_owned()]));
        for other in ["%%%", "bm90IGEgY3Vyc29y"] {
            assert_eq!(decode_cursor::<2>(other), None);
        }
    }

    #[test]
    fn a_place_is_read_back_from_its_cursor() {
        for at in ["", "2026-11-20T09:15:00.000000Z"] {
            let place = Place::parse(&Place::cursor(at, 7));
            assert_eq!(place, Some(Place { at: at.to_owned(), position: 7 }));
        }
        assert_eq!(Place::parse(&Place::cursor("noon", 7)), None);
        for (at, position) in [
            ("", "seven"),
            ("", "07"),
            ("", "+7"),
            (" 2026-11-20T09:15:00.000000Z", "7"),
            ("2026-11-20T10:15:00.000000+01:00", "7"),
            ("2026-11-20T09:15:00Z", "7"),
        ] {
            assert_eq!(Place::parse(&encode_cursor(&[at, position])), None, "{at} {position}");
        }
    }
}
