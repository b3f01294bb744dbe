//! Keys of logs and witnesses, and their text form (C2SP signed-note).

use super::Signature;
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// Signature types of C2SP signed-note.
const ED25519_NOTE: u8 = 0x01;
const COSIGNATURE_V1: u8 = 0x04;
/// The prefix of a private key of Go's `sumdb/note`.
const PRIVATE: &str = "PRIVATE+KEY+";

/// Reason why a key cannot be used. Never holds the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The name is empty or has a space or plus sign.
    #[error("the name of a key must not be empty, nor have a space or plus sign")]
    Name,
    /// It is not the base64 of a seed of 32 bytes.
    #[error(
        "not a signing key: expected the base64 of 32 bytes, such as of `openssl rand -base64 32`"
    )]
    Seed,
    /// It is not a private key.
    #[error("not a private key: expected PRIVATE+KEY+<name>+<8 hex digits>+<base64>")]
    Private,
    /// It is not a verifier key.
    #[error(
        "not a public key: expected <name>+<8 hex digits>+<base64>, as `exodrive audit public-key` prints it"
    )]
    Verifier,
    /// It is a key of another purpose.
    #[error("this is the key of a {found}, not of a {expected}")]
    Kind {
        /// The purpose of the key.
        found: &'static str,
        /// The required purpose.
        expected: &'static str,
    },
    /// The system returned no random bytes.
    #[error("the system returned no random bytes")]
    Random,
}

/// True if signed-note allows the name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(|it: char| it == '+' || it.is_whitespace() || it.is_control())
}

/// A key's name and id, as people see it.
pub(super) fn display_id(name: &str, id: [u8; 4]) -> String {
    format!("{name}+{}", hex::encode(id))
}

const fn kind(algorithm: u8) -> &'static str {
    match algorithm {
        ED25519_NOTE => "log",
        COSIGNATURE_V1 => "witness",
        _ => "kind that is not known here",
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Public {
    algorithm: u8,
    name: String,
    id: [u8; 4],
    key: [u8; 32],
}

impl Public {
    fn new(algorithm: u8, name: &str, key: [u8; 32]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(name);
        hasher.update([b'\n', algorithm]);
        hasher.update(key);
        let hash: [u8; 32] = hasher.finalize().into();
        let [a, b, c, d, ..] = hash;
        Self { algorithm, name: name.to_owned(), id: [a, b, c, d], key }
    }

    fn parse(text: &str, algorithm: u8) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '+');
        let mut part = || parts.next().ok_or(KeyError::Verifier);
        let (name, id, encoded) = (part()?, part()?, part()?);
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let bytes = STANDARD.decode(encoded).map_err(|_| KeyError::Verifier)?;
        let (found, key) = bytes.split_first().ok_or(KeyError::Verifier)?;
        if *found != algorithm {
            return Err(KeyError::Kind { found: kind(*found), expected: kind(algorithm) });
        }
        let public = Self::new(algorithm, name, key.try_into().map_err(|_| KeyError::Verifier)?);
        if public.to_string() == text && id.len() == 8 {
            Ok(public)
        } else {
            Err(KeyError::Verifier)
        }
    }

    fn is_of(&self, signature: &Signature) -> bool {
        self.name == signature.name && self.id == signature.id
    }

    fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(text, signature).is_ok()
    }

    fn short(&self) -> String {
        display_id(&self.name, self.id)
    }
}

impl fmt::Display for Public {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = STANDARD.encode([&[self.algorithm], self.key.as_slice()].concat());
        write!(out, "{}+{}+{encoded}", self.name, hex::encode(self.id))
    }
}

