//! Tests of notes: against notes of other programs, malformed ones, keys and
//! cosignatures.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

/// The example of Go's `golang.org/x/mod/sumdb/note`.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_NOTE: &str = "If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
";

fn checkpoint() -> Checkpoint {
    Checkpoint {
        origin: "exodrive.example/log".to_owned(),
        size: 300,
        root: [7; 32],
        extensions: vec!["more".to_owned()],
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_text("exodrive.example/log", &STANDARD.encode([seed; 32])).unwrap()
}

#[test]
fn a_note_of_another_program_verifies() {
    let note: SignedNote = PETER_NOTE.parse().unwrap();
    assert_eq!(note.to_string(), PETER_NOTE);
    let peter = VerifierKey::parse(PETER).unwrap();
    assert_eq!(peter.to_string(), PETER);
    // The signature is right; the text is not a checkpoint.
    assert!(matches!(verify(&note, std::slice::from_ref(&peter)), Err(NoteError::Malformed(_))));
    let changed: SignedNote = PETER_NOTE.replace("answer", "Answer").parse().unwrap();
    assert_eq!(
        verify(&changed, &[peter]),
        Err(NoteError::WrongSignature("PeterNeumann+c74f20a3".to_owned()))
    );
}

#[test]
fn a_checkpoint_survives_its_text() {
    let text = checkpoint().to_string();
    assert_eq!(text, format!("exodrive.example/log\n300\n{}\nmore\n", STANDARD.encode([7; 32])));
    assert_eq!(text.parse(), Ok(checkpoint()));
    for malformed in [
        "",
        "a\n1\n",
        "\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "a\n01\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "a\n+1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n",
        "a\n1\nAAAA\n",
        "a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n",
    ] {
        assert!(
            matches!(malformed.parse::<Checkpoint>(), Err(NoteError::Malformed(_))),
            "{malformed:?}"
        );
    }
}

#[test]
fn several_keys_sign_and_one_known_is_enough() {
    let (old, new, other) = (key(1), key(2), key(3));
    let note = sign(&checkpoint(), &[&new, &old]);
    let note: SignedNote = note.to_string().parse().unwrap();
    for known in
        [vec![old.verifier()], vec![new.verifier()], vec![other.verifier(), old.verifier()]]
    {
        assert_eq!(verify(&note, &known), Ok(checkpoint()));
    }
    let unknown = verify(&note, &[other.verifier()]);
    assert!(matches!(unknown, Err(NoteError::NotSigned { .. })), "{unknown:?}");
    assert!(matches!(verify(&note, &[]), Err(NoteError::NotSigned { .. })));
    // A wrong signature of a known key counts even beside a right one.
    let mut broken = note.clone();
    broken.signatures[1].bytes[0] ^= 1;
    assert_eq!(
        verify(&broken, &[old.verifier(), new.verifier()]),
        Err(NoteError::WrongSignature(old.verifier().short()))
    );
    assert_eq!(verify(&broken, &[new.verifier()]), Ok(checkpoint()));
}

#[test]
fn a_log_signs_only_for_itself() {
    let elsewhere = Checkpoint { origin: "other.example".to_owned(), ..checkpoint() };
    let note = sign(&elsewhere, &[&key(1)]);
    assert!(matches!(verify(&note, &[key(1).verifier()]), Err(NoteError::WrongOrigin { .. })));
}

#[test]
fn every_flipped_byte_of_a_note_is_found() {
    let note = sign(&checkpoint(), &[&key(1)]).to_string();
    for at in 0..note.len() {
        for bit in 0..8 {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let verified =
                text.parse().and_then(|note: SignedNote| verify(&note, &[key(1).verifier()]));
            assert!(verified.is_err(), "byte {at}, bit {bit}: {text}");
        }
    }
}

#[test]
fn malformed_notes_are_rejected() {
    let note = sign(&checkpoint(), &[&key(1)]).to_string();
    assert!(note.parse::<SignedNote>().is_ok());
    for malformed in [
        note.trim_end().to_owned(),
        format!("{note}\n"),
        format!("{note}more\n"),
        note.replace('\n', "\r\n"),
        note.replace("\u{2014} ", "- "),
        note.replace("\n\n", "\n"),
        note.replace("more", "mo\tre"),
        format!("{}\n", note.trim_end().trim_end_matches('=')),
        String::new(),
    ] {
        let refused = malformed.parse().and_then(|note: SignedNote| note.checkpoint());
        assert!(matches!(refused, Err(NoteError::Malformed(_))), "{malformed:?}");
    }
}

#[test]
fn keys_survive_their_text() {
    let key = key(1);
    let text = key.verifier().to_string();
    assert_eq!(VerifierKey::parse(&text), Ok(key.verifier()));
    assert_eq!(SigningKey::parse(&key.to_text()).unwrap().verifier(), key.verifier());
    assert_eq!(SigningKey::from_text(key.name(), &key.seed()).unwrap().verifier(), key.verifier());
    assert_ne!(
        SigningKey::generate("a").unwrap().seed(),
        SigningKey::generate("a").unwrap().seed()
    );
    let wrong_id = text.replacen(&key.verifier().short(), "exodrive.example/log+00000000", 1);
    assert_eq!(VerifierKey::parse(&wrong_id), Err(KeyError::Verifier));
    assert_eq!(VerifierKey::parse("a b+00000000+AQ=="), Err(KeyError::Name));
    assert_eq!(VerifierKey::parse(&format!("{text}\n")), Err(KeyError::Verifier));
    let witness = WitnessKey::generate("w").unwrap();
    let kind = KeyError::Kind { found: "witness", expected: "log" };
    assert_eq!(VerifierKey::parse(&witness.verifier().to_string()), Err(kind));
    assert!(matches!(SigningKey::from_text("a", "AAAA"), Err(KeyError::Seed)));
    assert!(!format!("{key:?}").contains(&key.seed()));
}

#[test]
fn a_witness_cosigns_once() {
    let witness = WitnessKey::generate("witness.example").unwrap();
    let note = sign(&checkpoint(), &[&key(1)]);
    assert!(matches!(
        verify_cosignature(&note, &witness.verifier()),
        Err(NoteError::NotSigned { .. })
    ));
    let twice = cosign(&cosign(&note, &witness, 5), &witness, 9);
    assert_eq!(twice.signatures().len(), 2);
    let read: SignedNote = twice.to_string().parse().unwrap();
    assert_eq!(verify_cosignature(&read, &witness.verifier()), Ok(9));
    assert_eq!(verify(&read, &[key(1).verifier()]), Ok(checkpoint()));
    let mut later = read.clone();
    later.signatures[1].bytes[7] = 10;
    assert!(matches!(
        verify_cosignature(&later, &witness.verifier()),
        Err(NoteError::WrongSignature(_))
    ));
}
