//! The text of a service key, as its holder has it: `exo_sk_<id>_<secret><checksum>`, all of it
//! hexadecimal after the prefix. Scanners for secrets find the prefix, and a key that was mistyped
//! is known by its checksum.

use crate::digest::sha256_hex;
use exodrive_domain::id::KeyId;
use std::fmt;
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// The beginning of every service key.
pub const KEY_PREFIX: &str = "exo_sk_";
/// Hexadecimal digits of the id, of the secret, and of the checksum.
const ID: usize = 32;
const SECRET: usize = 64;
const CHECKSUM: usize = 8;
/// Digits of the id that a list shows.
const SHOWN: usize = 8;

/// The beginning of a key's text, by which people know it again. It holds nothing of the secret.
pub fn shown_prefix(id: KeyId) -> String {
    let id = Uuid::from(id).simple().to_string();
    format!("{KEY_PREFIX}{}", &id[..SHOWN])
}

/// A service key with its secret.
#[derive(Clone)]
pub struct KeyText {
    id: KeyId,
    secret: [u8; SECRET / 2],
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyText").field("id", &self.id).finish_non_exhaustive()
    }
}

impl KeyText {
    /// A key with a secret, which must be random.
    pub fn new(id: KeyId, secret: [u8; SECRET / 2]) -> Self {
        Self { id, secret }
    }

    /// Reads the text of a key; `None` if it has another form, or another checksum.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(KEY_PREFIX)?;
        let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        let (id, rest) = digits.split_once('_')?;
        if id.len() != ID || rest.len() != SECRET + CHECKSUM || !rest.chars().all(is_digit) {
            return None;
        }
        let (body, given) = text.split_at(text.len() - CHECKSUM);
        if checksum(body) != given || !id.chars().all(is_digit) {
            return None;
        }
        let mut secret = [0; SECRET / 2];
        hex::decode_to_slice(&rest[..SECRET], &mut secret).ok()?;
        Some(Self { id: id.parse().ok()?, secret })
    }

    /// The text, which is shown to nobody but the holder.
    pub fn expose(&self) -> String {
        let body =
            format!("{KEY_PREFIX}{}_{}", Uuid::from(self.id).simple(), hex::encode(self.secret));
        let checksum = checksum(&body);
        body + &checksum
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// SHA-256 of the secret, hexadecimal. No salt and no slow hash: nobody guesses 256 bits.
    pub fn hash(&self) -> String {
        sha256_hex(&self.secret)
    }

    /// True if the secret has this hash. Takes the same time wherever the two differ.
    pub fn has_hash(&self, hash: &str) -> bool {
        self.hash().as_bytes().ct_eq(hash.as_bytes()).into()
    }
}

fn checksum(body: &str) -> String {
    let mut digest = sha256_hex(body.as_bytes());
    digest.truncate(CHECKSUM);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> KeyText {
        KeyText::new(Uuid::from_u128(0x0198_f3a6 << 96).into(), [7; 32])
    }

    #[test]
    fn a_text_is_read_back_and_has_the_known_form() {
        let text = key().expose();
        let read = KeyText::parse(&text).unwrap();
        assert_eq!((read.id(), read.secret), (key().id(), key().secret));
        assert!(text.starts_with(&shown_prefix(key().id())));
        assert_eq!(text.len(), 112);
        // What scanners for secrets are told to look for.
        let (id, rest) = text.strip_prefix("exo_sk_").unwrap().split_once('_').unwrap();
        assert!((id.to_owned() + rest).chars().all(|c| c.is_ascii_hexdigit()));
        assert!(!format!("{:?}", key()).contains("07"));
    }

    #[test]
    fn a_secret_is_known_by_its_hash_alone() {
        let other = KeyText::new(key().id(), [8; 32]);
        assert!(key().has_hash(&key().hash()) && !other.has_hash(&key().hash()));
        assert!(!key().has_hash("") && !key().has_hash(&key().hash()[1..]));
    }

    proptest! {
        #[test]
        fn a_mistyped_key_is_none(at in 0_usize..112, typed in "[0-9a-z_]") {
            let mut text = key().expose();
            let same = text[at..=at] == typed;
            text.replace_range(at..=at, &typed);
            prop_assert_eq!(KeyText::parse(&text).is_some(), same);
        }

        #[test]
        fn no_text_is_too_strange(text in "(exo_sk_)?.{0,120}") {
            prop_assert!(KeyText::parse(&text).is_none());
        }
    }
}
