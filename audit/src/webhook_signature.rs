//! The signature of a webhook: Svix, which Standard Webhooks describes
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! Not the `standardwebhooks` crate: it reads the clock itself, knows only one secret and one
//! family of header names, and rejects a body that is not UTF-8.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ring::hmac;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

/// Secrets are written with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Seconds by which the attempt's timestamp may differ from now, either way.
const TOLERANCE: u64 = 300;

/// Bytes that the header with the signatures may have.
const LONGEST_SIGNATURES: usize = 4 << 10;

/// Signatures that a delivery may have: a provider has few secrets at a time.
const MOST_SIGNATURES: usize = 10;

/// A MAC: of SHA-256.
type Tag = [u8; 32];

/// Header names by family; the first wins when both are there.
const FAMILIES: [[&str; 3]; 2] = [
    ["svix-id", "svix-timestamp", "svix-signature"],
    ["webhook-id", "webhook-timestamp", "webhook-signature"],
];

/// The signing secrets that are accepted, any of them.
#[derive(Clone)]
pub struct Secrets {
    first: hmac::Key,
    others: Vec<hmac::Key>,
}

/// An invalid secret.
#[derive(Debug, thiserror::Error)]
#[error(
    "a webhook secret is 'whsec_' and the base64 of at least {LEAST_SECRET} bytes (the prefix may be left out), as the provider shows it"
)]
pub struct SecretError;

/// Bytes that a secret has at least, by Standard Webhooks.
const LEAST_SECRET: usize = 24;

/// Bytes that a message's id may have. It is a key of rows, and of the server that
/// finds repeats.
const LONGEST_ID: usize = 256;

/// Reason that a delivery is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDelivery {
    /// A header is missing, empty or not text.
    #[error("the headers svix-id, svix-timestamp and svix-signature must all be there")]
    Headers,
    /// The timestamp is not a whole number of seconds.
    #[error("svix-timestamp must be a whole number of Unix seconds")]
    Timestamp,
    /// The attempt is too old, or from the future.
    #[error("svix-timestamp is more than 300 s from now")]
    Stale,
    /// There are more signatures than any provider makes.
    #[error(
        "svix-signature has more than {LONGEST_SIGNATURES} bytes or {MOST_SIGNATURES} signatures"
    )]
    TooManySignatures,
    /// The id is longer than any that a provider makes.
    #[error("svix-id has more than {LONGEST_ID} bytes")]
    LongId,
    /// No signature matches.
    #[error("no signature matches: check the endpoint's signing secret")]
    Signature,
}

impl InvalidDelivery {
    /// A name for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Timestamp => "timestamp",
            Self::Stale => "stale",
            Self::TooManySignatures => "too_many_signatures",
            Self::LongId => "long_id",
            Self::Signature => "signature",
        }
    }
}

/// What the headers of a delivery claim about it. Nothing of it is verified.
pub struct SignedHead<'a> {
    id: &'a str,
    timestamp: &'a str,
    tags: Vec<Tag>,
}

impl<'a> SignedHead<'a> {
    /// Reads the claim, `now` in Unix seconds. `header` returns the value of a header by its name
    /// in lower case. This costs next to nothing, and needs no body.
    ///
    /// # Errors
    /// When the headers alone show that the delivery cannot be accepted: any [`InvalidDelivery`]
    /// but the last two.
    pub fn read(
        header: impl Fn(&str) -> Option<&'a [u8]>,
        now: i64,
    ) -> Result<Self, InvalidDelivery> {
        let family = FAMILIES.iter().find(|names| names.iter().any(|name| header(name).is_some()));
        let [id, timestamp, signatures] = family
            .ok_or(InvalidDelivery::Headers)?
            .map(|name| header(name).and_then(visible_ascii).filter(|text| !text.is_empty()));
        let (Some(id), Some(timestamp), Some(signatures)) = (id, timestamp, signatures) else {
            return Err(InvalidDelivery::Headers);
        };
        let at: i64 = timestamp.parse().map_err(|_| InvalidDelivery::Timestamp)?;
        if now.abs_diff(at) > TOLERANCE {
            return Err(InvalidDelivery::Stale);
        }
        if signatures.len() > LONGEST_SIGNATURES || signatures.split(' ').count() > MOST_SIGNATURES
        {
            return Err(InvalidDelivery::TooManySignatures);
        }
        Ok(Self { id, timestamp, tags: signatures.split(' ').filter_map(tag).collect() })
    }

    fn mac(&self, key: &hmac::Key, body: &[u8]) -> hmac::Tag {
        mac(key, self.id, self.timestamp, body)
    }
}

/// The MAC of a signature, if it is one of the version that we know.
fn tag(signature: &str) -> Option<Tag> {
    let encoded = signature.strip_prefix("v1,")?;
    BASE64.decode(encoded).ok()?.try_into().ok()
}

