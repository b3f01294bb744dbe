//! Spellings of times, hashes and bytes. There is one spelling of each, so that
//! a changed file cannot mean the same.

use crate::Hash;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, NaiveDate, SecondsFormat};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// RFC 3339 in UTC with nine digits of a second: `2026-11-24T18:51:18.123456789Z`.
pub(super) fn time(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Reads the output of [`time`], and no other spelling.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let bytes: &[u8; 30] = text.as_bytes().try_into().ok()?;
    const FORM: &[u8; 30] = b"0000-00-00T00:00:00.000000000Z";
    let matches = |(byte, form): (&u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        _ => byte == form,
    };
    if !bytes.iter().zip(FORM).all(matches) {
        return None;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to].iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'))
    };
    let date = NaiveDate::from_ymd_opt(number(0, 4) as i32, number(5, 7), number(8, 10))?;
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    date.and_hms_nano_opt(hour, minute, second, number(20, 29))?.and_utc().timestamp_nanos_opt()
}

/// The value of each lower-case hexadecimal digit, 255 for all other bytes.
const DIGITS: [u8; 256] = {
    let mut digits = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Reads 64 lower-case hexadecimal digits. Every event has a hash, so this is
/// written without a branch for each digit.
pub(super) fn parse_hash(text: &str) -> Option<Hash> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut hash = [0; 32];
    let mut seen = 0;
    for (byte, [high, low]) in hash.iter_mut().zip(text.as_chunks().0) {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        seen |= high | low;
        *byte = (high << 4) | low;
    }
    (seen < 16).then_some(hash)
}

/// Reads canonical base64 with padding.
pub(super) fn parse_bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Appends base64.
pub(super) fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + bytes.len().div_ceil(3) * 4, 0);
    // The buffer has exactly the needed length, so encoding cannot fail.
    let written = STANDARD.encode_slice(bytes, &mut out[from..]).unwrap_or(0);
    out.truncate(from + written);
}

/// JSON on one line for a decrypted body: itself where it is JSON, else a
/// string of its base64.
pub(super) fn content(plain: &[u8]) -> Cow<'_, str> {
    let json = std::str::from_utf8(plain).ok();
    let json = json.filter(|json| serde_json::from_str::<IgnoredAny>(json).is_ok());
    match json {
        // A line break in JSON occurs only between tokens.
        Some(json) if json.contains(['\n', '\r']) => Cow::Owned(json.replace(['\n', '\r'], "")),
        Some(json) => Cow::Borrowed(json),
        None => Cow::Owned(format!("\"{}\"", STANDARD.encode(plain))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_have_one_spelling() {
        assert_eq!(time(1_790_000_000_123_456_789), "2026-09-21T14:13:20.123456789Z");
        for wrong in [
            "2026-09-21T14:13:20.12345678Z",
            "2026-09-21T14:13:20.123456789z",
            "2026-09-21 14:13:20.123456789Z",
            "2026-09-31T14:13:20.123456789Z",
            "2026-09-21T24:13:20.123456789Z",
            "2026-09-21T14:13:60.123456789Z",
            "+026-09-21T14:13:20.123456789Z",
            "9999-09-21T14:13:20.123456789Z",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hashes_and_bytes_have_one_spelling() {
        assert_eq!(parse_hash(&"ab".repeat(32)), Some([0xab; 32]));
        assert_eq!(parse_hash(&"AB".repeat(32)), None);
        assert_eq!(parse_hash(&"ab".repeat(31)), None);
        assert_eq!(parse_bytes("AA=="), Some(vec![0]));
        assert_eq!(parse_bytes("AB=="), None);
        assert_eq!(parse_bytes("AA"), None);
    }

    #[test]
    fn content_is_one_line_of_json() {
        assert_eq!(content(b"{\"a\":\r\n  \"b\\n\"}"), "{\"a\":  \"b\\n\"}");
        assert_eq!(content(b"{\"a\":1}"), "{\"a\":1}");
        assert_eq!(content(b"{} {}"), "\"e30ge30=\"");
        assert_eq!(content(&[255]), "\"/w==\"");
    }

    proptest! {
        #[test]
        fn every_time_survives(nanos: i64) {
            prop_assert_eq!(parse_time(&time(nanos)), Some(nanos));
        }

        #[test]
        fn all_bytes_survive(bytes: Vec<u8>) {
            let mut out = b"x".to_vec();
            push_base64(&bytes, &mut out);
            prop_assert_eq!(parse_bytes(std::str::from_utf8(&out[1..]).unwrap()), Some(bytes));
        }
    }
}
