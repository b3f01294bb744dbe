//! Media types and content codings: what a body may be, and what a caller accepts.

use super::{
    headers::{single, split},
    problem::{ApiError, Code},
};
use axum::http::{
    HeaderMap, StatusCode,
    header::{ACCEPT, CONTENT_ENCODING},
};
use mime::Mime;

/// Refuses a body that is no JSON in UTF-8, by its header fields.
///
/// # Errors
/// 415 for another media type, charset or content coding (RFC 9110, section 15.5.16); 400 if there
/// are two media types.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    check_coding(headers)?;
    match single(headers, "Content-Type")? {
        Some(kind) if kind.to_str().is_ok_and(is_json) => Ok(()),
        _ => Err(ApiError::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
    }
}

/// Refuses a body with a content coding.
///
/// # Errors
/// 415, with the codings that would do in `Accept-Encoding` (RFC 9110, section 12.5.3).
pub(super) fn check_coding(headers: &HeaderMap) -> Result<(), ApiError> {
    let identity = |line: &axum::http::HeaderValue| {
        let line = line.to_str().ok()?;
        Some(line.split(',').all(|it| {
            let coding = it.trim();
            coding.is_empty() || coding.eq_ignore_ascii_case("identity")
        }))
    };
    if headers.get_all(CONTENT_ENCODING).iter().all(|line| identity(line) == Some(true)) {
        return Ok(());
    }
    let detail = "The body has a content coding, and none is supported.";
    let mut error = ApiError::new(Code::UnsupportedMediaType, detail);
    error.accept_encoding = Some("identity");
    Err(error)
}

/// True for `application/json`, in any case, with any parameters but another charset than UTF-8.
/// JSON has no charset (RFC 8259, section 11), but many clients write it.
fn is_json(text: &str) -> bool {
    let Some(kind) = media_type(text) else { return false };
    kind.essence_str() == mime::APPLICATION_JSON.essence_str()
        && kind.params().all(|(name, value)| name != mime::CHARSET || value == mime::UTF_8)
}

/// A media type or range. There may be white space around each `;` (RFC 9110, section 5.6.6), which
/// the parser does not take.
fn media_type(text: &str) -> Option<Mime> {
    split(text, ';')?.join(";").parse().ok()
}

/// How much a caller wants a media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    /// 0 (not at all) to 1000.
    quality: u16,
    /// The media range that says so: 0 for `*/*`, 1 for `type/*`, 2 for the type itself.
    precedence: u8,
}

/// The caller's wish for a media type, by the most specific media range in `Accept` that covers it
/// (RFC 9110, section 12.5.1); `None` if none does. Members that cannot be read are ignored, and so
/// are all parameters but `q`.
fn wish(headers: &HeaderMap, wanted: &Mime) -> Option<Wish> {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let ranges = lines.filter_map(|line| split(line, ',')).flatten();
    ranges.filter_map(|range| wish_of(range, wanted)).reduce(|best, next| {
        // Of two equal ranges the higher wish counts.
        let order = |it: &Wish| (it.precedence, it.quality);
        if order(&next) > order(&best) { next } else { best }
    })
}

fn wish_of(range: &str, wanted: &Mime) -> Option<Wish> {
    let range = media_type(range)?;
    let precedence = match (range.type_(), range.subtype()) {
        (mime::STAR, mime::STAR) => 0,
        (kind, mime::STAR) if kind == wanted.type_() => 1,
        _ if range.essence_str() == wanted.essence_str() => 2,
        _ => return None,
    };
    let quality = range.get_param("q").map_or(Some(1000), |q| quality(q.as_str()))?;
    Some(Wish { quality, precedence })
}

