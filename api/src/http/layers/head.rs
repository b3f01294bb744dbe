//! The layer that refuses requests by their head, before any handler: the length of the URI, the
//! size of the header section, and `Host`.

use crate::http::{
    headers::header_fault,
    problem::{ApiError, Code},
};
use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Uri, Version, header::HOST, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Longest URI, in bytes (RFC 9110, section 4.1, asks for at least 8000).
pub const MAX_URI: usize = 8 << 10;
/// Largest header section, in bytes: names and values, with the 4 bytes between and behind them.
pub const MAX_HEADERS: usize = 32 << 10;

/// Refuses requests whose head is too large, or does not name one host.
pub(crate) async fn check_head(request: Request, next: Next) -> Response {
    match check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(request: &Request) -> Result<(), ApiError> {
    if length(request.uri()) > MAX_URI {
        let detail = format!("The URI has more than {MAX_URI} bytes.");
        return Err(ApiError::new(Code::UriTooLong, detail));
    }
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    if lines.sum::<usize>() > MAX_HEADERS {
        let detail = format!("The headers have more than {MAX_HEADERS} bytes in all.");
        return Err(ApiError::new(Code::HeadersTooLarge, detail));
    }
    check_host(request.version(), request.headers())
}

fn length(uri: &Uri) -> usize {
    let parts = [
        uri.scheme_str().map(|scheme| scheme.len() + 3),
        uri.authority().map(|authority| authority.as_str().len()),
        uri.path_and_query().map(|path| path.as_str().len()),
    ];
    parts.into_iter().flatten().sum()
}

/// A request of HTTP/1.1 names its host exactly once, and no request names two (RFC 9112,
/// section 3.2): whoever stands before us may have taken another one for the host.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        // Older clients know no Host; newer versions have it in the URI.
        (None, _) if version != Version::HTTP_11 => Ok(()),
        (Some(host), None) if is_host(host) => Ok(()),
        _ => Err(header_fault("Host", "must be there once, and be a host")),
    }
}

/// True for a host with or without a port; it may be empty (RFC 9110, section 7.2).
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    // An authority may have user information as well, and must not be empty.
    text.is_empty() || (!text.contains('@') && text.parse::<Authority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn status(version: Version, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let request = Request::builder().version(version).uri(uri);
        let request = headers.iter().fold(request, |it, (name, value)| it.header(*name, *value));
        let checked = check(&request.body(Body::empty()).unwrap());
        checked.map_or_else(|error| error.code.status().as_u16(), |()| 200)
    }

    #[test]
    fn a_request_names_its_host_once() {
        let at = |version, hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            status(version, "/livez", &hosts)
        };
        let http_11 = |hosts: &[&str]| at(Version::HTTP_11, hosts);
        for host in ["a", "a:8080", "127.0.0.1:8080", "[::1]:8080", "exodrive.example.com", ""] {
            assert_eq!(http_11(&[host]), 200, "{host}");
        }
        for host in ["a b", "user@a", "a/b", "[::1", "a:b:c", "http://a"] {
            assert_eq!(http_11(&[host]), 400, "{host}");
        }
        assert_eq!(http_11(&[]), 400);
        assert_eq!(http_11(&["a", "b"]), 400);
        assert_eq!(http_11(&["a", "a"]), 400);
        assert_eq!(at(Version::HTTP_10, &[]), 200);
        assert_eq!(at(Version::HTTP_10, &["a", "b"]), 400);
    }

    #[test]
    fn a_head_has_bounds() {
        let host = ("host", "a");
        let uri = |length: usize| format!("/{}", "a".repeat(length - 1));
        assert_eq!(status(Version::HTTP_11, &uri(MAX_URI), &[host]), 200);
        assert_eq!(status(Version::HTTP_11, &uri(MAX_URI + 1), &[host]), 414);
        let long = |length: usize| "a".repeat(length);
        let rest = MAX_HEADERS - "host".len() - "a".len() - 4 - "x".len() - 4;
        assert_eq!(status(Version::HTTP_11, "/", &[host, ("x", &long(rest))]), 200);
        assert_eq!(status(Version::HTTP_11, "/", &[host, ("x", &long(rest + 1))]), 431);
        let many: Vec<_> = (0..40).map(|_| long(1000)).collect();
        let many: Vec<_> = many.iter().map(|value| ("x", value.as_str())).chain([host]).collect();
        assert_eq!(status(Version::HTTP_11, "/", &many), 431);
    }
}
