//! Changes of an export's records, and the places at which verification finds
//! them.

use crate::sample::{Asked, Log, SIZE, WHOLE, event, found, place, verified};
use exodrive_proof::{
    export::{End, Event, Format, Omitted, Record},
    note::SigningKey,
    verify::{Expectations, Place, VerifyError},
};
use proptest::prelude::*;
use std::borrow::Cow;

type Records = Vec<Record<'static>>;

/// The index of a position's event among the records.
fn at(records: &Records, position: u64) -> usize {
    let is = |it: &Record<'_>| matches!(it, Record::Event(event) if event.position == position);
    records.iter().position(is).unwrap()
}

fn event_mut(records: &mut Records, position: u64) -> &mut Event<'static> {
    let index = at(records, position);
    let Record::Event(event) = &mut records[index] else { panic!("no event") };
    event
}

/// A way to change one event; returns true if it applies to the event.
type Change = (&'static str, fn(&mut Event<'static>) -> bool);

const CHANGES: [Change; 13] = [
    ("position up", |event| {
        event.position += 1;
        true
    }),
    ("position down", |event| {
        event.position -= 1;
        true
    }),
    ("position far", |event| {
        event.position += 1000;
        true
    }),
    ("time", |event| {
        event.stored_at_nanos ^= 1;
        true
    }),
    ("subject", |event| {
        event.subject.to_mut().push('x');
        true
    }),
    ("subject empty", |event| {
        event.subject = Cow::Borrowed("");
        true
    }),
    ("header name", |event| {
        event.headers.first_mut().is_some_and(|(name, _)| {
            name.to_mut().push('x');
            true
        })
    }),
    ("header value", |event| {
        event.headers.last_mut().is_some_and(|(_, value)| {
            value.to_mut().push('x');
            true
        })
    }),
    ("header dropped", |event| event.headers.pop().is_some()),
    ("header added", |event| {
        event.headers.push((Cow::Borrowed("x"), Cow::Borrowed("")));
        true
    }),
    ("headers swapped", |event| {
        event.headers.len() > 4 && {
            event.headers.swap(3, 4);
            true
        }
    }),
    ("body", |event| {
        event.body.to_mut().push(0);
        true
    }),
    ("leaf hash", |event| {
        event.leaf_hash[31] ^= 1;
        true
    }),
];

#[test]
fn every_changed_field_is_found_at_its_position() {
    let log = Log::new();
    let expected = log.expected(&[6]);
    for position in 1..=SIZE {
        for (what, change) in CHANGES {
            let mut records = log.export(&WHOLE);
            if change(event_mut(&mut records, position)) {
                let place = place(what, &records, &expected);
                assert_eq!(place, Place::Position(position), "{what} at {position}");
            }
        }
    }
}

#[test]
fn what_is_dropped_swapped_inserted_or_doubled_is_found() {
    let log = Log::new();
    let expected = log.expected(&[]);
    for position in 1..=SIZE {
        let mut dropped = log.export(&WHOLE);
        dropped.remove(at(&dropped, position));
        assert_eq!(place("dropped", &dropped, &expected), Place::Position(position));

        let mut doubled = log.export(&WHOLE);
        let index = at(&doubled, position);
        doubled.insert(index, doubled[index].clone());
        let place_of_double = place("doubled", &doubled, &expected);
        assert_eq!(place_of_double, Place::Position(position));

        let mut inserted = log.export(&WHOLE);
        let mut new = event(position);
        new.body = Cow::Borrowed(b"new");
        new.leaf_hash = new.leaf().hash();
        inserted.insert(at(&inserted, position) + 1, Record::Event(new));
        assert_eq!(place("inserted", &inserted, &expected), Place::Position(position));

        if position < SIZE {
            let mut swapped = log.export(&WHOLE);
            let (one, other) = (at(&swapped, position), at(&swapped, position + 1));
            swapped.swap(one, other);
            assert_eq!(place("swapped", &swapped, &expected), Place::Position(position));

            // Swapped with positions put right: the leaves are not.
            let Record::Event(first) = &mut swapped[one] else { panic!("no event") };
            first.position = position;
            let Record::Event(second) = &mut swapped[other] else { panic!("no event") };
            second.position = position + 1;
            assert_eq!(place("renumbered", &swapped, &expected), Place::Position(position));
        }
    }
}

