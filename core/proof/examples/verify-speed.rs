//! Measures the verification of an export, beside one SHA-256 over the same
//! bytes on one thread: `cargo run -p exodrive-proof --example verify-speed
//! [EVENTS] [FORMAT]`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a measurement"
)]

use exodrive_proof::{
    export::{End, Event, ExportWriter, Format, Header, Record},
    note::{self, Checkpoint, SigningKey},
    tree::Tree,
    verify::{Expectations, verify},
};
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    fs::{self, File},
    io::Read,
    time::Instant,
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let events = arguments.get(1).map_or(300_000, |it| it.parse().expect("a number of events"));
    let format = arguments.get(2).map_or(Format::Ndjson, |it| it.parse().expect("a format"));
    let key = SigningKey::generate("exodrive.example/log").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();

    let mut tree = Tree::new();
    (1..=events).for_each(|position| tree.push_leaf(event(position).leaf_hash));
    let (size, root, origin) = (tree.size(), tree.root(), key.name().to_owned());
    let checkpoint = Checkpoint { origin, size, root, extensions: Vec::new() };
    let started = Instant::now();
    let mut out = ExportWriter::new(format, file.reopen().unwrap()).unwrap();
    out.write(&Record::Header(Header {
        origin: Cow::Borrowed(key.name()),
        checkpoint: Cow::Owned(note::sign(&checkpoint, &[&key]).to_string()),
        from: 1,
        to: events,
        filters: Vec::new(),
        created_at: chrono::DateTime::from_timestamp_nanos(0),
    }))
    .unwrap();
    (1..=events).for_each(|position| out.write(&Record::Event(event(position))).unwrap());
    out.write(&Record::End(End { events, root })).unwrap();
    out.finish().unwrap();
    let bytes = fs::metadata(file.path()).unwrap().len();
    println!(
        "{events} events, {} bytes each, made and written in {:.2?}",
        bytes / events,
        started.elapsed()
    );

    let expected = Expectations { keys: vec![key.verifier()], ..Expectations::default() };
    for _ in 0..3 {
        let started = Instant::now();
        let before = processor_time();
        let mut hasher = Sha256::new();
        let mut input = File::open(file.path()).unwrap();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = input.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        std::hint::black_box(hasher.finalize());
        let hashing = started.elapsed();
        let hashed = processor_time();
        let started = Instant::now();
        let valid = verify(file.path(), &expected, |_, _| ()).unwrap();
        let verifying = started.elapsed();
        assert_eq!(valid.events, events);
        let ratio = hashing.as_secs_f64() / verifying.as_secs_f64();
        let (hash_work, verify_work) = (hashed - before, processor_time() - hashed);
        println!(
            "hashing {hashing:.2?} ({hash_work:.2} s of processor), verifying {verifying:.2?} ({verify_work:.2} s), ratio {ratio:.2}"
        );
    }
}

/// Seconds of processor time of all threads so far, in hundredths.
fn processor_time() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let ticks = |field: usize| -> u32 {
        after_name.split_whitespace().nth(field).unwrap().parse().unwrap()
    };
    f64::from(ticks(11) + ticks(12)) / 100.0
}

/// About as large as a webhook in the log: 800 bytes of body and the
/// headers that the log stores.
fn event(position: u64) -> Event<'static> {
    let text = |text: &str| Cow::Owned(text.to_owned());
    let headers = [
        ("Nats-Msg-Id", format!("msg_{position:026}")),
        ("ce-id", format!("msg_{position:026}")),
        ("ce-source", "resend".to_owned()),
        ("ce-time", "2026-11-20T09:15:08.123Z".to_owned()),
        ("ce-type", "exodrive.webhook.received".to_owned()),
        ("exo-key", format!("email.{position:032x}")),
        ("svix-id", format!("msg_{position:026}")),
        ("svix-signature", "v1,jEDGvXbtGqxIEdBlTDLQDcYl7Cg0b0ZPw5GlQHzzZ0s=".to_owned()),
        ("svix-timestamp", "1790000000".to_owned()),
    ];
    let mut event = Event {
        position,
        stored_at_nanos: 1_790_000_000_000_000_000 + position.cast_signed(),
        subject: Cow::Owned(format!("exo.email.{position:032x}")),
        headers: headers.map(|(name, value)| (text(name), Cow::Owned(value))).to_vec(),
        body: Cow::Owned((0..600_u64).map(|at| (at * position * 31) as u8).collect()),
        leaf_hash: [0; 32],
        content: None,
    };
    event.leaf_hash = event.leaf().hash();
    event
}
