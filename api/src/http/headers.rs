//! Header fields as RFC 9110 has them: fields that hold one value, and lists.

use super::problem::{ApiError, Code, FieldError};
use axum::http::{HeaderMap, HeaderValue};

/// The value of a field that holds one value and no list, so that a request has it at most once
/// (RFC 9110, section 5.3).
///
/// # Errors
/// 400 if there are several: whoever stands before us may have read another one.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> Result<Option<&'a HeaderValue>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(header_fault(name, "must be there once")),
    }
}

/// An error about a header field, which it names.
pub(super) fn header_fault(name: &str, detail: &str) -> ApiError {
    let mut error = ApiError::new(Code::InvalidRequest, format!("The header {name} {detail}."));
    error.errors.push(FieldError { pointer: name.to_owned(), detail: detail.to_owned() });
    error
}

/// Splits a value at a separator that is not in a quoted string (RFC 9110, sections 5.6.1 and
/// 5.6.4), and trims the parts. Empty ones are left out. `None` if a quoted string does not end.
pub(super) fn split(value: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, char) in value.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if char == separator && !quoted => {
                parts.push(&value[begin..at]);
                begin = at + char.len_utf8();
            }
            _ => {}
        }
    }
    if quoted {
        return None;
    }
    parts.push(&value[begin..]);
    // Space and tab, and nothing else that Unicode takes for white space.
    let parts = parts.into_iter().map(|part| part.trim_matches([' ', '\t']));
    Some(parts.filter(|part| !part.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_field_of_one_value_is_refused_twice() {
        let mut headers = HeaderMap::new();
        assert!(single(&headers, "Idempotency-Key").unwrap().is_none());
        headers.append("idempotency-key", HeaderValue::from_static("a"));
        assert_eq!(single(&headers, "Idempotency-Key").unwrap().unwrap(), "a");
        headers.append("idempotency-key", HeaderValue::from_static("a"));
        let error = single(&headers, "Idempotency-Key").unwrap_err();
        assert_eq!(
            (error.code, &*error.errors[0].pointer),
            (Code::InvalidRequest, "Idempotency-Key")
        );
    }

    #[test]
    fn a_separator_in_quotes_separates_nothing() {
        assert_eq!(split("a, b ,,\t\"c,\\\",d\";e", ',').unwrap(), ["a", "b", "\"c,\\\",d\";e"]);
        assert_eq!(split(" , ,", ',').unwrap(), [""; 0]);
        assert_eq!(split("a;\"b", ';'), None);
        assert_eq!(split("a;\"b\\\"", ';'), None);
    }

    proptest! {
        #[test]
        fn no_part_holds_a_separator_outside_quotes(value in "[a,;\"\\\\ ]{0,24}") {
            for part in split(&value, ',').unwrap_or_default() {
                prop_assert!(!part.is_empty());
                prop_assert_eq!(split(part, ','), Some(vec![part]));
            }
        }
    }
}