#[test]
fn truncation_is_found() {
    let log = Log::new();
    let whole = log.export(&WHOLE);
    for length in 1..whole.len() {
        let cut = &whole[..length];
        let last = cut.iter().rev().find_map(|record| match record {
            Record::Event(event) => Some(event.position),
            _ => None,
        });
        let next = last.unwrap_or(0) + 1;
        let expected = if next <= SIZE { Place::Position(next) } else { Place::Whole };
        assert_eq!(place("cut off", cut, &log.expected(&[])), expected, "{length} records");
        // With an end that has the changed numbers.
        let Some(Record::End(mut end)) = whole.last().cloned() else { panic!("no end") };
        if length < whole.len() - 1 {
            end.events = last.unwrap_or(0);
            let ended = [cut, &[Record::End(end)]].concat();
            assert_eq!(place("cut and ended", &ended, &log.expected(&[])), Place::Position(next));
        }
    }
    let mut more = whole.clone();
    more.push(Record::Event(event(SIZE + 1)));
    assert_eq!(place("after the end", &more, &log.expected(&[])), Place::Whole);
    let mut behind = whole;
    behind.insert(behind.len() - 1, Record::Event(event(SIZE + 1)));
    assert_eq!(place("behind", &behind, &log.expected(&[])), Place::Position(SIZE + 1));
}

/// Recomputed leaves, but no key: the signed checkpoints expose the forgery,
/// the nearest first. If a saved one does, those of the export are not trusted.
#[test]
fn a_history_written_again_is_found_between_two_checkpoints() {
    let log = Log::new();
    for (position, saved, after, up_to) in [
        (3, &[][..], 0, 4),
        (6, &[], 4, 8),
        (11, &[], 8, 13),
        (6, &[5, 6], 5, 6),
        (9, &[10], 0, 10),
    ] {
        let mut forged = Log::new();
        forged.forge(position);
        let mut records = log.export(&WHOLE);
        *event_mut(&mut records, position) = forged.events[position as usize - 1].clone();
        let expected = match up_to - after {
            1 => Place::Position(up_to),
            _ => Place::Between { after, up_to },
        };
        assert_eq!(
            place("recomputed", &records, &log.expected(saved)),
            expected,
            "{position} {saved:?}"
        );
    }
}

/// The operator with the right key: only the auditor's saved checkpoints expose
/// the forgery.
#[test]
fn a_fork_by_the_right_key_is_found_by_a_saved_checkpoint() {
    let log = Log::new();
    for (position, saved, after, up_to) in
        [(3, &[6, 13][..], 0, 6), (9, &[6, 13], 6, 13), (13, &[12, 13], 12, 13), (1, &[1], 0, 1)]
    {
        let mut forged = Log::new();
        forged.forge(position);
        let records = forged.export(&WHOLE);
        for format in Format::ALL {
            assert!(verified(format, &records, &log.expected(&[])).is_ok());
        }
        let expected = match up_to - after {
            1 => Place::Position(up_to),
            _ => Place::Between { after, up_to },
        };
        assert_eq!(
            place("forked", &records, &log.expected(saved)),
            expected,
            "{position} {saved:?}"
        );
    }
    // Two signed trees of one size, under the true events.
    let mut forged = Log::new();
    forged.forge(2);
    let mut records = log.export(&WHOLE);
    let Record::Header(header) = &mut records[0] else { panic!("no header") };
    header.checkpoint = Cow::Owned(forged.note(SIZE).to_string());
    let split = found("split view", &records, &log.expected(&[SIZE]));
    assert!(split.reason.contains("two different trees"), "{split}");
}

#[test]
fn a_wrong_key_is_found() {
    let log = Log::new();
    let mut forger = Log::new();
    forger.key = SigningKey::generate(crate::sample::ORIGIN).unwrap();
    forger.forge(5);
    let by_another = found("forger's key", &forger.export(&WHOLE), &log.expected(&[6]));
    assert_eq!(by_another.place, Place::Whole);
    assert!(by_another.reason.contains("not signed by any of the keys given"), "{by_another}");
    // The true export, but the auditor holds another key.
    let expected = Expectations { saved: Vec::new(), ..forger.expected(&[]) };
    assert_eq!(place("auditor's key", &log.export(&WHOLE), &expected), Place::Whole);
    let saved = Expectations { saved: vec![forger.note(6)], ..log.expected(&[]) };
    assert_eq!(place("saved by another key", &log.export(&WHOLE), &saved), Place::Whole);
    // An earlier checkpoint by the forger.
    let mut records = log.export(&WHOLE);
    let index = at(&records, 4) + 1;
    records[index] = Record::Checkpoint(Cow::Owned(forger.note(4).to_string()));
    assert_eq!(place("earlier by another", &records, &log.expected(&[])), Place::Position(5));
}

#[test]
fn another_log_is_found() {
    let log = Log::new();
    let mut other = Log::new();
    other.key = SigningKey::generate("other.example").unwrap();
    let both = |saved| Expectations {
        keys: vec![log.key.verifier(), other.key.verifier()],
        saved,
        ..Expectations::default()
    };
    let mut records = log.export(&WHOLE);
    let Record::Header(header) = &mut records[0] else { panic!("no header") };
    header.checkpoint = Cow::Owned(other.note(SIZE).to_string());
    assert_eq!(place("checkpoint of another", &records, &both(Vec::new())), Place::Whole);
    let Record::Header(header) = &mut records[0] else { panic!("no header") };
    header.origin = Cow::Borrowed("other.example");
    let moved = found("saved of another", &records, &both(vec![log.note(6)]));
    assert!(moved.reason.contains("you saved a checkpoint of"), "{moved}");
    assert_eq!(place("earlier of another", &records, &both(Vec::new())), Place::Position(5));
}

