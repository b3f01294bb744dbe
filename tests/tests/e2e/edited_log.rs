//! The log edited without the server: its files are changed on disk while the server is stopped,
//! and the checksums are corrected, so that the server notices nothing. Sealing detects it, and so
//! does a verifier.

use crate::seal::{checkpoint_of, deliver, sealed};
use exodrive_runtime::services::Service;
use exodrive_tests::{WORKER, World, eventually};
use highway::{HighwayHash, HighwayHasher, Key};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A message as nats-server's file store writes it: length, sequence, time,
/// subject, headers, body, checksum (`server/filestore.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    sequence: u64,
    time: i64,
    subject: Vec<u8>,
    headers: Option<Vec<u8>>,
    body: Vec<u8>,
}

const HAS_HEADERS: u32 = 1 << 31;

fn checksum(stored: &Stored) -> [u8; 8] {
    let key: [u8; 32] = Sha256::digest("EXODRIVE-1").into();
    let words = key.as_chunks::<8>().0;
    let mut hasher =
        HighwayHasher::new(Key([0, 1, 2, 3].map(|at: usize| u64::from_le_bytes(words[at]))));
    hasher.append(&stored.sequence.to_le_bytes());
    hasher.append(&stored.time.to_le_bytes());
    hasher.append(&stored.subject);
    hasher.append(stored.headers.as_deref().unwrap_or_default());
    hasher.append(&stored.body);
    hasher.finalize64().to_le_bytes()
}

fn read(block: &[u8]) -> Vec<Stored> {
    let (mut all, mut rest) = (Vec::new(), block);
    while !rest.is_empty() {
        let number = |at: usize, bytes: usize| {
            let mut word = [0; 8];
            word[..bytes].copy_from_slice(&rest[at..at + bytes]);
            u64::from_le_bytes(word)
        };
        let length = number(0, 4) as u32;
        let size = (length & !HAS_HEADERS) as usize;
        let subject = 22 + number(20, 2) as usize;
        let (headers, body) = if length & HAS_HEADERS == 0 {
            (None, subject)
        } else {
            let body = subject + 4 + number(subject, 4) as usize;
            (Some(rest[subject + 4..body].to_vec()), body)
        };
        let stored = Stored {
            sequence: number(4, 8),
            time: number(12, 8) as i64,
            subject: rest[22..subject].to_vec(),
            headers,
            body: rest[body..size - 8].to_vec(),
        };
        assert_eq!(rest[size - 8..size], checksum(&stored), "the store's format is another");
        all.push(stored);
        rest = &rest[size..];
    }
    all
}

fn write(messages: &[Stored]) -> Vec<u8> {
    let mut block = Vec::new();
    for stored in messages {
        let headers = stored.headers.as_ref().map_or(0, |headers| 4 + headers.len());
        let size = 22 + stored.subject.len() + headers + stored.body.len() + 8;
        let mark = if stored.headers.is_some() { HAS_HEADERS } else { 0 };
        block.extend((size as u32 | mark).to_le_bytes());
        block.extend(stored.sequence.to_le_bytes());
        block.extend(stored.time.to_le_bytes());
        block.extend((stored.subject.len() as u16).to_le_bytes());
        block.extend(&stored.subject);
        if let Some(headers) = &stored.headers {
            block.extend((headers.len() as u32).to_le_bytes());
            block.extend(headers);
        }
        block.extend(&stored.body);
        block.extend(checksum(stored));
    }
    block
}

/// The one block of the log, and the files in which the server caches its state.
fn block_of(folder: &Path) -> PathBuf {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.ends_with("streams/EXODRIVE/msgs/1.blk") {
                return path;
            }
            // Postgres creates and removes folders while it runs.
            if path.is_dir() && !path.ends_with("postgres") {
                folders.push(path);
            }
        }
    }
    panic!("the log has no block in {}", folder.display());
}

/// Stops the server, edits its block, starts it; then starts a worker, which may halt.
pub(crate) async fn edit(world: &World, edit: impl FnOnce(&mut Vec<u8>)) {
    world.kill(WORKER);
    world.services.stop_service(Service::Nats).await.unwrap();
    let block = block_of(world.folder());
    let mut bytes = fs::read(&block).unwrap();
    edit(&mut bytes);
    fs::write(&block, bytes).unwrap();
    // The server rebuilds it from the block.
    let _ = fs::remove_file(block.with_file_name("index.db"));
    world.services.start_service(Service::Nats).await.unwrap();
    world.services.wait_until_ready(Service::Nats).await.unwrap();
    world.start_worker(WORKER);
}

type Edit = fn(&mut Vec<Stored>);

fn renumber(messages: &mut [Stored]) {
    for (message, sequence) in messages.iter_mut().zip(1..) {
        message.sequence = sequence;
    }
}

/// Every edit, and the first position that it makes wrong. The log has twelve messages.
const EDITS: [(&str, u64, Edit); 9] = [
    ("a byte of a body", 7, |all| all[6].body[10] ^= 1),
    ("a byte of a header", 3, |all| {
        let headers = all[2].headers.as_mut().unwrap();
        let at = headers.iter().position(|byte| *byte == b'Z').unwrap();
        headers[at] = b'z';
    }),
    ("a time", 5, |all| all[4].time += 1),
    ("a subject", 4, |all| {
        let last = all[3].subject.len() - 1;
        all[3].subject[last] ^= 1;
    }),
    ("a message dropped", 6, |all| {
        all.remove(5);
        renumber(all);
    }),
    ("two messages swapped", 8, |all| {
        all.swap(7, 8);
        renumber(all);
    }),
    ("a message inserted", 2, |all| {
        let forged = all[4].clone();
        all.insert(1, forged);
        // The projections would fold one more event.
        all.pop();
        renumber(all);
    }),
    ("the end cut off", 10, |all| all.truncate(9)),
    ("the first message", 1, |all| all[0].body.push(b' ')),
];