/// A weight (RFC 9110, section 12.4.2) in thousandths.
fn quality(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Refuses to send a media type that the caller excludes: the most specific media range that covers
/// it has a weight of 0.
///
/// An `Accept` that does not cover it is disregarded, as RFC 9110, section 12.5.1, allows: a browser
/// that asks for a page gets JSON, not an error.
///
/// # Errors
/// 406.
pub(super) fn check_accepted(headers: &HeaderMap, sent: &str) -> Result<(), ApiError> {
    if !headers.contains_key(ACCEPT) {
        return Ok(());
    }
    let Ok(sent) = sent.parse::<Mime>() else { return Ok(()) };
    match wish(headers, &sent) {
        Some(Wish { quality: 0, .. }) => {
            let detail = format!("The answer is {}, which `Accept` excludes.", sent.essence_str());
            Err(ApiError::new(Code::NotAcceptable, detail))
        }
        _ => Ok(()),
    }
}

/// True if the caller asks for a media type by its name, and wants JSON no more than that.
pub(super) fn prefers(headers: &HeaderMap, wanted: &str) -> bool {
    let Ok(wanted) = wanted.parse::<Mime>() else { return false };
    let named = wish(headers, &wanted).filter(|it| it.precedence == 2 && it.quality > 0);
    // A range that covers all types does not ask for JSON.
    let json = wish(headers, &mime::APPLICATION_JSON).filter(|it| it.precedence == 2);
    named.is_some_and(|named| json.is_none_or(|json| json.quality <= named.quality))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn accepting(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| (ACCEPT, HeaderValue::from_str(line).unwrap()));
        lines.collect()
    }

    #[test]
    fn json_is_a_media_type_of_that_name_in_utf_8() {
        for kind in [
            "application/json",
            "Application/JSON",
            " application/json ",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            "application/json; Charset=\"Utf-8\"",
            "application/json; version=1; charset=utf-8",
            "application/json;",
            "application/json ; charset=utf-8",
        ] {
            assert!(is_json(kind), "{kind}");
        }
        for kind in [
            "",
            "json",
            "application/jsonx",
            "application/json-patch+json",
            "application/problem+json",
            "application/json, text/plain",
            "text/json",
            "application/*",
            "*/*",
            "application/json; charset=latin1",
            "application/json; charset=utf-16",
            "application/json; charset=utf-8; charset=utf-16",
            "application / json",
        ] {
            assert!(!is_json(kind), "{kind}");
        }
    }

    #[test]
    fn a_content_coding_is_refused_with_those_that_would_do() {
        let check = |lines: &[&str]| {
            let lines =
                lines.iter().map(|it| (CONTENT_ENCODING, HeaderValue::from_str(it).unwrap()));
            check_coding(&lines.collect())
        };
        for fine in [&[][..], &["identity"], &["Identity, identity"], &[""]] {
            assert!(check(fine).is_ok(), "{fine:?}");
        }
        for other in [&["gzip"][..], &["zzz"], &["identity, gzip"], &["identity", "br"], &["\t, x"]]
        {
            let error = check(other).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedMediaType, "{other:?}");
            assert_eq!(error.accept_encoding, Some("identity"));
        }
    }

    #[test]
    fn json_is_sent_unless_it_is_excluded() {
        let sent = |lines: &[&str]| check_accepted(&accepting(lines), "application/json").is_ok();
        for accept in [
            &[][..],
            &["*/*"],
            &["application/json"],
            &["application/problem+json"],
            &["text/html"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["*/*;q=0, Application/JSON;q=0.001"],
            &["application/json;q=0.5, */*;q=0"],
            &["application/json;q=0", "application/json;q=0.1"],
            &["application/jsonx;q=0"],
            &["application/json;q=nonsense"],
            &["nonsense", ""],
        ] {
            assert!(sent(accept), "{accept:?}");
        }
        for accept in [
            &["application/json;q=0"][..],
            &["*/*, application/json;q=0"],
            &["application/json ; Q=0.000"],
            &["text/html, application/*;q=0"],
            &["text/html", "*/*;q=0"],
        ] {
            assert!(!sent(accept), "{accept:?}");
        }
    }

    #[test]
    fn lines_are_sent_to_whoever_asks_for_them_by_name() {
        let lines = |accept: &str| prefers(&accepting(&[accept]), "application/x-ndjson");
        for accept in [
            "application/x-ndjson",
            "Application/X-NDJSON",
            "application/x-ndjson, application/json",
            "application/json;q=0.5, application/x-ndjson;q=0.6",
            "application/x-ndjson;q=0.1, */*",
        ] {
            assert!(lines(accept), "{accept}");
        }
        for accept in [
            "*/*",
            "application/*",
            "application/x-ndjsonfoo",
            "application/x-ndjson;q=0",
            "application/json, application/x-ndjson;q=0.5",
            "text/plain; note=\", application/x-ndjson\"",
        ] {
            assert!(!lines(accept), "{accept}");
        }
    }

    proptest! {
        #[test]
        fn a_weight_is_read_as_it_is_written(thousandths in 0_u16..=1000, digits in 0_usize..=3) {
            let text = format!("{:.digits$}", f64::from(thousandths) / 1000.0);
            let read = quality(&text).unwrap();
            prop_assert!(read <= 1000 && (f64::from(read) / 1000.0 - text.parse::<f64>().unwrap()).abs() < 1e-9);
        }

        #[test]
        fn no_value_is_too_strange_to_be_read(text in "\\PC{0,40}") {
            let _ = (is_json(&text), quality(&text));
            if let Ok(value) = HeaderValue::from_str(&text) {
                let headers = HeaderMap::from_iter([(ACCEPT, value)]);
                let _ = (check_accepted(&headers, "application/json"), prefers(&headers, "a/b"));
            }
        }
    }
}