#[test]
fn a_log_that_was_cut_is_found_by_a_newer_checkpoint() {
    let log = Log::new();
    let records = log.export(&Asked { size: 9, to: 9, ..WHOLE });
    assert!(verified(Format::Ndjson, &records, &log.expected(&[9])).is_ok());
    let cut = found("older", &records, &log.expected(&[6, 12]));
    assert!(cut.reason.contains("ends at 9") && cut.reason.contains("says 12"), "{cut}");
}

#[test]
fn omitted_ranges_are_checked() {
    let log = Log::new();
    let odd = |position: u64| position % 2 == 1;
    let asked = Asked { filter: Some(&odd), earlier: &[3], ..WHOLE };
    let change = |change: &dyn Fn(&mut Omitted)| {
        let mut records = log.export(&asked);
        let omitted = records.iter_mut().find_map(|record| match record {
            Record::Omitted(omitted) if omitted.from == 6 => Some(omitted),
            _ => None,
        });
        change(omitted.unwrap());
        place("omitted", &records, &log.expected(&[]))
    };
    assert_eq!(change(&|it| it.nodes[0][0] ^= 1), Place::Between { after: 3, up_to: SIZE });
    assert_eq!(change(&|it| it.nodes.push([0; 32])), Place::Position(6));
    assert_eq!(change(&|it| it.to = 7), Place::Position(6));
    assert_eq!(change(&|it| it.from = 5), Place::Position(6));
    assert_eq!(change(&|it| (it.from, it.to) = (7, 6)), Place::Position(6));
    assert_eq!(change(&|it| it.to = u64::MAX >> 1), Place::Position(6));

    // An event in an export of everything hidden behind a true hash.
    let mut hidden = log.export(&WHOLE);
    let index = at(&hidden, 7);
    hidden[index] = Record::Omitted(Omitted::new(7, 7, &log).unwrap());
    assert_eq!(place("hidden", &hidden, &log.expected(&[])), Place::Position(7));
    // The range in the header made smaller to hide it.
    let mut narrowed = log.export(&WHOLE);
    let Record::Header(header) = &mut narrowed[0] else { panic!("no header") };
    header.to = SIZE - 1;
    assert_eq!(place("narrowed", &narrowed, &log.expected(&[])), Place::Position(SIZE));
}

#[test]
fn the_frame_is_checked() {
    let log = Log::new();
    let expected = log.expected(&[]);
    let whole = log.export(&WHOLE);
    let end = whole.len() - 1;
    assert_eq!(place("no header", &whole[1..], &expected), Place::Whole);
    let mut twice = whole.clone();
    twice.insert(1, whole[0].clone());
    assert_eq!(place("two headers", &twice, &expected), Place::Position(1));
    for change in [|end: &mut End| end.events -= 1, |end: &mut End| end.root[0] ^= 1] {
        let mut records = whole.clone();
        let Record::End(record) = &mut records[end] else { panic!("no end") };
        change(record);
        assert_eq!(place("end", &records, &expected), Place::Whole);
    }
    let mut moved = whole.clone();
    let index = at(&moved, 4) + 1;
    let checkpoint = moved.remove(index);
    moved.insert(index + 1, checkpoint);
    assert_eq!(place("moved checkpoint", &moved, &expected), Place::Position(6));
    for (from, to) in [(0, SIZE), (1, SIZE + 1), (9, 7)] {
        let mut records = whole.clone();
        let Record::Header(header) = &mut records[0] else { panic!("no header") };
        (header.from, header.to) = (from, to);
        assert_eq!(place("range", &records, &expected), Place::Whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any order of the records but the right one.
    #[test]
    fn no_other_order_passes(order in Just((0..16_usize).collect::<Vec<_>>()).prop_shuffle(), retained in 0..16_usize) {
        let log = Log::new();
        let whole = log.export(&WHOLE);
        let records: Records =
            order.iter().filter(|index| **index <= retained || retained > 12).filter_map(|index| whole.get(*index).cloned()).collect();
        prop_assume!(records != whole);
        for format in Format::ALL {
            let refused = verified(format, &records, &log.expected(&[]));
            let is_refused = match &refused {
                Err(VerifyError::Unusable(_)) => records.is_empty(),
                other => other.is_err(),
            };
            prop_assert!(is_refused, "{:?}: {:?}", format, refused);
        }
    }
}