/// A sealed log, and what an auditor kept of it.
struct Kept {
    world: World,
    original: Vec<u8>,
    checkpoint: PathBuf,
    keys: PathBuf,
}

async fn kept() -> Kept {
    let world = World::start().await;
    deliver(&world, 12).await;
    sealed(&world, 12).await;
    let checkpoint = world.folder().join("kept.txt");
    let keys = world.folder().join("log.pub");
    checkpoint_of(&world, &checkpoint).await;
    world.exodrive_prints(&["audit", "public-key", "--out", keys.to_str().unwrap()]).await;

    world.services.stop_service(Service::Nats).await.unwrap();
    let original = fs::read(block_of(world.folder())).unwrap();
    assert_eq!(write(&read(&original)), original, "the format of the store is understood");
    world.services.start_service(Service::Nats).await.unwrap();
    world.services.wait_until_ready(Service::Nats).await.unwrap();
    Kept { world, original, checkpoint, keys }
}

async fn are_found(edits: &[(&str, u64, Edit)]) {
    let Kept { world, original, checkpoint, keys } = kept().await;
    for (what, first_bad, change) in edits {
        edit(&world, |bytes| {
            let mut messages = read(&original);
            change(&mut messages);
            *bytes = write(&messages);
        })
        .await;
        found(&world, what, Some(*first_bad)).await;
        if *what != "the end cut off" {
            export_is_refused(&world, what, &checkpoint, &keys, *first_bad).await;
        }
        restore(&world, &original).await;
    }
}

#[tokio::test]
async fn a_changed_message_is_found() {
    are_found(&EDITS[..4]).await;
}

#[tokio::test]
async fn a_message_dropped_moved_or_added_is_found() {
    are_found(&EDITS[4..7]).await;
}

#[tokio::test]
async fn a_cut_end_and_a_changed_beginning_are_found() {
    are_found(&EDITS[7..]).await;
}

#[tokio::test]
async fn damage_that_the_server_notices_is_found() {
    let Kept { world, original, .. } = kept().await;
    // Damage that the server itself detects leaves a hole.
    edit(&world, |bytes| {
        let place = bytes.len() / 2;
        bytes[place] ^= 0xff;
    })
    .await;
    found(&world, "damage without a right checksum", None).await;
    restore(&world, &original).await;
}

/// Sealing has halted and reports it everywhere; nothing is signed; the verifier names the
/// position.
async fn found(world: &World, what: &str, first_bad: Option<u64>) {
    let ready = eventually(&format!("sealing halts: {what}"), async || {
        let ready = world.get("/readyz").await;
        let ready = serde_json::from_slice::<Value>(&ready.body).ok()?;
        (ready["checks"]["seals"]["ok"] == false).then_some(ready)
    })
    .await;
    assert!(ready["checks"]["seals"]["problem"].as_str().unwrap().contains("halted"), "{what}");
    assert!(world.printed(WORKER).contains("Sealing has halted"), "{what}");
    let before = world.get("/v1/audit/checkpoint").await.body;
    let done = world.exodrive(&["audit", "verify", "--live", "--json"]).await;
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{what}: {said}");
    let verdict: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(verdict["verdict"], "tampered", "{what}");
    if let Some(first_bad) = first_bad {
        assert_eq!(verdict["first_bad_position"], first_bad, "{what}: {said}");
    }
    // An operator cannot clear the halt while the fault exists.
    let again = world.exodrive(&["audit", "unhalt", "--reason", "wishful thinking"]).await;
    assert_eq!(again.status.code(), Some(1), "{what}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("still exists"), "{what}");
    assert_eq!(world.get("/v1/audit/checkpoint").await.body, before, "nothing is signed: {what}");
}

/// An export made of the edited log contradicts the checkpoint that an auditor saved.
async fn export_is_refused(world: &World, what: &str, saved: &Path, keys: &Path, first_bad: u64) {
    let [saved, keys] = [saved, keys].map(|path| path.to_str().unwrap());
    for format in ["ndjson", "csv", "parquet"] {
        let file = world.folder().join(format!("edited.{format}"));
        let file = file.to_str().unwrap();
        let exported = world.exodrive(&["audit", "export", "--out", file]).await;
        if !exported.status.success() {
            // A missing event cannot be exported.
            let said = String::from_utf8_lossy(&exported.stderr);
            assert!(said.contains("missing") || said.contains("does not answer"), "{what}: {said}");
            continue;
        }
        let args =
            ["audit", "verify", "--export", file, "--checkpoint", saved, "--public-key", keys];
        let done = world.exodrive(&[&args[..], &["--json"]].concat()).await;
        let said = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(1), "{what} in {format}: {said}");
        let verdict: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(verdict["first_bad_position"], first_bad, "{what} in {format}: {said}");
    }
}

/// Restores the files; sealing continues after an operator has cleared the halt.
async fn restore(world: &World, original: &[u8]) {
    edit(world, |bytes| *bytes = original.to_vec()).await;
    let done = world.exodrive(&["audit", "unhalt", "--reason", "the files were put back"]).await;
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "{said}");
    let done = world.exodrive(&["audit", "verify", "--live"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stdout));
}
