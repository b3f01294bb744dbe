//! Signed checkpoints: the text of a tree's size and root (C2SP
//! tlog-checkpoint) with Ed25519 signatures below it (C2SP signed-note), and
//! the cosignatures of witnesses (C2SP tlog-cosignature, `cosignature/v1`).

mod checkpoint;
mod key;

pub use checkpoint::Checkpoint;
pub use key::{KeyError, SigningKey, VerifierKey, WitnessKey, WitnessVerifierKey};

use base64::{Engine, engine::general_purpose::STANDARD};
use std::{fmt, str::FromStr};

/// The greatest length of a note.
const MAX_BYTES: usize = 1 << 20;
/// The greatest number of signatures of a note.
const MAX_SIGNATURES: usize = 100;

/// Reason why a note is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It does not have the form of C2SP signed-note or tlog-checkpoint.
    #[error("not a signed checkpoint: {0}")]
    Malformed(&'static str),
    /// No signature is by a key that was given.
    #[error(
        "the checkpoint is not signed by any of the keys given ({given}); it is signed by {signers}"
    )]
    NotSigned {
        /// The keys given.
        given: String,
        /// The signers that the note names.
        signers: String,
    },
    /// A signature that bears the name and id of a key is not by that key.
    #[error("the signature of {0} is wrong: the checkpoint was changed or forged")]
    WrongSignature(String),
    /// The origin is not the name of the key that signed.
    #[error("the checkpoint is of the log {origin:?}, but is signed by the key of {key:?}")]
    WrongOrigin {
        /// The log that the checkpoint names.
        origin: String,
        /// The signer's name.
        key: String,
    },
}

/// One signature of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The signer's name.
    pub name: String,
    /// The signer's key id.
    pub id: [u8; 4],
    /// The bytes after the id: the signature, after a timestamp if it is a
    /// cosignature.
    pub bytes: Vec<u8>,
}

/// A text with signatures, in the form of C2SP signed-note. Its form is
/// checked; [`verify`] checks the signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<Signature>,
}

impl SignedNote {
    /// The signed text; ends with a line feed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in their order.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The note's checkpoint, without a check of the signatures.
    ///
    /// # Errors
    ///
    /// The text is not a checkpoint.
    pub fn checkpoint(&self) -> Result<Checkpoint, NoteError> {
        self.text.parse()
    }

    /// The signers that the note names.
    fn signers(&self) -> String {
        list(self.signatures.iter().map(|it| key::display_id(&it.name, it.id)))
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for SignedNote {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.text)?;
        for Signature { name, id, bytes } in &self.signatures {
            let encoded = STANDARD.encode([id.as_slice(), bytes].concat());
            writeln!(out, "\u{2014} {name} {encoded}")?;
        }
        Ok(())
    }
}

impl FromStr for SignedNote {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        use NoteError::Malformed;
        if note.len() > MAX_BYTES {
            return Err(Malformed("it is longer than 1 MiB"));
        }
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(Malformed("it has a control character; lines end with a line feed alone"));
        }
        let (text, signatures) =
            note.rsplit_once("\n\n").ok_or(Malformed("no empty line sets the signatures apart"))?;
        let signatures =
            signatures.strip_suffix('\n').ok_or(Malformed("the last line does not end"))?;
        let signatures: Vec<_> =
            signatures.split('\n').map(signature).collect::<Result<_, _>>().map_err(Malformed)?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(Malformed("it has more than 100 signatures"));
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }
}

fn signature(line: &str) -> Result<Signature, &'static str> {
    let line = line
        .strip_prefix("\u{2014} ")
        .ok_or("a line of a signature begins with an em dash and a space")?;
    let (name, encoded) = line.split_once(' ').ok_or("a signature lacks its name")?;
    if !key::is_name(name) {
        return Err("the name of a signature is empty or has a space or plus sign");
    }
    let bytes = STANDARD.decode(encoded).map_err(|_| "a signature is not base64")?;
    let (id, bytes) = bytes.split_first_chunk().ok_or("a signature is too short")?;
    if bytes.is_empty() {
        return Err("a signature is too short");
    }
    Ok(Signature { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
}

/// Signs a checkpoint with every key, in their order: during a rotation the
/// old and the new one.
pub fn sign(checkpoint: &Checkpoint, keys: &[&SigningKey]) -> SignedNote {
    let text = checkpoint.to_string();
    let signatures = keys.iter().map(|key| key.sign(text.as_bytes())).collect();
    SignedNote { text, signatures }
}

/// The checkpoint of a note, if one of the keys signed it. Signatures of
/// unknown keys are ignored; every signature that has the name and id of a
/// known key must be right.
///
/// # Errors
///
/// See [`NoteError`].
pub fn verify(note: &SignedNote, keys: &[VerifierKey]) -> Result<Checkpoint, NoteError> {
    let mut signer = None;
    for signature in note.signatures() {
        let Some(key) = keys.iter().find(|key| key.is_of(signature)) else { continue };
        if !key.verifies(note.text.as_bytes(), &signature.bytes) {
            return Err(NoteError::WrongSignature(key.short()));
        }
        signer.get_or_insert(key);
    }
    let Some(signer) = signer else {
        let given = list(keys.iter().map(VerifierKey::short));
        return Err(NoteError::NotSigned { given, signers: note.signers() });
    };
    let checkpoint = note.checkpoint()?;
    if checkpoint.origin != signer.name() {
        let key = signer.name().to_owned();
        return Err(NoteError::WrongOrigin { origin: checkpoint.origin, key });
    }
    Ok(checkpoint)
}

/// The text that a witness signs: at this time, it had seen no other tree than
/// one that this tree extends.
fn cosigned_text(note: &SignedNote, unix_time: u64) -> String {
    format!("cosignature/v1\ntime {unix_time}\n{}", note.text)
}

/// The note with the witness's signature as the last, instead of an older one
/// of the same key. [`crate::witness::Witness`] decides if the checkpoint may
/// be cosigned.
pub fn cosign(note: &SignedNote, key: &WitnessKey, unix_time: u64) -> SignedNote {
    let mut cosigned = note.clone();
    cosigned.signatures.retain(|signature| !key.verifier().is_of(signature));
    cosigned.signatures.push(key.cosign(cosigned_text(note, unix_time).as_bytes(), unix_time));
    cosigned
}

/// The time at which the witness saw the checkpoint, as Unix time.
///
/// # Errors
///
/// It has not signed, or a signature that has its name and id is wrong.
pub fn verify_cosignature(note: &SignedNote, key: &WitnessVerifierKey) -> Result<u64, NoteError> {
    let mut seen = None;
    for signature in note.signatures().iter().filter(|signature| key.is_of(signature)) {
        let wrong = || NoteError::WrongSignature(key.short());
        let (time, bytes) = signature.bytes.split_first_chunk().ok_or_else(wrong)?;
        let time = u64::from_be_bytes(*time);
        if !key.verifies(cosigned_text(note, time).as_bytes(), bytes) {
            return Err(wrong());
        }
        seen = seen.max(Some(time));
    }
    seen.ok_or_else(|| NoteError::NotSigned { given: key.short(), signers: note.signers() })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