impl Secrets {
    /// Reads secrets, as Resend shows them.
    ///
    /// # Errors
    /// When one is too short or not base64, or when there is none.
    pub fn parse<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, SecretError> {
        let mut keys = secrets.into_iter().map(|secret| {
            let secret = secret.trim();
            let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
            let key = BASE64.decode(encoded).ok().map(Zeroizing::new);
            let key = key.filter(|key| key.len() >= LEAST_SECRET);
            key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)).ok_or(SecretError)
        });
        let first = keys.next().ok_or(SecretError)??;
        Ok(Self { first, others: keys.collect::<Result<_, _>>()? })
    }

    /// Verifies that the body of a delivery is signed by one of the secrets. Returns the message's
    /// id. However many signatures there are, the body is hashed once for each secret.
    ///
    /// # Errors
    /// [`InvalidDelivery::Signature`] and [`InvalidDelivery::LongId`].
    pub fn verify<'a>(
        &self,
        claim: &SignedHead<'a>,
        body: &[u8],
    ) -> Result<&'a str, InvalidDelivery> {
        if !self.have_signed(claim, body) {
            return Err(InvalidDelivery::Signature);
        }
        if claim.id.len() > LONGEST_ID { Err(InvalidDelivery::LongId) } else { Ok(claim.id) }
    }

    fn have_signed(&self, claim: &SignedHead<'_>, body: &[u8]) -> bool {
        self.any_made(&claim.tags, |key| claim.mac(key, body))
    }

    /// True if one of the secrets gives one of the tags. Every tag is compared with every MAC, in
    /// constant time.
    fn any_made(&self, tags: &[Tag], mut mac: impl FnMut(&hmac::Key) -> hmac::Tag) -> bool {
        if tags.is_empty() {
            return false;
        }
        let mut found = Choice::from(0);
        for key in self.keys() {
            let expected = mac(key);
            for tag in tags {
                found |= tag[..].ct_eq(expected.as_ref());
            }
        }
        found.into()
    }

    /// True if a stored delivery is signed by one of the secrets, with the headers as received. The
    /// timestamp is not compared with now.
    pub fn verify_stored(&self, headers: &[(String, String)], body: &[u8]) -> bool {
        let header = |name: &str| {
            let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_bytes())
        };
        let timestamps = FAMILIES.iter().filter_map(|[_, timestamp, _]| header(timestamp));
        let at = timestamps.filter_map(|value| visible_ascii(value)?.parse().ok()).next();
        let claim = at.and_then(|at| SignedHead::read(header, at).ok());
        claim.is_some_and(|claim| self.have_signed(&claim, body))
    }

    /// The signature header by the first secret, for code that sends deliveries: demo, tests and
    /// benchmarks.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        format!("v1,{}", BASE64.encode(mac(&self.first, id, &timestamp.to_string(), body)))
    }

    fn keys(&self) -> impl Iterator<Item = &hmac::Key> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// A header's value as text, if it is text that every HTTP library reads alike.
fn visible_ascii(value: &[u8]) -> Option<&str> {
    let readable = |byte: &u8| matches!(byte, b'\t' | 0x20..0x7f);
    value.iter().all(readable).then(|| std::str::from_utf8(value).ok())?
}

