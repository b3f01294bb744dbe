//! Sealing: checks of the log that a stranger can make.

use crate::in_process::InProcess;
use exodrive_audit::seal::leaf_hash;
use exodrive_proof::{
    Hash,
    note::{self, Checkpoint, SignedNote, VerifierKey},
    tile::{Tile, WIDTH},
    tree::{Tree, verify_consistency, verify_inclusion},
};
use exodrive_tests::{Delivery, System, WORKER, World, email_body, eventually, key};
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Posts `count` deliveries about as many emails.
pub(crate) async fn deliver(world: &System, count: usize) {
    let first = world.log().await.last_position().await.unwrap();
    for number in 0..count as u64 {
        let id = format!("msg_seal{}", first + number);
        let email = format!("00000000-0000-4000-8000-{:012}", first + number);
        let body = email_body("sent", &email, "2026-11-20T09:15:05.118Z", "");
        world.stored(&Delivery::new(id, body)).await;
    }
}

/// Waits until `size` events are sealed. Returns the checkpoint, verified.
pub(crate) async fn sealed(world: &System, size: u64) -> (SignedNote, Checkpoint) {
    eventually("events are sealed", async || {
        let answer = world.get("/v1/audit/checkpoint").await;
        if answer.status != 200 {
            return None;
        }
        let found = verified(world, &answer.body).await;
        (found.1.size >= size).then_some(found)
    })
    .await
}

async fn verified(world: &System, note: &[u8]) -> (SignedNote, Checkpoint) {
    let note: SignedNote = std::str::from_utf8(note).unwrap().parse().unwrap();
    let keys = String::from_utf8(world.get("/v1/audit/keys").await.body.to_vec()).unwrap();
    let keys: Vec<_> = keys.lines().map(|key| VerifierKey::parse(key).unwrap()).collect();
    let checkpoint = note::verify(&note, &keys).unwrap();
    (note, checkpoint)
}

/// Saves the newest checkpoint in a file.
pub(crate) async fn checkpoint_of(world: &System, file: &Path) {
    world.exodrive_prints(&["audit", "checkpoint", "--out", file.to_str().unwrap()]).await;
}

fn hashes(value: &Value) -> Vec<Hash> {
    let hash = |it: &Value| hex::decode(it.as_str().unwrap()).unwrap().try_into().unwrap();
    value.as_array().unwrap().iter().map(hash).collect()
}

