//! Signed checkpoints and keys: they have one spelling, and no text verifies that was not signed.

use exodrive_proof::note::{
    self, Checkpoint, SignedNote, SigningKey, VerifierKey, WitnessKey, WitnessVerifierKey,
};
use std::sync::LazyLock;

/// The log's name.
pub(crate) const ORIGIN: &str = "exodrive.example/log";
/// When the witness signed.
const SEEN_AT: u64 = 1_790_000_000;

pub(crate) static KEY: LazyLock<SigningKey> = LazyLock::new(|| {
    SigningKey::from_text(ORIGIN, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap()
});
static WITNESS: LazyLock<WitnessKey> = LazyLock::new(|| {
    WitnessKey::from_text("witness.example", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=")
        .unwrap()
});

/// The checkpoints that were signed.
static SIGNED: LazyLock<Vec<SignedNote>> = LazyLock::new(|| {
    let extensions = [Vec::new(), vec!["first".to_owned(), "second".to_owned()]];
    let checkpoint = |(size, extensions)| Checkpoint {
        origin: ORIGIN.to_owned(),
        size,
        root: [7; 32],
        extensions,
    };
    let checkpoints = [13, 4].into_iter().zip(extensions).map(checkpoint);
    checkpoints.map(|it| note::cosign(&note::sign(&it, &[&KEY]), &WITNESS, SEEN_AT)).collect()
});

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let [first, second] = [0, 1].map(|note: usize| SIGNED[note].to_string());
    vec![
        ("refused-forged", first.replace("\n13\n", "\n14\n").into_bytes()),
        ("accepted-cosigned", first.into_bytes()),
        ("accepted-extended", second.into_bytes()),
        ("accepted-key-of-log", KEY.verifier().to_string().into_bytes()),
        ("accepted-key-of-witness", WITNESS.verifier().to_string().into_bytes()),
        ("accepted-private-key", KEY.to_text().into_bytes()),
    ]
}

pub(crate) fn holds(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let is_key = is_key(text);
    let Ok(note) = text.parse::<SignedNote>() else { return is_key };
    assert_eq!(note.to_string(), text, "a note has one spelling");
    let was_signed = SIGNED.iter().any(|signed| signed.text() == note.text());
    let keys = [KEY.verifier()];
    let verified = note::verify(&note, &keys);
    assert!(verified.is_err() || was_signed, "no text verifies that was not signed");
    let cosigned = note::verify_cosignature(&note, &WITNESS.verifier());
    assert!(cosigned.is_err() || was_signed && cosigned == Ok(SEEN_AT));
    if let Ok(checkpoint) = note.checkpoint() {
        assert_eq!(checkpoint.to_string(), note.text(), "a checkpoint has one spelling");
        signs(&checkpoint);
    }
    verified.is_ok()
}

/// What is signed is read again, and verifies if it is of this log.
fn signs(checkpoint: &Checkpoint) {
    let signed = note::cosign(&note::sign(checkpoint, &[&KEY]), &WITNESS, SEEN_AT);
    let read: SignedNote = signed.to_string().parse().expect("our own note");
    assert_eq!(read, signed);
    let verified = note::verify(&read, &[KEY.verifier()]);
    if checkpoint.origin == ORIGIN {
        assert_eq!(verified.as_ref(), Ok(checkpoint));
    } else {
        assert!(verified.is_err(), "the name of the log is that of its key");
    }
    assert_eq!(note::verify_cosignature(&read, &WITNESS.verifier()), Ok(SEEN_AT));
}

fn is_key(text: &str) -> bool {
    let log = VerifierKey::parse(text);
    if let Ok(key) = &log {
        assert_eq!(key.to_string(), text, "a public key has one spelling");
    }
    let witness = WitnessVerifierKey::parse(text);
    if let Ok(key) = &witness {
        assert_eq!(key.to_string(), text, "a public key has one spelling");
    }
    let private = SigningKey::parse(text);
    if let Ok(key) = &private {
        let again = SigningKey::parse(&key.to_text()).expect("our own key");
        assert!(again.verifier() == key.verifier());
    }
    log.is_ok() || witness.is_ok() || private.is_ok()
}