/// The MAC of a delivery, without a copy of its body.
fn mac(key: &hmac::Key, id: &str, timestamp: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::{collections::BTreeMap, fs, path::PathBuf};

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        expect: String,
        why: String,
        secrets: Vec<String>,
        now: i64,
        headers: BTreeMap<String, String>,
        body_file: Option<String>,
        body_base64: Option<String>,
    }

    #[test]
    fn every_published_vector_has_its_verdict() {
        let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/resend");
        let text = fs::read_to_string(fixtures.join("signatures.json")).unwrap();
        let vectors: Vectors = serde_json::from_str(&text).unwrap();
        assert!(vectors.vectors.len() > 50);
        for vector in vectors.vectors {
            let body = match (&vector.body_file, &vector.body_base64) {
                (Some(file), _) => fs::read(fixtures.join(file)).unwrap(),
                (None, Some(body)) => BASE64.decode(body).unwrap(),
                (None, None) => Vec::new(),
            };
            let header = |name: &str| {
                let mut headers = vector.headers.iter();
                let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_bytes())
            };
            let secrets = Secrets::parse(vector.secrets.iter().map(String::as_str));
            let claim = SignedHead::read(header, vector.now);
            let accepted = secrets
                .is_ok_and(|secrets| claim.and_then(|claim| secrets.verify(&claim, &body)).is_ok());
            match vector.expect.as_str() {
                "accept" => assert!(accepted, "{}: {}", vector.name, vector.why),
                "reject" => assert!(!accepted, "{}: {}", vector.name, vector.why),
                "either" => {}
                other => panic!("{}: unknown verdict {other}", vector.name),
            }
        }
    }

    #[test]
    fn a_stored_delivery_is_verified_at_any_later_time() {
        let secrets = Secrets::parse(["whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"]).unwrap();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = [
            header("content-type", "application/json"),
            header("svix-id", "msg_1"),
            header("svix-signature", &secrets.sign("msg_1", 1_000, b"body")),
            header("svix-timestamp", "1000"),
        ];
        assert!(secrets.verify_stored(&headers, b"body"));
        assert!(!secrets.verify_stored(&headers, b"b0dy"));
        assert!(!secrets.verify_stored(&headers[..2], b"body"));
        assert!(
            !Secrets::parse(["whsec_b3RoZXJzb3RoZXJzb3RoZXJzb3RoZXJz"])
                .unwrap()
                .verify_stored(&headers, b"body")
        );
    }

    #[test]
    fn an_id_has_at_most_256_bytes() {
        let secrets = Secrets::parse(["whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"]).unwrap();
        for (length, expected) in [(256, None), (257, Some(InvalidDelivery::LongId))] {
            let id = "m".repeat(length);
            let signature = secrets.sign(&id, 1_000, b"body");
            let header = |name: &str| match name {
                "svix-id" => Some(id.as_bytes()),
                "svix-timestamp" => Some(&b"1000"[..]),
                "svix-signature" => Some(signature.as_bytes()),
                _ => None,
            };
            let claim = SignedHead::read(header, 1_000).unwrap();
            assert_eq!(secrets.verify(&claim, b"body").err(), expected);
        }
    }

    /// The claim with these signatures.
    fn claim(signatures: &str) -> Result<SignedHead<'_>, InvalidDelivery> {
        let header = |name: &str| match name {
            "svix-id" => Some(&b"msg_1"[..]),
            "svix-timestamp" => Some(&b"1000"[..]),
            "svix-signature" => Some(signatures.as_bytes()),
            _ => None,
        };
        SignedHead::read(header, 1_000)
    }

    const FIRST: &str = "whsec_Zmlyc3QgZmlyc3QgZmlyc3QgZmlyc3Qg";
    const SECOND: &str = "whsec_c2Vjb25kIHNlY29uZCBzZWNvbmQgc2Vj";
    const THIRD: &str = "whsec_dGhpcmQgdGhpcmQgdGhpcmQgdGhpcmQg";

    #[test]
    fn the_body_is_hashed_once_for_each_secret_however_many_signatures_there_are() {
        let secrets = Secrets::parse([FIRST, SECOND, THIRD]).unwrap();
        let body = vec![b'a'; 1 << 20];
        let hashed = |signatures: &str| {
            let mut hashed = 0;
            let claim = claim(signatures);
            let signed = claim.is_ok_and(|claim| {
                secrets.any_made(&claim.tags, |key| {
                    hashed += 1;
                    claim.mac(key, &body)
                })
            });
            (hashed, signed)
        };
        let foreign = format!("v1,{}", BASE64.encode([7; 32]));
        let ours = Secrets::parse([THIRD]).unwrap().sign("msg_1", 1_000, &body);
        assert_eq!(hashed(&foreign), (3, false));
        assert_eq!(hashed(&[foreign.as_str(); 10].join(" ")), (3, false));
        let with_ours = format!("{} {ours}", [foreign.as_str(); 9].join(" "));
        assert_eq!(hashed(&with_ours), (3, true));
        // What cannot be a MAC is compared with none.
        for short in ["v1,", "v1,AAAA", "v1a,AAAA", "v1", "=", &format!("v1,{}", "A".repeat(44))] {
            assert_eq!(hashed(short), (0, false), "{short}");
        }
        for many in [104_000, 11] {
            let many = vec!["v1,"; many].join(" ");
            assert_eq!(hashed(&many), (0, false));
            assert_eq!(claim(&many).err(), Some(InvalidDelivery::TooManySignatures));
        }
    }

    #[test]
    fn the_signatures_have_at_most_4_kib() {
        let padded = |length: usize| format!("v1,{}", "A".repeat(length - 3));
        assert!(claim(&padded(LONGEST_SIGNATURES)).is_ok());
        let longer = claim(&padded(LONGEST_SIGNATURES + 1)).err();
        assert_eq!(longer, Some(InvalidDelivery::TooManySignatures));
    }

    #[test]
    fn an_invalid_secret_is_rejected_at_start() {
        for secrets in [
            &[""][..],
            &["whsec_"],
            &["whsec_not base64"],
            &["whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmU"],
            &[],
        ] {
            assert!(Secrets::parse(secrets.iter().copied()).is_err(), "{secrets:?}");
        }
    }
}
