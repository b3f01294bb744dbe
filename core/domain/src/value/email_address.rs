//! Email addresses: one mailbox that a person gives, the mailboxes that a
//! header names, and the rule by which two spellings are one address.

use super::{
    fault::InvalidValue,
    text::{TextRule, is_invisible, rules::AddressText},
};
use mail_parser::{HeaderValue, parsers::MessageStream};
use std::fmt;
use unicode_normalization::UnicodeNormalization;

/// One mailbox (RFC 5321, 4.1.2, with the letters of RFC 6531), to which mail
/// can be sent over the Internet: no display name, no comment, no list, a domain
/// of at least two labels and no address literal. In Unicode's composed form
/// (NFC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// Reads an address. White space at both ends is removed.
    ///
    /// # Errors
    /// [`InvalidValue`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let address: String = text.trim().nfc().collect();
        let options = email_address::Options {
            minimum_sub_domains: 2,
            allow_domain_literal: false,
            allow_display_text: false,
            allow_long_local_parts: false,
        };
        let hidden = |c: char| c.is_control() || (is_invisible(c) && c != ' ');
        let valid = address.len() <= AddressText::MOST
            && !address.chars().any(hidden)
            && email_address::EmailAddress::parse_with_options(&address, options)
                .is_ok_and(|it| idna::domain_to_ascii_strict(it.domain()).is_ok());
        if valid {
            return Ok(Self(address));
        }
        Err(InvalidValue::new("must be one email address, for example ada@example.com"))
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.0
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The form in which two spellings of an address are equal: composed (NFC), in
/// lower case, the domain in Unicode (`xn--bcher-kva.example` is
/// `bücher.example`). What stands before the `@` is otherwise kept: `a.b` and
/// `ab`, or `a+x` and `a`, are different people for all that we know.
pub fn address_key(address: &str) -> String {
    let address: String = address.trim().nfc().collect();
    let address = address.to_lowercase();
    match address.rsplit_once('@') {
        Some((local, domain)) if domain.contains("xn--") => {
            format!("{local}@{}", idna::domain_to_unicode(domain).0)
        }
        _ => address,
    }
}

/// The mailboxes that the value of an address header names (RFC 5322, 3.4:
/// display names, comments and groups are read), as written. A text that is no
/// address list gives itself, so that nothing is lost.
pub fn mailboxes(header: &str) -> Vec<String> {
    let text = header.trim();
    let plain = |c: char| !c.is_whitespace() && !"<>(),:;\"\\[]".contains(c);
    if text.chars().all(plain) {
        return vec![text.to_owned()];
    }
    // A header's value ends with its line.
    let line = format!("{}\n", text.replace(['\r', '\n'], " "));
    let HeaderValue::Address(parsed) = MessageStream::new(line.as_bytes()).parse_address() else {
        return vec![text.to_owned()];
    };
    let named: Vec<_> = parsed
        .iter()
        .filter_map(|mailbox| mailbox.address.as_deref())
        .filter(|address| address.contains('@'))
        .map(str::to_owned)
        .collect();
    if named.is_empty() { vec![text.to_owned()] } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_mailbox_is_an_address() {
        for valid in [
            "ada@example.com",
            " Ada.Lovelace+cars@sub.example.co.uk ",
            "o'hara@example.com",
            "jörg@bücher.example",
            "用户@例子.广告",
            "\"ada lovelace\"@example.com",
            "a@xn--bcher-kva.example",
        ] {
            assert_eq!(EmailAddress::parse(valid).unwrap().to_string(), valid.trim(), "{valid}");
        }
        for invalid in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "a@.",
            "a@example",
            "a@example.com.",
            "a@.example.com",
            "a@exa mple.com",
            "a@-example.com",
            "a@b@example.com",
            "a@example.com,b@example.com",
            "a@example.com;b@example.com",
            "<a@example.com>",
            "Ada <a@example.com>",
            "mailto:a@example.com",
            "a(comment)@example.com",
            "a@[127.0.0.1]",
            ".a@example.com",
            "a..b@example.com",
            "a\u{200b}@example.com",
            "a\u{202e}@example.com",
            "a@exam\u{ad}ple.com",
            "a\0@example.com",
            "a@example.com\nb",
            &format!("{}@example.com", "a".repeat(65)),
            &format!("a@{}.com", "b".repeat(64)),
            &format!("a@{}com", "bcd.".repeat(70)),
        ] {
            assert!(EmailAddress::parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn spellings_of_one_address_are_equal() {
        for (one, other) in [
            (" Ada@Example.COM", "ada@example.com"),
            ("jo\u{308}rg@example.com", "jörg@example.com"),
            ("a@XN--BCHER-KVA.example", "a@bücher.example"),
        ] {
            assert_eq!(address_key(one), address_key(other));
        }
        assert_ne!(address_key("a.b@example.com"), address_key("ab@example.com"));
    }

    #[test]
    fn a_header_names_its_mailboxes() {
        let read = |header: &str| mailboxes(header).join(" ");
        assert_eq!(read("ada@example.com"), "ada@example.com");
        assert_eq!(read("Ada <ada@example.com>"), "ada@example.com");
        assert_eq!(
            read("\"Love, Ada\" <ada@example.com>, b@example.com"),
            "ada@example.com b@example.com"
        );
        assert_eq!(read("ada@example.com (at home)"), "ada@example.com");
        assert_eq!(read("Staff: a@example.com, B <b@example.com>;"), "a@example.com b@example.com");
        assert_eq!(read("Ada <ada@exam"), "ada@exam");
        assert_eq!(read("nobody at all"), "nobody at all");
        assert_eq!(read(""), "");
    }

    proptest! {
        #[test]
        fn any_text_has_mailboxes_and_a_key(text in ".{0,60}|[a-b<>()@,:;\" \\\\.]{0,30}") {
            prop_assert!(!mailboxes(&text).is_empty());
            let key = address_key(&text);
            prop_assert_eq!(address_key(&key), key);
        }

        #[test]
        fn an_address_is_taken_again_and_is_its_own_mailbox(local in "[a-zäß0-9.+']{1,12}") {
            if let Ok(address) = EmailAddress::parse(&format!("{local}@example.com")) {
                let text = address.to_string();
                prop_assert_eq!(EmailAddress::parse(&text).unwrap(), address);
                prop_assert_eq!(mailboxes(&text), [text]);
            }
        }
    }
}
