//! Pages, cursors and patterns that the queries of several projections share.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;

/// A page of a list, newest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Cursor of the next page, if there is one.
    pub next: Option<String>,
}

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

/// A pattern that finds the text anywhere; wildcards in the text match only themselves.
pub(crate) fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
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
    fn wildcards_stand_for_themselves() {
        assert_eq!(like("50%_A\\"), "%50\\%\\_a\\\\%");
    }
}
