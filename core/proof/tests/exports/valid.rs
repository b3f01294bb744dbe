//! Valid exports pass, and an export that cannot be judged is distinguished
//! from a bad one.

use crate::sample::{
    Asked, EARLIER, Log, SIZE, WHOLE, event, found, verified, verified_bytes, written,
};
use exodrive_proof::{
    export::{Event, Format, Record},
    note::{self, WitnessKey},
    verify::{Expectations, VerifyError},
};
use proptest::prelude::*;
use std::{borrow::Cow, path::Path};

#[test]
fn a_whole_export_is_valid() {
    let log = Log::new();
    let records = log.export(&WHOLE);
    for format in Format::ALL {
        let expected = log.expected(&[0, 4, 5, 6, 12, SIZE, SIZE]);
        let valid = verified(format, &records, &expected).unwrap();
        assert_eq!((valid.events, valid.omitted, valid.size), (SIZE, 0, SIZE), "{format:?}");
        assert_eq!(valid.root, log.checkpoint(SIZE).root);
        assert_eq!((valid.saved_checkpoints, valid.earlier_checkpoints), (7, EARLIER.len()));
        assert_eq!(valid.bytes, written(format, &records).len() as u64);
        assert!(valid.leaf_bytes > 1000);
    }
}

#[test]
fn ranges_and_filters_are_valid() {
    let log = Log::new();
    let odd = |position: u64| position % 2 == 1;
    let none = |_: u64| false;
    for (size, from, to, filter, events) in [
        (SIZE, 3, 9, None, 7),
        (12, 1, 12, Some(&odd as &dyn Fn(u64) -> bool), 6),
        (SIZE, 4, 10, Some(&odd), 3),
        (SIZE, 1, SIZE, Some(&none), 0),
        (SIZE, SIZE, SIZE, None, 1),
        (SIZE, SIZE + 1, SIZE, None, 0),
        (0, 1, 0, None, 0),
    ] {
        let asked = Asked { size, from, to, filter, cuts: &[], earlier: &[4, 5, 7, 9] };
        for format in Format::ALL {
            let valid = verified(format, &log.export(&asked), &log.expected(&[0, size])).unwrap();
            assert_eq!((valid.events, valid.omitted), (events, size - events));
        }
    }
}

#[test]
fn memory_and_threads_do_not_matter() {
    let log = Log::new();
    let bytes = written(Format::Ndjson, &log.export(&WHOLE));
    for threads in [0, 1, 2, 7] {
        let expected = Expectations { threads, ..log.expected(&[6]) };
        assert!(verified_bytes(&bytes, &expected).is_ok(), "{threads} threads");
    }
}

/// Many chunks and row groups, in which something at the very end is found.
#[test]
fn large_exports_are_read_in_parts() {
    let mut log = Log::new();
    log.events = (1..=25_000).map(event).collect();
    let asked = Asked { size: 25_000, to: 25_000, earlier: &[], ..WHOLE };
    let mut records = log.export(&asked);
    for format in Format::ALL {
        let valid = verified(format, &records, &log.expected(&[10_000])).unwrap();
        assert_eq!(valid.events, 25_000);
    }
    let Record::Event(event) = &mut records[24_999] else { panic!("no event") };
    event.subject = Cow::Borrowed("exo.email.0");
    let bad = found("late", &records, &log.expected(&[]));
    assert_eq!(bad.first_bad_position(), Some(24_999));
}

#[test]
fn content_for_people_changes_nothing() {
    let log = Log::new();
    let mut records = log.export(&WHOLE);
    let contents: [&[u8]; 4] = [b"{\"a\":\n[1, 2]}", b"=1", &[255, 0], b""];
    for (record, content) in records[1..].iter_mut().zip(contents) {
        let Record::Event(event) = record else { panic!("no event") };
        event.content = Some(Cow::Borrowed(content));
    }
    for format in Format::ALL {
        assert!(verified(format, &records, &log.expected(&[SIZE])).is_ok(), "{format:?}");
    }
    // A second body that other programs would read instead of the first.
    let lines = String::from_utf8(written(Format::Ndjson, &records)).unwrap();
    let hidden =
        lines.replacen("\"content\":{", "\"content\":1,\"body\":\"e30=\",\"content\":{", 1);
    assert!(matches!(
        verified_bytes(hidden.as_bytes(), &log.expected(&[])),
        Err(VerifyError::Tampered(bad)) if bad.first_bad_position() == Some(1)
    ));
}

#[test]
fn json_written_by_other_programs_is_read() {
    let log = Log::new();
    let lines = String::from_utf8(written(Format::Ndjson, &log.export(&WHOLE))).unwrap();
    let spaced = lines.replace("\",\"", "\", \"").replace("exo.email", "exo.\\u0065mail");
    assert_ne!(lines, spaced);
    assert!(verified_bytes(spaced.as_bytes(), &log.expected(&[SIZE])).is_ok());
}

