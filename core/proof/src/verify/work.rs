//! Turns chunks into records and their leaves, on several threads.

use super::{
    Expectations, VerifiedExport, VerifyError,
    check::Checker,
    outcome::{Item, Outcome},
    read::{Chunk, Part, Source},
};
use crate::{
    export::{Flaw, Record, parse_cells, parse_line},
    note::{self, SignedNote, VerifierKey},
};
use std::{
    panic::resume_unwind,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Chunks that wait for a thread, and outcomes that wait for the caller, per
/// thread.
const WAITING: usize = 2;

/// Verifies `source`. Chunks go to the threads in turn and their outcomes are
/// taken in the same turn, so they stay in order.
pub(super) fn run(
    source: Source,
    expected: &Expectations,
    mut checker: Checker<'_>,
    mut progress: impl FnMut(u64, u64),
) -> Result<VerifiedExport, VerifyError> {
    let threads = match expected.threads {
        0 => thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let total = source.bytes;
    thread::scope(|scope| {
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        for _ in 0..threads {
            let (input, chunks) = sync_channel(WAITING);
            let (outcomes, output) = sync_channel(WAITING);
            scope.spawn(|| work(chunks, outcomes, &expected.keys));
            inputs.push(input);
            outputs.push(output);
        }
        let reader = scope.spawn(move || feed(source, &inputs));
        let mut done = 0;
        let mut checked = Ok(());
        for output in outputs.iter().cycle() {
            // Threads end when the reader has ended; the next one first.
            let Ok(outcome) = output.recv() else { break };
            done += outcome.bytes;
            progress(done.min(total), total);
            checked = checker.apply_outcome(outcome);
            if checked.is_err() {
                break;
            }
        }
        // Makes every thread that still sends stop.
        drop(outputs);
        if let Err(panic) = reader.join() {
            resume_unwind(panic);
        }
        checked?;
        progress(total, total);
        checker.finish(total)
    })
}

fn feed(mut source: Source, inputs: &[SyncSender<Part>]) {
    for input in inputs.iter().cycle() {
        let Some(part) = source.next() else { break };
        if input.send(part).is_err() {
            break;
        }
    }
}

fn work(chunks: Receiver<Part>, outcomes: SyncSender<Outcome>, keys: &[VerifierKey]) {
    let mut scratch = Vec::new();
    for Part { chunk, bytes } in chunks {
        let mut worker = Worker { keys, scratch, items: Vec::new(), leaf_bytes: 0 };
        worker.chunk(chunk);
        scratch = worker.scratch;
        let outcome = Outcome { items: worker.items, bytes, leaf_bytes: worker.leaf_bytes };
        if outcomes.send(outcome).is_err() {
            break;
        }
    }
}

struct Worker<'a> {
    keys: &'a [VerifierKey],
    scratch: Vec<u8>,
    items: Vec<Item>,
    leaf_bytes: u64,
}

impl Worker<'_> {
    fn chunk(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Lines(lines) => self.lines(&lines),
            Chunk::Cells(cells) => {
                for line in &cells {
                    self.record(parse_cells(line));
                }
            }
            Chunk::Rows(rows) => rows.into_iter().for_each(|row| self.record(row.into_record())),
            Chunk::Broken(why) => self.items.push(Item::Flawed(why.into())),
        }
    }

    fn lines(&mut self, lines: &[u8]) {
        match std::str::from_utf8(lines) {
            Ok(lines) => {
                // Every line of a chunk ends.
                let lines = lines.strip_suffix('\n').unwrap_or(lines);
                memchr_lines(lines, |line| self.record(parse_line(line)));
            }
            // The records before the bad one must still be checked.
            Err(error) => {
                let good = memchr::memrchr(b'\n', &lines[..error.valid_up_to()]);
                if let Some(end) = good {
                    self.lines(&lines[..=end]);
                }
                self.items.push(Item::Flawed("the line is not UTF-8".into()));
            }
        }
    }

    fn record(&mut self, record: Result<Record<'_>, Flaw>) {
        let item = match record {
            Ok(Record::Event(event)) => {
                let leaf = event.leaf().hash_with(&mut self.scratch);
                self.leaf_bytes += self.scratch.len() as u64;
                Item::Event { position: event.position, leaf, matches: leaf == event.leaf_hash }
            }
            Ok(Record::Header(header)) => Item::Header(header.into_owned()),
            Ok(Record::Omitted(omitted)) => Item::Omitted(omitted),
            Ok(Record::Checkpoint(text)) => {
                let note = text.parse::<SignedNote>();
                Item::Checkpoint(note.and_then(|note| note::verify(&note, self.keys)))
            }
            Ok(Record::End(end)) => Item::End(end),
            Err(flaw) => Item::Flawed(flaw),
        };
        self.items.push(item);
    }
}

fn memchr_lines<'a>(text: &'a str, mut each: impl FnMut(&'a str)) {
    let mut from = 0;
    for end in memchr::memchr_iter(b'\n', text.as_bytes()) {
        each(&text[from..end]);
        from = end + 1;
    }
    each(&text[from..]);
}