async fn json_of(world: &System, path: &str) -> Value {
    // The route is public: the request has no token.
    let answer = exodrive_tests::Answer::of(world.request(Method::GET, path)).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

/// Root of the present log, computed here from the stored messages.
async fn root_of_log(world: &System, size: u64) -> Hash {
    let log = world.log().await;
    let mut tree = Tree::new();
    for position in 1..=size {
        tree.push_leaf(leaf_hash(&log.read_stored(position).await.unwrap().unwrap()));
    }
    tree.root()
}

#[tokio::test]
async fn what_is_stored_is_sealed_and_can_be_proven() {
    let world = InProcess::start().await;
    let nothing = world.get("/v1/audit/checkpoint").await;
    assert_eq!(nothing.status, 404);
    deliver(&world, 5).await;
    let (first_note, first) = sealed(&world, 5).await;
    assert_eq!(first.root, root_of_log(&world, first.size).await);

    // The answer to a command has its receipt.
    let car = exodrive_tests::car_body("seal-car");
    let request = world.request(Method::POST, "/v1/cars").bearer_auth(world.token("admin"));
    let request = request.header("idempotency-key", key()).json(&car);
    let answer = exodrive_tests::Answer::of(request).await.unwrap();
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let position: u64 = answer.headers["exodrive-position"].to_str().unwrap().parse().unwrap();
    let leaf = answer.headers["exodrive-leaf-hash"].to_str().unwrap().to_owned();
    let (_, second) = sealed(&world, position).await;
    let receipt = json_of(&world, &format!("/v1/audit/receipts/{position}")).await;
    assert_eq!(receipt["leaf_hash"], leaf);
    assert!(receipt["sealed_in"].as_u64().unwrap() >= position);

    for position in 1..=second.size {
        let path = format!("/v1/audit/inclusion?position={position}&size={}", second.size);
        let proof = json_of(&world, &path).await;
        let leaf = hashes(&json!([proof["leaf_hash"]]))[0];
        let proof = hashes(&proof["proof"]);
        assert!(verify_inclusion(&leaf, position - 1, second.size, &proof, &second.root));
    }
    let path = format!("/v1/audit/consistency?from={}&to={}", first.size, second.size);
    let proof = hashes(&json_of(&world, &path).await["proof"]);
    assert!(verify_consistency(first.size, second.size, &first.root, &second.root, &proof));

    // A checkpoint that was shown once is always available; a tile likewise.
    let old = world.get(&format!("/v1/audit/checkpoint?size={}", first.size)).await;
    assert_eq!(old.body, first_note.to_string());
    let tile = Tile::of(0, 0, second.size).unwrap();
    let tile = world.get(&format!("/v1/audit/{tile}")).await;
    assert_eq!((tile.status, tile.body.len() as u64), (200, second.size * 32));
    for wrong in ["tile/0/000", "tile/0/001.p/3", "tile/0/0", "tile/1/000.p/1", "tile/x/000"] {
        assert_eq!(world.get(&format!("/v1/audit/{wrong}")).await.status, 404, "{wrong}");
    }
    for (path, name) in [
        ("/v1/audit/inclusion?position=0", "position"),
        ("/v1/audit/inclusion", "position"),
        ("/v1/audit/inclusion?position=1&size=999999", "size"),
        ("/v1/audit/consistency?from=2&to=1", "from"),
        ("/v1/audit/consistency?from=x", "from"),
        ("/v1/audit/checkpoint?size=x", "size"),
        ("/v1/audit/events?subject=inbox", "subject"),
        ("/v1/audit/events?since=yesterday", "since"),
        ("/v1/audit/export?format=xml", "format"),
        ("/v1/audit/export?limit=3", "limit"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.json()["errors"][0]["pointer"], format!("?{name}"), "{path}");
    }

    // Events are for auditors.
    for role in ["customer", "operator"] {
        assert_eq!(world.get_as(role, "/v1/audit/events").await.status, 403, "{role}");
        assert_eq!(world.get_as(role, "/v1/audit/export").await.status, 403, "{role}");
    }
    let page = world.get("/v1/audit/events?subject=exo.email.*&limit=2").await.json();
    assert_eq!(page["data"].as_array().unwrap().len(), 2);
    let next = page["next"].as_u64().unwrap();
    let rest = world.get(&format!("/v1/audit/events?subject=exo.email.*&after={next}")).await;
    assert_eq!(rest.json()["data"].as_array().unwrap().len(), 3);
    let event = world.get("/v1/audit/events/1").await.json();
    assert_eq!(event["sealed"], true);
    assert_eq!(event["content"]["type"], "email.sent");
    assert_eq!(event["leaf_hash"], hex::encode(leaf_hash(&stored(&world, 1).await)));
    let cars = world.get("/v1/audit/events?type=exodrive.car.created").await.json();
    let cars = cars["data"].as_array().unwrap();
    assert!(cars.iter().all(|event| event["type"] == "exodrive.car.created"));
}

async fn stored(world: &System, position: u64) -> exodrive_log::StoredMessage {
    world.log().await.read_stored(position).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_export_in_every_format_is_verified_by_a_stranger() {
    let world = InProcess::start().await;
    deliver(&world, 40).await;
    sealed(&world, 20).await;
    let folder = world.folder();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    checkpoint_of(&world, &folder.join("saved.txt")).await;
    deliver(&world, 10).await;
    sealed(&world, 50).await;
    world.exodrive_prints(&["audit", "public-key", "--out", &path("log.pub")]).await;
    let one = "exo.email.00000000-0000-4000-8000-000000000007";
    let verify = async |file: &str| -> Value {
        // On another machine there is no data folder and no server.
        let (saved, keys) = (path("saved.txt"), path("log.pub"));
        let args = ["audit", "verify", "--export", file, "--checkpoint", &saved];
        let args = [&args[..], &["--public-key", &keys, "--json"]].concat();
        let done = exodrive_tests::run(&args, &[]).await;
        let said = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(0), "{file}: {said}");
        serde_json::from_str(&said).unwrap()
    };
    for format in ["ndjson", "csv", "parquet"] {
        let all = path(&format!("all.{format}"));
        world.exodrive_prints(&["audit", "export", "--out", &all, "--content"]).await;
        let verdict = verify(&all).await;
        assert_eq!((&verdict["events"], &verdict["omitted"]), (&json!(50), &json!(0)), "{format}");
        let some = path(&format!("some.{format}"));
        let args = ["audit", "export", "--out", &some, "--subject", one];
        world.exodrive_prints(&args).await;
        let verdict = verify(&some).await;
        assert_eq!((&verdict["events"], &verdict["omitted"]), (&json!(1), &json!(49)), "{format}");
        let range = path(&format!("range.{format}"));
        let args = ["audit", "export", "--out", &range, "--from", "11", "--to", "30"];
        world.exodrive_prints(&args).await;
        assert_eq!(verify(&range).await["events"], 20, "{format}");
        // The export over HTTP is the same.
        let answer = world.get(&format!("/v1/audit/export?format={format}")).await;
        assert_eq!(answer.status, 200);
        fs::write(path("http"), &answer.body).unwrap();
        assert_eq!(verify(&path("http")).await["events"], 50, "{format}");
    }
    let request = world.request(Method::GET, "/v1/audit/events?type=exodrive.webhook.received");
    let request = request.bearer_auth(world.token("auditor"));
    let request = request.header("accept", "application/x-ndjson");
    let answer = exodrive_tests::Answer::of(request).await.unwrap();
    fs::write(path("http"), &answer.body).unwrap();
    assert_eq!(verify(&path("http")).await["events"], 50);
    // An export has personal data only if the request asked for it.
    let plain = world.get("/v1/audit/export").await.body;
    assert!(!String::from_utf8_lossy(&plain).contains("guest@example.com"));
    let done = world.exodrive(&["audit", "verify", "--live"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stdout));
    world.exodrive_prints(&["audit", "proof", "17"]).await;
}

#[tokio::test]
async fn one_of_many_workers_seals_and_another_takes_over() {
    let world = World::with(&[("EXODRIVE_SEAL_INTERVAL", "50ms")]).await;
    world.start_worker("second");
    deliver(&world, 300).await;
    sealed(&world, 300).await;
    world.kill(WORKER);
    deliver(&world, 30).await;
    sealed(&world, 330).await;
    world.kill("second");
    // Events that came while no worker sealed are sealed now.
    deliver(&world, 600).await;
    world.start_worker(WORKER);
    let (_, newest) = sealed(&world, 930).await;
    assert_eq!(newest.root, root_of_log(&world, newest.size).await);
    // Every checkpoint is on one line of history.
    let done = world.exodrive(&["audit", "verify", "--live", "--json"]).await;
    let verdict: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((done.status.code(), &verdict["verdict"]), (Some(0), &json!("valid")));
    assert!(verdict["checkpoints"].as_u64().unwrap() >= 4);
    let tile = Tile { level: 0, index: 0, width: WIDTH as u16 };
    let answer = world.get(&format!("/v1/audit/{tile}")).await;
    assert!(answer.headers["cache-control"].to_str().unwrap().contains("immutable"));
}

async fn wipe(world: &System) {
    for sql in [
        "truncate seal_tiles, seal_checkpoints, seal_keys, seal_halts",
        "update seal_state set checked_position = 0, compared_log = null, worker = null",
    ] {
        sqlx::query(sql).execute(world.database()).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_that_lost_its_seals_cannot_lead_to_another_history() {
    let world = World::start().await;
    deliver(&world, 20).await;
    let (note, _) = sealed(&world, 20).await;
    world.kill(WORKER);
    wipe(&world).await;
    world.start_worker(WORKER);
    let (again, _) = sealed(&world, 20).await;
    assert_eq!(again.to_string(), note.to_string(), "the same checkpoint, to the byte");

    // A user with permission makes the stream again with all its messages. Even
    // their times differ.
    world.kill(WORKER);
    wipe(&world).await;
    recreate(&world).await;
    world.start_worker(WORKER);
    let halted = eventually("sealing halts", async || {
        let standing = world.get("/readyz").await.json();
        (standing["checks"]["seals"]["ok"] == false).then_some(())
    });
    halted.await;
    assert_eq!(world.get("/v1/audit/checkpoint").await.status, 404, "nothing is signed");
    assert!(world.printed(WORKER).contains("Sealing has halted"));
}

/// Takes all messages, and puts them into a new stream of the same name.
async fn recreate(world: &System) {
    let log = world.log().await;
    let mut messages = Vec::new();
    for position in 1..=log.last_position().await.unwrap() {
        messages.push(log.read_stored(position).await.unwrap().unwrap());
    }
    let jetstream = world.jetstream().await;
    let config = jetstream.get_stream("EXODRIVE").await.unwrap().cached_info().config.clone();
    jetstream.delete_stream("EXODRIVE").await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    for message in messages {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in message.headers.iter().filter(|(name, _)| !name.starts_with("Nats-")) {
            headers.append(name.as_str(), value.as_str());
        }
        let sent = jetstream.publish_with_headers(message.subject, headers, message.body);
        sent.await.unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_is_replaced_with_overlap_and_a_lost_one_halts() {
    let mut world = World::start().await;
    deliver(&world, 3).await;
    sealed(&world, 3).await;
    let new_key = "bmV3IHNlYWwga2V5LCBvZiAzMiBieXRlcywgeWVzISE=";
    let old_public = world.exodrive_prints(&["audit", "public-key"]).await;
    world.kill(WORKER);
    world.set("EXODRIVE_SEAL_KEYS", &format!("{new_key},{}", exodrive_tests::SEAL_KEY));
    world.start_worker(WORKER);
    deliver(&world, 3).await;
    let (note, _) = sealed(&world, 6).await;
    assert_eq!(note.signatures().len(), 2, "the old and the new one sign");
    // Only then the old stream is deleted.
    world.kill(WORKER);
    world.set("EXODRIVE_SEAL_KEYS", new_key);
    world.start_worker(WORKER);
    deliver(&world, 3).await;
    let (note, _) = sealed(&world, 9).await;
    assert_eq!(note.signatures().len(), 1);

    // A key has signed nothing so far: the worker must not take it for ours.
    world.kill(WORKER);
    world.set("EXODRIVE_SEAL_KEYS", "YSB0aGlyZCBrZXksIG9mIDMyIGJ5dGVzLCB5ZXMhISE=");
    world.start_worker(WORKER);
    deliver(&world, 3).await;
    eventually("sealing halts", async || {
        let ready = world.get("/readyz").await.json();
        (ready["checks"]["seals"]["ok"] == false && ready["status"] == "degraded").then_some(())
    })
    .await;
    assert_eq!(world.metric(WORKER, "exodrive_seal_halted").await, Some(1.0));
    assert!(world.printed(WORKER).contains("EXODRIVE_SEAL_KEYS"), "it says what to do");
    // A worker that has the former key, too, goes on.
    let all = world.exodrive_prints(&["audit", "public-key"]).await;
    let former = all.lines().find(|line| !old_public.contains(line)).unwrap();
    world.kill(WORKER);
    let keys = format!("YSB0aGlyZCBrZXksIG9mIDMyIGJ5dGVzLCB5ZXMhISE=,{former}");
    world.set("EXODRIVE_SEAL_KEYS", &keys);
    world.start_worker(WORKER);
    let done = world.exodrive(&["audit", "unhalt", "--reason", "the former key is named"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stdout));
    sealed(&world, 12).await;
}
