//! The signature of a webhook: what is accepted was signed by one of the secrets, and nothing that
//! was altered is accepted.
//!
//! An input is lines of `name: value`, an empty line, and the body. `$1`, `$2` and `$3` in a value stand
//! for the right signature by the first and the second secret, and by one that is not accepted.

#[allow(dead_code, unreachable_pub, reason = "a file of another crate")]
#[path = "../../audit/src/webhook_signature.rs"]
mod webhook;

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use std::sync::LazyLock;
use webhook::{Secrets, SignedHead};

const NOW: i64 = 1_790_000_000;
const KEYS: [&[u8]; 3] =
    [b"the first secret of them", b"the second secret of all", b"a secret of somebody else"];

static SECRETS: LazyLock<Secrets> = LazyLock::new(|| {
    let texts = [KEYS[0], KEYS[1]].map(|key| format!("whsec_{}", BASE64_STANDARD.encode(key)));
    Secrets::parse(texts.iter().map(String::as_str)).unwrap()
});

type Headers = Vec<(String, Vec<u8>)>;

pub(crate) fn holds(input: &[u8]) -> bool {
    let (mut headers, body) = split(input);
    sign(&mut headers, body);
    let accepted = is_accepted(&headers, body);
    if !accepted {
        assert!(!is_plainly_right(&headers, body), "what is signed is accepted: {headers:?}");
        return false;
    }
    was_signed(&headers, body);
    let stored: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    assert!(SECRETS.verify_stored(&stored, body), "it is verified again from the log");

    let longer = [body, b"x"].concat();
    assert!(!is_accepted(&headers, &longer));
    if let Some((first, rest)) = body.split_first() {
        assert!(!is_accepted(&headers, rest));
        assert!(!is_accepted(&headers, &[&[first ^ 1], rest].concat()));
    }
    for (name, change) in [("id", "x"), ("timestamp", "0")] {
        let name = format!("{}-{name}", family(&headers));
        let mut altered = headers.clone();
        // In front: a number with a zero more is the same number.
        let value = altered.iter_mut().find(|it| it.0 == name).map(|it| &mut it.1).unwrap();
        value.splice(0..0, change.bytes());
        assert!(!is_accepted(&altered, body), "{name} is signed");
    }
    true
}

/// The headers of an input, in lower case as an HTTP server gives them, and its body.
fn split(input: &[u8]) -> (Headers, &[u8]) {
    let mut headers = Vec::new();
    let mut rest = input;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(colon) = line.windows(2).position(|it| it == b": ") else { break };
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        headers.push((name, line[colon + 2..].to_vec()));
    }
    (headers, rest)
}

fn read<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
}

/// The family of names that counts: Svix's, if there is any of them.
fn family(headers: &Headers) -> &'static str {
    let is_svix = |(name, _): &(String, Vec<u8>)| {
        ["svix-id", "svix-timestamp", "svix-signature"].contains(&name.as_str())
    };
    if headers.iter().any(is_svix) { "svix" } else { "webhook" }
}

fn mac(headers: &Headers, body: &[u8], key: &[u8]) -> String {
    let family = family(headers);
    let of = |name: &str| read(headers, &format!("{family}-{name}")).unwrap_or_default();
    let signed = [of("id"), b".", of("timestamp"), b".", body].concat();
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &signed);
    BASE64_STANDARD.encode(mac)
}

fn sign(headers: &mut Headers, body: &[u8]) {
    let macs = KEYS.map(|key| mac(headers, body, key));
    for (name, value) in headers {
        if name.ends_with("-signature")
            && let Ok(text) = str::from_utf8(value)
        {
            let filled = text.replace("$1", &macs[0]).replace("$2", &macs[1]);
            *value = filled.replace("$3", &macs[2]).into_bytes();
        }
    }
}

fn is_accepted(headers: &Headers, body: &[u8]) -> bool {
    let head = SignedHead::read(|name| read(headers, name), NOW);
    head.and_then(|head| SECRETS.verify(&head, body).map(drop)).is_ok()
}

/// The conditions of Standard Webhooks, read in another way.
fn was_signed(headers: &Headers, body: &[u8]) {
    let family = family(headers);
    let of =
        |name: &str| str::from_utf8(read(headers, &format!("{family}-{name}")).unwrap()).unwrap();
    assert!((1..=256).contains(&of("id").len()));
    let at: i128 = of("timestamp").parse().unwrap();
    assert!((at - i128::from(NOW)).abs() <= 300);
    let macs = [KEYS[0], KEYS[1]].map(|key| mac(headers, body, key));
    let is_right = |signature: &str| {
        let encoded = signature.strip_prefix("v1,").map(|it| it.trim_end_matches('='));
        encoded.is_some_and(|it| macs.iter().any(|mac| mac.trim_end_matches('=') == it))
    };
    assert!(of("signature").split(' ').any(is_right));
}

/// True if nobody could refuse it: one header of each name, and a right signature alone.
fn is_plainly_right(headers: &Headers, body: &[u8]) -> bool {
    let [(id, id_value), (timestamp, at), (signature, signatures)] = headers.as_slice() else {
        return false;
    };
    let names = [id, timestamp, signature].map(String::as_str);
    let at = str::from_utf8(at).ok().and_then(|at| at.parse::<i64>().ok());
    let right = format!("v1,{}", mac(headers, body, KEYS[1]));
    names == ["svix-id", "svix-timestamp", "svix-signature"]
        && (1..=256).contains(&id_value.len())
        && id_value.iter().all(u8::is_ascii_graphic)
        && at.is_some_and(|at| at.abs_diff(NOW) <= 300)
        && *signatures == right.into_bytes()
}