#[test]
fn spreadsheets_find_no_formula() {
    let log = Log::new();
    let mut records = log.export(&Asked { filter: Some(&|_| true), ..WHOLE });
    for (record, subject) in records[1..].iter_mut().zip(["=cmd", "+1", "-1", "@x", "\tx", "\rx"]) {
        let Record::Event(event) = record else { continue };
        event.subject = Cow::Borrowed(subject);
    }
    let bytes = written(Format::Csv, &records);
    for record in csv::Reader::from_reader(bytes.as_slice()).records() {
        for cell in &record.unwrap() {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']), "{cell:?}");
        }
    }
}

fn unusable(file: &Path, expected: &Expectations) -> String {
    match exodrive_proof::verify::verify(file, expected, |_, _| ()) {
        Err(VerifyError::Unusable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_export_is_unusable() {
    let log = Log::new();
    let expected = log.expected(&[]);
    assert!(unusable(Path::new("/nowhere/export"), &expected).contains("cannot be read"));
    assert!(unusable(Path::new("/"), &expected).contains("cannot be read"));
    for other in ["", "{}", "hello\n", "a,b\n1,2\n", "\u{1f}\u{8b}\n"] {
        let refused = verified_bytes(other.as_bytes(), &expected);
        assert!(matches!(refused, Err(VerifyError::Unusable(_))), "{other:?}: {refused:?}");
    }
    let lines = String::from_utf8(written(Format::Ndjson, &log.export(&WHOLE))).unwrap();
    let newer = lines.replace("exodrive-export-v1", "exodrive-export-v2");
    let refused = verified_bytes(newer.as_bytes(), &expected);
    assert!(matches!(refused, Err(VerifyError::Unusable(why)) if why.contains("version")));
    let no_keys = verified_bytes(lines.as_bytes(), &Expectations::default());
    assert!(matches!(no_keys, Err(VerifyError::Unusable(why)) if why.contains("public key")));
}

#[test]
fn a_saved_checkpoint_inside_an_omitted_range_needs_a_cut() {
    let log = Log::new();
    let range = Asked { from: 10, ..WHOLE };
    for format in Format::ALL {
        // 8 and 9 are where nodes end.
        assert!(verified(format, &log.export(&range), &log.expected(&[8, 9, 10])).is_ok());
        let inside = verified(format, &log.export(&range), &log.expected(&[6]));
        assert!(matches!(inside, Err(VerifyError::Unusable(why)) if why.contains("size 6")));
        let cut = Asked { from: 10, cuts: &[6], ..WHOLE };
        assert!(verified(format, &log.export(&cut), &log.expected(&[6])).is_ok());
    }
}

#[test]
fn witnesses_are_asked_for() {
    let log = Log::new();
    let witness = WitnessKey::generate("witness.example").unwrap();
    let bytes = written(Format::Ndjson, &log.export(&WHOLE));
    let mut expected =
        Expectations { witnesses: vec![witness.verifier()], ..log.expected(&[6, 9]) };
    let absent = verified_bytes(&bytes, &expected);
    assert!(matches!(absent, Err(VerifyError::Unusable(why)) if why.contains("witness.example")));
    for saved in &mut expected.saved {
        *saved = note::cosign(saved, &witness, 1_790_000_000);
    }
    let valid = verified_bytes(&bytes, &expected).unwrap();
    assert_eq!(valid.cosigned_by, [("witness.example".to_owned(), 9)]);
    let forged =
        expected.saved[0].to_string().replace("\u{2014} witness.example ", "\u{2014} other ");
    expected.saved[0] = forged.parse().unwrap();
    assert!(verified_bytes(&bytes, &expected).is_ok());
    // The cosignature of another checkpoint.
    let other = expected.saved[1].to_string();
    let line = other.lines().last().unwrap();
    expected.saved[0] = format!("{}{line}\n", log.note(6)).parse().unwrap();
    assert!(matches!(verified_bytes(&bytes, &expected), Err(VerifyError::Tampered(_))));
}

fn any_event() -> impl Strategy<Value = Event<'static>> {
    let text = || proptest::string::string_regex("(?s).{0,12}").unwrap();
    let headers = prop::collection::vec((text(), text()), 0..4);
    (any::<i64>(), text(), headers, any::<Vec<u8>>(), any::<Option<Vec<u8>>>()).prop_map(
        |(stored_at_nanos, subject, headers, body, content)| Event {
            position: 0,
            stored_at_nanos,
            subject: Cow::Owned(subject),
            headers: headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            body: Cow::Owned(body),
            leaf_hash: [0; 32],
            content: content.map(Cow::Owned),
        },
    )
}

proptest! {
    #[test]
    fn whatever_the_log_holds_is_valid_in_every_format(events in prop::collection::vec(any_event(), 1..8)) {
        let mut log = Log::new();
        log.events = events;
        for (index, event) in log.events.iter_mut().enumerate() {
            event.position = index as u64 + 1;
            event.leaf_hash = event.leaf().hash();
        }
        let size = log.events.len() as u64;
        let records = log.export(&Asked { size, to: size, earlier: &[1, 2, 3], ..WHOLE });
        for format in Format::ALL {
            let valid = verified(format, &records, &log.expected(&[size, size / 2]));
            prop_assert!(valid.is_ok(), "{:?}: {:?}", format, valid);
        }
    }
}
