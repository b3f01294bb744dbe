//! Addresses of pictures.

use super::fault::InvalidValue;
use url::Url;

/// The longest address, in bytes.
const MOST: usize = 2_000;

/// Checks the address of a picture that the public is shown: `https`, a host, no
/// user name and no password.
///
/// # Errors
/// [`InvalidValue`].
pub fn check_image_url(text: &str) -> Result<(), InvalidValue> {
    let shown = |c: char| !c.is_control() && !c.is_whitespace();
    let valid = text.len() <= MOST
        && text.chars().all(shown)
        && Url::parse(text).is_ok_and(|url| {
            url.scheme() == "https"
                && url.host_str().is_some_and(|host| !host.is_empty())
                && url.username().is_empty()
                && url.password().is_none()
        });
    if valid {
        return Ok(());
    }
    Err(InvalidValue::new(format!("must be an https URL of at most {MOST} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_fetched_by_https_only() {
        for valid in
            ["https://img.example/a.jpg", "https://[::1]/a?b=c#d", "HTTPS://Img.example/ä.png"]
        {
            assert_eq!(check_image_url(valid), Ok(()), "{valid}");
        }
        for invalid in [
            "",
            "a.jpg",
            "//img.example/a.jpg",
            "http://img.example/a.jpg",
            "javascript:alert(1)",
            "data:image/png;base64,AAAA",
            "ftp://img.example/a.jpg",
            "https://",
            "https://user:password@img.example/a.jpg",
            " https://img.example/a.jpg",
            "https://img.example/a\nb.jpg",
            &format!("https://img.example/{}", "a".repeat(2_000)),
        ] {
            assert!(check_image_url(invalid).is_err(), "{invalid}");
        }
    }
}
