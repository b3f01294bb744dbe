//! Conditional requests (RFC 9110, section 13): entity tags, `If-Match` and `If-None-Match`.
//!
//! A read compares the tag of the representation that it would send. A command compares the state
//! of its car, booking or block: the position of its last event, with which each of their tags
//! begins (`"<position>"`, or `"<position>-<representation>"`). So every tag that was sent for a
//! state does for a command on it, whoever read it; a tag that this API does not send never does.

use super::{
    headers::header_fault,
    problem::{ApiError, Code},
};
use axum::http::HeaderMap;

const IF_MATCH: &str = "If-Match";
const IF_NONE_MATCH: &str = "If-None-Match";

/// An entity tag (RFC 9110, section 8.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntityTag<'a> {
    weak: bool,
    /// What is between the quotes.
    opaque: &'a [u8],
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, PartialEq, Eq)]
enum Tags<'a> {
    /// `*`: any representation that there is.
    Any,
    Listed(Vec<EntityTag<'a>>),
}

/// A value that is no list of entity tags.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

impl<'a> Tags<'a> {
    /// All lines of the field together; `None` if there is none.
    fn of(headers: &'a HeaderMap, name: &str) -> Result<Option<Self>, Unreadable> {
        let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
        match *lines.as_slice() {
            [] => Ok(None),
            [line] if line.trim_ascii() == b"*" => Ok(Some(Self::Any)),
            _ => {
                let listed: Result<Vec<_>, _> = lines.into_iter().map(listed).collect();
                Ok(Some(Self::Listed(listed?.concat())))
            }
        }
    }
}

/// The members of a list of entity tags. A comma may be within a tag, and no character in it has a
/// special meaning.
fn listed(line: &[u8]) -> Result<Vec<EntityTag<'_>>, Unreadable> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (mut tags, mut rest, mut separated) = (Vec::new(), line, true);
    loop {
        let ahead = rest.iter().take_while(|byte| blank(byte)).count();
        rest = &rest[ahead..];
        rest = match rest {
            [] => return Ok(tags),
            [b',', rest @ ..] => {
                separated = true;
                rest
            }
            _ if !separated => return Err(Unreadable),
            _ => {
                let (weak, quoted) = match rest {
                    [b'W', b'/', b'"', quoted @ ..] => (true, quoted),
                    [b'"', quoted @ ..] => (false, quoted),
                    _ => return Err(Unreadable),
                };
                let length = quoted.iter().position(|byte| *byte == b'"').ok_or(Unreadable)?;
                let (opaque, after) = quoted.split_at(length);
                if !opaque.iter().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..)) {
                    return Err(Unreadable);
                }
                tags.push(EntityTag { weak, opaque });
                separated = false;
                &after[1..]
            }
        };
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<Tags<'_>>, ApiError> {
    Tags::of(headers, IF_MATCH).map_err(|Unreadable| {
        header_fault(IF_MATCH, "must be `*`, or a list of entity tags in quotes")
    })
}

/// True if a read is answered 304: the caller holds the representation with this strong tag,
/// `"..."` (RFC 9110, section 13.2.2).
///
/// # Errors
/// 412 if `If-Match` does not name it; 400 if it cannot be read. An `If-None-Match` that cannot be
/// read is ignored: the whole answer is never wrong.
pub(super) fn is_unchanged(headers: &HeaderMap, etag: &str) -> Result<bool, ApiError> {
    let current = etag.trim_matches('"').as_bytes();
    if let Some(Tags::Listed(tags)) = if_match(headers)?
        && !tags.iter().any(|tag| !tag.weak && tag.opaque == current)
    {
        return Err(ApiError::new(Code::Stale, "No tag in If-Match is the present one."));
    }
    Ok(match Tags::of(headers, IF_NONE_MATCH) {
        Ok(Some(Tags::Any)) => true,
        Ok(Some(Tags::Listed(tags))) => tags.iter().any(|tag| tag.opaque == current),
        Ok(None) | Err(Unreadable) => false,
    })
}

/// The positions of which the state that a command changes must have one; `None` if it may have
/// any. A weak tag never matches (RFC 9110, section 13.1.1), nor does one of another form.
///
/// # Errors
/// 400 if `If-Match` cannot be read, or `If-None-Match` is there: no command is executed against a
/// condition that it does not check.
pub(super) fn if_position(headers: &HeaderMap) -> Result<Option<Vec<u64>>, ApiError> {
    if headers.contains_key(IF_NONE_MATCH) {
        return Err(header_fault(IF_NONE_MATCH, "is for reads; commands take `If-Match`"));
    }
    Ok(match if_match(headers)? {
        None | Some(Tags::Any) => None,
        Some(Tags::Listed(tags)) => {
            let strong = tags.into_iter().filter(|tag| !tag.weak);
            Some(strong.filter_map(|tag| position(tag.opaque)).collect())
        }
    })
}

/// The position in a tag, if its form is that of a car, a booking or a block.
fn position(opaque: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(opaque).ok()?;
    let (digits, representation) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let is_ours = representation.is_none_or(|it| is_version(it) || is_digest(it));
    // No second way to write the same number.
    let position: u64 = digits.parse().ok().filter(|it: &u64| it.to_string() == digits)?;
    is_ours.then_some(position)
}

fn is_version(text: &str) -> bool {
    text.strip_prefix('v')
        .is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit()))
}

