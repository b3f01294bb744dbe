//! A small log, exports of it, and the verifier's results.

use exodrive_proof::{
    Hash,
    export::{End, Event, ExportWriter, Format, Header, Omitted, Record},
    note::{self, Checkpoint, SignedNote, SigningKey},
    tree::{Nodes, Tree},
    verify::{Expectations, Place, Tampered, VerifiedExport, VerifyError, verify},
};
use std::{borrow::Cow, io::Write};
use tempfile::NamedTempFile;

pub(crate) const ORIGIN: &str = "exodrive.example/log";
/// The sizes of the earlier checkpoints in a whole export.
pub(crate) const EARLIER: [u64; 2] = [4, 8];
pub(crate) const SIZE: u64 = 13;

pub(crate) struct Log {
    pub(crate) key: SigningKey,
    pub(crate) events: Vec<Event<'static>>,
}

/// The requested content of an export.
pub(crate) struct Asked<'a> {
    pub(crate) size: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The positions that a filter lets through.
    pub(crate) filter: Option<&'a dyn Fn(u64) -> bool>,
    /// The positions at which an omitted range is cut.
    pub(crate) cuts: &'a [u64],
    pub(crate) earlier: &'a [u64],
}

pub(crate) const WHOLE: Asked<'static> =
    Asked { size: SIZE, from: 1, to: SIZE, filter: None, cuts: &[], earlier: &EARLIER };

pub(crate) fn event(position: u64) -> Event<'static> {
    let owned =
        |(name, value): (&str, &str)| (Cow::Owned(name.to_owned()), Cow::Owned(value.to_owned()));
    let id = format!("msg_{position}");
    let mut headers: Vec<_> = [
        ("Nats-Msg-Id", id.as_str()),
        ("ce-id", id.as_str()),
        ("ce-type", "exodrive.webhook.received"),
        ("svix-signature", "v1,a b"),
        ("svix-signature", "v1,+c/d="),
    ]
    .map(owned)
    .to_vec();
    headers.truncate(if position == 2 { 0 } else { 5 });
    let mut event = Event {
        position,
        stored_at_nanos: 1_790_000_000_123_456_789 + position as i64,
        subject: Cow::Owned(format!("exo.email.{position}")),
        headers,
        body: Cow::Owned(match position {
            3 => Vec::new(),
            4 => vec![0xfb, 0xef, 0xbe],
            _ => format!("{{\"text\":\"=1+1 \\u00fc {position}\"}}").into_bytes(),
        }),
        leaf_hash: [0; 32],
        content: None,
    };
    event.leaf_hash = event.leaf().hash();
    event
}

impl Log {
    pub(crate) fn new() -> Self {
        let key =
            SigningKey::from_text(ORIGIN, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        Self { key, events: (1..=SIZE).map(event).collect() }
    }

    fn tree(&self, from: u64, to: u64) -> Tree {
        let mut tree = Tree::new();
        self.events[from as usize..to as usize].iter().for_each(|it| tree.push_leaf(it.leaf_hash));
        tree
    }

    pub(crate) fn checkpoint(&self, size: u64) -> Checkpoint {
        let root = self.tree(0, size).root();
        Checkpoint { origin: self.key.name().to_owned(), size, root, extensions: Vec::new() }
    }

    pub(crate) fn note(&self, size: u64) -> SignedNote {
        note::sign(&self.checkpoint(size), &[&self.key])
    }

    /// Changes an event and recomputes its leaf, as a forger would.
    pub(crate) fn forge(&mut self, position: u64) {
        let event = &mut self.events[position as usize - 1];
        event.body = Cow::Borrowed(b"forged");
        event.leaf_hash = event.leaf().hash();
    }

    pub(crate) fn expected(&self, saved: &[u64]) -> Expectations {
        Expectations {
            keys: vec![self.key.verifier()],
            saved: saved.iter().map(|size| self.note(*size)).collect(),
            witnesses: Vec::new(),
            threads: 2,
        }
    }

    pub(crate) fn export(&self, asked: &Asked<'_>) -> Vec<Record<'static>> {
        let text = |text: String| Cow::Owned(text);
        let filters = asked.filter.map(|_| (Cow::Borrowed("subject"), Cow::Borrowed("=some")));
        let checkpoint = self.checkpoint(asked.size);
        let mut records = vec![Record::Header(Header {
            origin: Cow::Borrowed(ORIGIN),
            checkpoint: text(self.note(asked.size).to_string()),
            from: asked.from,
            to: asked.to,
            filters: filters.into_iter().collect(),
            created_at: chrono::DateTime::from_timestamp_nanos(1_790_000_000_000_000_001),
        })];
        let mut events = 0;
        let mut omitted_from = None;
        for position in 1..=asked.size + 1 {
            let inside = position <= asked.size
                && (asked.from..=asked.to).contains(&position)
                && asked.filter.is_none_or(|passes| passes(position));
            if !inside && position <= asked.size {
                omitted_from.get_or_insert(position);
                continue;
            }
            if let Some(from) = omitted_from.take() {
                for (from, to) in Omitted::ranges(from, position - 1, asked.cuts) {
                    records.push(Record::Omitted(Omitted::new(from, to, self).unwrap()));
                }
            }
            if inside {
                events += 1;
                records.push(Record::Event(self.events[position as usize - 1].clone()));
                if asked.earlier.contains(&position) {
                    records.push(Record::Checkpoint(text(self.note(position).to_string())));
                }
            }
        }
        records.push(Record::End(End { events, root: checkpoint.root }));
        records
    }
}

impl Nodes for Log {
    type Error = String;

    fn node(&self, level: u8, index: u64) -> Result<Hash, String> {
        let from = index << level;
        Ok(self.tree(from, from + (1 << level)).root())
    }
}

pub(crate) fn written(format: Format, records: &[Record<'_>]) -> Vec<u8> {
    let mut writer = ExportWriter::new(format, Vec::new()).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    writer.finish().unwrap()
}

pub(crate) fn verified_bytes(
    bytes: &[u8],
    expected: &Expectations,
) -> Result<VerifiedExport, VerifyError> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    verify(file.path(), expected, |_, _| ())
}

pub(crate) fn verified(
    format: Format,
    records: &[Record<'_>],
    expected: &Expectations,
) -> Result<VerifiedExport, VerifyError> {
    verified_bytes(&written(format, records), expected)
}

/// The fault found in a changed export, the same in every format.
pub(crate) fn found(what: &str, records: &[Record<'_>], expected: &Expectations) -> Tampered {
    let found = Format::ALL.map(|format| match verified(format, records, expected) {
        Err(VerifyError::Tampered(tampered)) => tampered,
        other => panic!("{what}, {format:?}: {other:?}"),
    });
    assert_eq!(found[0], found[1], "{what}");
    assert_eq!(found[0], found[2], "{what}");
    let [found, ..] = found;
    found
}

pub(crate) fn place(what: &str, records: &[Record<'_>], expected: &Expectations) -> Place {
    found(what, records, expected).place
}