/// The private half: a seed and the key pair that it makes.
struct Private {
    public: Public,
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl Private {
    fn new(algorithm: u8, name: &str, seed: [u8; 32]) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Seed)?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Seed)?;
        Ok(Self { public: Public::new(algorithm, name, key), seed, pair })
    }

    fn generate(algorithm: u8, name: &str) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Random)?;
        Self::new(algorithm, name, seed)
    }

    /// Go's `sumdb/note` form: name, id, and base64 of algorithm and seed.
    fn parse(text: &str, algorithm: u8) -> Result<Self, KeyError> {
        let rest = text.trim().strip_prefix(PRIVATE).ok_or(KeyError::Private)?;
        let mut parts = rest.splitn(3, '+');
        let mut part = || parts.next().ok_or(KeyError::Private);
        let (name, id, encoded) = (part()?, part()?, part()?);
        let bytes = STANDARD.decode(encoded).map_err(|_| KeyError::Private)?;
        let (found, seed) = bytes.split_first().ok_or(KeyError::Private)?;
        if *found != algorithm {
            return Err(KeyError::Kind { found: kind(*found), expected: kind(algorithm) });
        }
        let private = Self::new(algorithm, name, seed.try_into().map_err(|_| KeyError::Private)?)?;
        if hex::encode(private.public.id) == id { Ok(private) } else { Err(KeyError::Private) }
    }

    fn to_text(&self) -> String {
        let encoded = STANDARD.encode([&[self.public.algorithm], self.seed.as_slice()].concat());
        format!("{PRIVATE}{}+{encoded}", self.public.short())
    }

    fn signature(&self, prefix: &[u8], text: &[u8]) -> Signature {
        let bytes = [prefix, self.pair.sign(text).as_ref()].concat();
        Signature { name: self.public.name.clone(), id: self.public.id, bytes }
    }
}

macro_rules! keys {
    ($algorithm:ident, $(#[$private_doc:meta])* $private:ident, $(#[$public_doc:meta])* $public:ident) => {
        $(#[$public_doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $public(Public);

        impl $public {
            /// Reads `name+hex8+base64`.
            ///
            /// # Errors
            ///
            /// It is no such key, or one for another use.
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                Public::parse(text, $algorithm).map(Self)
            }

            /// The name of the key's owner.
            pub fn name(&self) -> &str {
                &self.0.name
            }

            /// The name and id, for people.
            pub fn short(&self) -> String {
                self.0.short()
            }

            /// True if a signature has this key's name and id.
            pub fn is_of(&self, signature: &Signature) -> bool {
                self.0.is_of(signature)
            }

            pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
                self.0.verifies(text, signature)
            }
        }

        /// `name+hex8+base64`, the form of C2SP signed-note.
        impl fmt::Display for $public {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, out)
            }
        }

        impl fmt::Debug for $public {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, out)
            }
        }

        impl FromStr for $public {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        $(#[$private_doc])*
        pub struct $private(Private);

        impl $private {
            /// A new key.
            ///
            /// # Errors
            ///
            /// The name is not allowed, or the system has no randomness.
            pub fn generate(name: &str) -> Result<Self, KeyError> {
                Private::generate($algorithm, name).map(Self)
            }

            /// The key of a seed, from its base64.
            ///
            /// # Errors
            ///
            /// The name is not allowed, or the seed is malformed.
            pub fn from_text(name: &str, seed: &str) -> Result<Self, KeyError> {
                let seed = STANDARD.decode(seed.trim()).ok().and_then(|it| it.try_into().ok());
                Private::new($algorithm, name, seed.ok_or(KeyError::Seed)?).map(Self)
            }

            /// Reads `PRIVATE+KEY+name+hex8+base64`.
            ///
            /// # Errors
            ///
            /// It is no such key, or one for another use.
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                Private::parse(text, $algorithm).map(Self)
            }

            /// `PRIVATE+KEY+name+hex8+base64`, a secret.
            pub fn to_text(&self) -> String {
                self.0.to_text()
            }

            /// The base64 of its seed, a secret.
            pub fn seed(&self) -> String {
                STANDARD.encode(self.0.seed)
            }

            /// The name of the key's owner.
            pub fn name(&self) -> &str {
                &self.0.public.name
            }

            /// The public half.
            pub fn verifier(&self) -> $public {
                $public(self.0.public.clone())
            }
        }

        /// Shows the public half only.
        impl fmt::Debug for $private {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0.public.short())
            }
        }
    };
}

keys!(
    ED25519_NOTE,
    /// A log's signing key.
    SigningKey,
    /// A key that checks a log's signatures.
    VerifierKey
);
keys!(
    COSIGNATURE_V1,
    /// A witness's key.
    WitnessKey,
    /// A key that checks a witness's cosignatures.
    WitnessVerifierKey
);

impl SigningKey {
    pub(super) fn sign(&self, text: &[u8]) -> Signature {
        self.0.signature(&[], text)
    }
}

impl WitnessKey {
    pub(super) fn cosign(&self, text: &[u8], unix_time: u64) -> Signature {
        self.0.signature(&unix_time.to_be_bytes(), text)
    }
}
