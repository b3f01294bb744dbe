//! Files changed byte by byte.

use crate::sample::{Log, SIZE, WHOLE, verified_bytes, written};
use exodrive_proof::{export::Format, verify::VerifyError};

/// The bytes of the field that is not proven: the export's time.
fn unproven(bytes: &[u8]) -> std::ops::Range<usize> {
    let made: &[u8] = b"2026-09-21T14:13:20.000000001Z";
    let from = bytes.windows(made.len()).position(|window| window == made).unwrap();
    from..from + made.len()
}

#[test]
fn every_flipped_byte_of_a_text_is_found() {
    let log = Log::new();
    for format in [Format::Ndjson, Format::Csv] {
        let bytes = written(format, &log.export(&WHOLE));
        let unproven = unproven(&bytes);
        for at in (0..bytes.len()).filter(|at| !unproven.contains(at)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let verdict = verified_bytes(&flipped, &log.expected(&[SIZE]));
            match &verdict {
                Err(VerifyError::Tampered(_)) => {}
                Err(VerifyError::Unusable(why)) if why.contains("another version") => {}
                _ => panic!(
                    "{format:?}, byte {at} of {:?}: {verdict:?}",
                    String::from_utf8_lossy(
                        &bytes[at.saturating_sub(20)..(at + 20).min(bytes.len())]
                    )
                ),
            }
        }
    }
}

#[test]
fn every_cut_of_a_text_is_found() {
    let log = Log::new();
    for format in [Format::Ndjson, Format::Csv] {
        let bytes = written(format, &log.export(&WHOLE));
        // A CSV without its last line feed has the same records.
        for length in 1..bytes.len() - 1 {
            let verdict = verified_bytes(&bytes[..length], &log.expected(&[SIZE]));
            assert!(verdict.is_err(), "{format:?} of {length} bytes");
            if length > 200 {
                assert!(
                    matches!(verdict, Err(VerifyError::Tampered(_))),
                    "{format:?} of {length} bytes"
                );
            }
        }
    }
}

/// Parquet has bytes that carry no record data. After any change, the file is
/// either rejected or still holds the records that the log signed.
#[test]
fn a_flipped_byte_of_parquet_is_found_or_harmless() {
    let log = Log::new();
    let bytes = written(Format::Parquet, &log.export(&WHOLE));
    let valid = verified_bytes(&bytes, &log.expected(&[SIZE])).unwrap();
    let mut passed = 0;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        match verified_bytes(&flipped, &log.expected(&[SIZE])) {
            Ok(other) => {
                assert_eq!(other, valid, "byte {at}");
                passed += 1;
            }
            Err(VerifyError::Tampered(_)) => {}
            Err(VerifyError::Unusable(why)) if why.contains("another version") => {}
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(passed < bytes.len() / 2, "{passed} of {}", bytes.len());
    for length in (4..bytes.len()).step_by(7) {
        let verdict = verified_bytes(&bytes[..length], &log.expected(&[]));
        assert!(matches!(verdict, Err(VerifyError::Tampered(_))), "{length} bytes: {verdict:?}");
    }
}