fn is_digest(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The tag of a representation that follows from the state alone, by the release's way to show it.
pub(super) fn tag_of_version(position: u64, version: u32) -> String {
    format!("\"{position}-v{version}\"")
}

/// The tag of a representation that depends on more than the state: `shown` is what it depends on.
pub(super) fn tag_of_content(position: u64, shown: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, shown);
    format!("\"{position}-{}\"", hex::encode(&digest.as_ref()[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn headers(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn if_match_compares_strongly_in_lists_and_on_several_lines() {
        let read = |lines: &[&str]| if_position(&headers("if-match", lines)).map_err(|it| it.code);
        let cases: [(&[&str], Option<&[u64]>); 17] = [
            (&[], None),
            (&["*"], None),
            (&[" * "], None),
            (&["\"7\""], Some(&[7])),
            (&["\"7-v1\""], Some(&[7])),
            (&["\"7-0123456789abcdef\""], Some(&[7])),
            (&["\"6\", \"7\""], Some(&[6, 7])),
            (&["\"6\",,\t\"7\" ,"], Some(&[6, 7])),
            (&["\"6\"", "\"7\""], Some(&[6, 7])),
            (&["W/\"7\""], Some(&[])),
            (&["W/\"6\", \"7\""], Some(&[7])),
            (&["\"7-gzip\""], Some(&[])),
            (&["\"foreign-7\", \"x,7\", \"1-7\", \"\", \"7-\", \"7-v\""], Some(&[])),
            (&["\"07\", \"+7\", \"-7\", \"7-0123456789ABCDEF\""], Some(&[])),
            (&["\"\u{e9}\""], Some(&[])),
            (&[""], Some(&[])),
            (&["\"99999999999999999999\""], Some(&[])),
        ];
        for (lines, positions) in cases {
            assert_eq!(read(lines), Ok(positions.map(<[u64]>::to_vec)), "{lines:?}");
        }
        let unreadable: [&[&str]; 9] = [
            &["7"],
            &["yesterday"],
            &["\"7"],
            &["w/\"7\""],
            &["\"6\" \"7\""],
            &["\"a b\""],
            &["*, \"7\""],
            &["\"7\"", "*"],
            &["*", "*"],
        ];
        for lines in unreadable {
            assert_eq!(read(lines), Err(Code::InvalidRequest), "{lines:?}");
        }
        let create = headers("if-none-match", &["*"]);
        assert_eq!(if_position(&create).unwrap_err().code, Code::InvalidRequest);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        let unchanged = |lines: &[&str]| is_unchanged(&headers("if-none-match", lines), "\"7\"");
        for lines in [["*"], ["\"7\""], ["W/\"7\""], ["\"6\", W/\"7\""], ["\"a,b\",\"7\""]] {
            assert!(unchanged(&lines).unwrap(), "{lines:?}");
        }
        for lines in [["\"6\""], ["\"7-gzip\""], ["7"], ["\"6,7\""], [""], ["*, \"7\""]] {
            assert!(!unchanged(&lines).unwrap(), "{lines:?}");
        }
        assert!(unchanged(&["\"6\"", "\"7\""]).unwrap());
        assert!(!is_unchanged(&HeaderMap::new(), "\"7\"").unwrap());
    }

    #[test]
    fn a_read_of_another_representation_than_if_match_names_fails() {
        let read = |line: &str| is_unchanged(&headers("if-match", &[line]), "\"7-v1\"");
        for line in ["\"7-v1\"", "*", "\"6\", \"7-v1\""] {
            assert!(!read(line).unwrap(), "{line}");
        }
        for line in ["\"7\"", "W/\"7-v1\"", "\"6\"", ""] {
            assert_eq!(read(line).unwrap_err().code, Code::Stale, "{line}");
        }
        assert_eq!(read("7").unwrap_err().code, Code::InvalidRequest);
        // If-Match is evaluated first.
        let mut both = headers("if-match", &["\"6\""]);
        both.append("if-none-match", HeaderValue::from_static("*"));
        assert_eq!(is_unchanged(&both, "\"7\"").unwrap_err().code, Code::Stale);
    }

    proptest! {
        #[test]
        fn any_list_of_tags_is_read_as_it_was_written(
            written in prop::collection::vec((any::<bool>(), "[!#-~]{0,8}"), 0..6),
            separators in prop::collection::vec("[ \t]{0,2},[ ,\t]{0,3}", 6),
        ) {
            let mut line = String::new();
            for ((weak, opaque), separator) in written.iter().zip(&separators) {
                let prefix = if *weak { "W/" } else { "" };
                line += &format!("{prefix}\"{opaque}\"{separator}");
            }
            let read = listed(line.as_bytes()).unwrap();
            let expected: Vec<_> = written
                .iter()
                .map(|(weak, opaque)| EntityTag { weak: *weak, opaque: opaque.as_bytes() })
                .collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn no_value_is_too_strange_to_be_read(line in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = listed(&line);
        }

        #[test]
        fn each_tag_that_is_sent_names_its_position(at in any::<u64>(), version in any::<u32>()) {
            for tag in [
                format!("\"{at}\""),
                tag_of_version(at, version),
                tag_of_content(at, &version.to_le_bytes()),
            ] {
                let sent = headers("if-match", &[&tag]);
                prop_assert_eq!(if_position(&sent).unwrap(), Some(vec![at]));
                prop_assert!(!is_unchanged(&sent, &tag).unwrap());
            }
        }
    }
}
