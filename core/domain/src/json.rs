//! Reading JSON that others wrote: as much of it as can be read, never an
//! error for a field that is odd.

use serde_json::Value;

/// Parses a body. JSON that is valid except for its text (bytes that are not
/// UTF-8, half of a surrogate pair) is read with U+FFFD in those places: a
/// provider's mistake in a subject line must not hide the state of a mail.
pub(crate) fn parse(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().or_else(|| {
        let repaired = replace_lone_surrogates(&String::from_utf8_lossy(body));
        serde_json::from_str(&repaired).ok()
    })
}

fn replace_lone_surrogates(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let unit = |from: usize| {
            let digits = rest.get(from..from + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(digits, 16).ok()
        };
        let take = match (unit(0), unit(6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // A backslash and the escaped character, which may be several bytes
            // long.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..take]);
        rest = &rest[take..];
    }
    out.push_str(rest);
    out
}

/// A non-empty string field. Text with NUL gets U+FFFD there: Postgres can
/// hold no NUL in text.
pub(crate) fn text(object: &Value, field: &str) -> Option<String> {
    object.get(field)?.as_str().filter(|text| !text.is_empty()).map(clean)
}

/// An array of strings, or a single string as an array of one. Other elements
/// are left out.
pub(crate) fn texts(object: &Value, field: &str) -> Vec<String> {
    match object.get(field) {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(clean).collect(),
        Some(Value::String(text)) => vec![clean(text)],
        _ => Vec::new(),
    }
}

/// The text without the characters that Postgres cannot store; see [`text`].
pub(crate) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_text_is_repaired_and_the_rest_is_unchanged() {
        let body = br#"{"a":"x\ud83d y \ud83d\ude00 \\ud83d","b":"\udc00"}"#;
        let value = parse(body).unwrap();
        assert_eq!(value["a"], "x\u{fffd} y 😀 \\ud83d");
        assert_eq!(value["b"], "\u{fffd}");
        assert_eq!(parse(b"{\"a\":\"\xff\"}").unwrap()["a"], "\u{fffd}");
        assert_eq!(parse(b"{\"a\":\"\\\xc3\xa9 \xff\"}"), None);
        assert_eq!(parse(b"not json"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn nul_becomes_a_replacement_character() {
        let value = parse(br#"{"a":"x\u0000y"}"#).unwrap();
        assert_eq!(text(&value, "a").unwrap(), "x\u{fffd}y");
    }
}
