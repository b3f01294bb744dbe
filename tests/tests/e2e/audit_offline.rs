//! `exodrive audit verify` and `audit witness`, as an auditor uses them: on another machine, with
//! only files and the log's address.

use axum::{Json, Router, extract::Query, http::StatusCode, routing::get};
use exodrive_proof::{
    export::{End, Event, ExportWriter, Format, Header, Record},
    note::{self, Checkpoint, SignedNote, SigningKey, VerifierKey, WitnessVerifierKey},
    tree::{self, Tree},
};
use exodrive_tests::{eventually, run};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    collections::HashMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex},
};

const ORIGIN: &str = "rental.example/log";

/// A log whose operator nobody has to trust.
#[derive(Clone)]
struct Log {
    key: Arc<SigningKey>,
    events: Vec<Event<'static>>,
}

impl Log {
    fn new(size: u64) -> Self {
        let mut log =
            Self { key: Arc::new(SigningKey::generate(ORIGIN).unwrap()), events: Vec::new() };
        log.grow(size, "true");
        log
    }

    fn grow(&mut self, size: u64, text: &str) {
        for position in self.events.len() as u64 + 1..=size {
            let mut event = Event {
                position,
                stored_at_nanos: 1_790_000_000_000_000_000 + i64::try_from(position).unwrap(),
                subject: Cow::Owned(format!("exo.email.{position}")),
                headers: vec![(Cow::Borrowed("ce-id"), Cow::Owned(position.to_string()))],
                body: Cow::Owned(format!("{{\"text\":{text:?}}}").into_bytes()),
                leaf_hash: [0; 32],
                content: None,
            };
            event.leaf_hash = event.leaf().hash();
            self.events.push(event);
        }
    }

    fn tree(&self, from: u64, to: u64) -> Tree {
        let mut tree = Tree::new();
        let events = &self.events[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
        events.iter().for_each(|event| tree.push_leaf(event.leaf_hash));
        tree
    }

    fn note(&self, size: u64) -> SignedNote {
        let root = self.tree(0, size).root();
        let checkpoint =
            Checkpoint { origin: ORIGIN.to_owned(), size, root, extensions: Vec::new() };
        note::sign(&checkpoint, &[&self.key])
    }

    fn size(&self) -> u64 {
        self.events.len() as u64
    }

    fn export(&self, path: &Path, format: Format) {
        let mut out = ExportWriter::new(format, fs::File::create(path).unwrap()).unwrap();
        let size = self.size();
        out.write(&Record::Header(Header {
            origin: Cow::Borrowed(ORIGIN),
            checkpoint: Cow::Owned(self.note(size).to_string()),
            from: 1,
            to: size,
            filters: Vec::new(),
            created_at: chrono::Utc::now(),
        }))
        .unwrap();
        self.events.iter().for_each(|event| out.write(&Record::Event(event.clone())).unwrap());
        out.write(&Record::End(End { events: size, root: self.tree(0, size).root() })).unwrap();
        out.finish().unwrap();
    }
}

/// An auditor's machine: no settings, no data folder.
struct AuditorFolder(tempfile::TempDir);

impl AuditorFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `exodrive audit` with these words; those with a dot are files.
    async fn audit(&self, words: &str) -> Output {
        let nowhere = self.path("no-data-folder").to_str().unwrap().to_owned();
        let words = words.split(' ').map(|word| match word.contains('.') && !word.contains('/') {
            true => self.path(word).to_str().unwrap().to_owned(),
            false => word.to_owned(),
        });
        let words: Vec<_> = ["audit".to_owned()].into_iter().chain(words).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        run(&words, &[("EXODRIVE_DATA_DIR".to_owned(), nowhere)]).await
    }
}

fn output_of(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[tokio::test]
async fn an_export_is_verified_with_nothing_but_files() {
    let (log, folder) = (Log::new(1500), AuditorFolder::new());
    folder.put("log.pub", &format!("# the log\n{}\n", log.key.verifier()));
    folder.put("saved-1.txt", &log.note(700).to_string());
    folder.put("saved-2.txt", &log.note(1500).to_string());
    for format in Format::ALL {
        log.export(&folder.path("log.export"), format);
        let words =
            "verify --export log.export --checkpoint saved-1.txt saved-2.txt --public-key log.pub";
        let done = folder.audit(words).await;
        assert_eq!(done.status.code(), Some(0), "{format:?}: {}", output_of(&done));
        assert!(output_of(&done).contains("1,500, each recomputed"), "{}", output_of(&done));
        let done = folder.audit(&format!("{words} --json")).await;
        let verdict: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(
            (&verdict["verdict"], &verdict["saved_checkpoints"]),
            (&json!("valid"), &json!(2))
        );
    }
    assert!(!folder.path("no-data-folder").exists());
}

#[tokio::test]
async fn changes_to_an_export_are_reported_by_the_exit_code() {
    let (log, folder) = (Log::new(40), AuditorFolder::new());
    folder.put("log.pub", &log.key.verifier().to_string());
    folder.put("saved.txt", &log.note(20).to_string());
    folder.put("other.pub", &SigningKey::generate(ORIGIN).unwrap().verifier().to_string());
    log.export(&folder.path("log.ndjson"), Format::Ndjson);
    let lines = folder.text("log.ndjson");
    let words = "verify --export changed.ndjson --checkpoint saved.txt --public-key log.pub --json";

    folder.put("changed.ndjson", &lines.replacen("exo.email.7\"", "exo.email.8\"", 1));
    let done = folder.audit(words).await;
    let verdict: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(1), "{verdict}");
    assert_eq!(
        (&verdict["verdict"], &verdict["first_bad_position"]),
        (&json!("tampered"), &json!(7))
    );

    // The right key, with another history.
    let mut forged = Log { events: log.events[..9].to_vec(), ..log.clone() };
    forged.grow(40, "forged");
    forged.export(&folder.path("changed.ndjson"), Format::Ndjson);
    let done = folder.audit(words).await;
    let verdict: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(1), "{verdict}");
    assert_eq!(verdict["between"], json!({"after": 0, "up_to": 20}));

    for (words, code, part) in [
        ("verify --export log.ndjson --public-key other.pub", 1, "not signed by any of the keys"),
        ("verify --export log.ndjson --public-key log.pub", 0, "You saved no checkpoint"),
        ("verify --export saved.txt --public-key log.pub", 2, "this is not an export"),
        ("verify --export absent.ndjson --public-key log.pub", 2, "cannot be read"),
        ("verify --export log.ndjson --public-key saved.txt", 2, "not a public key"),
        (
            "verify --export log.ndjson --checkpoint log.pub --public-key log.pub",
            2,
            "not a signed checkpoint",
        ),
        ("verify --export log.ndjson", 2, "--public-key"),
    ] {
        let done = folder.audit(words).await;
        assert_eq!(done.status.code(), Some(code), "{words}: {}", output_of(&done));
        assert!(output_of(&done).contains(part), "{words}: {}", output_of(&done));
    }
}

/// Serves a log as its operator does, who may exchange it without notice.
async fn serve(log: &Arc<Mutex<Log>>) -> SocketAddr {
    let shown = || {
        let log = Arc::clone(log);
        move || log.lock().unwrap().clone()
    };
    let (checkpoint, keys, consistency) = (shown(), shown(), shown());
    let proof = async move |Query(range): Query<HashMap<String, u64>>| {
        let log = consistency();
        let (from, to) = (range["from"], range["to"]);
        if to > log.size() {
            return Err(StatusCode::NOT_FOUND);
        }
        let node = |level: u8, index: u64| {
            let from = index << level;
            Ok::<_, StatusCode>(log.tree(from, from + (1 << level)).root())
        };
        let proof: Vec<_> =
            tree::consistency_proof(from, to, &node)?.iter().map(hex::encode).collect();
        Ok(Json(json!({"proof": proof})))
    };
    let router = Router::new()
        .route(
            "/v1/audit/checkpoint",
            get(async move || {
                let log = checkpoint();
                log.note(log.size()).to_string()
            }),
        )
        .route("/v1/audit/keys", get(async move || format!("{}\n", keys().key.verifier())))
        .route("/v1/audit/consistency", get(proof));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn a_witness_cosigns_only_logs_that_extend_the_last_one() {
    let (truth, folder) = (Log::new(30), AuditorFolder::new());
    let log = Arc::new(Mutex::new(truth.clone()));
    let address = serve(&log).await;
    let show = |shown: &Log| *log.lock().unwrap() = shown.clone();
    folder.put("log.pub", &truth.key.verifier().to_string());

    let made = folder.audit("witness --new-key witness.key --name witness/example").await;
    assert!(made.status.success(), "{}", output_of(&made));
    let public = String::from_utf8(made.stdout).unwrap();
    folder.put("witness.pub", &public);
    let witness = WitnessVerifierKey::parse(public.trim()).unwrap();
    let mode = fs::metadata(folder.path("witness.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(folder.audit("witness --new-key witness.key").await.status.code(), Some(2));

    let words =
        format!("witness --url http://{address}/ --state seen.txt --key witness.key --once");
    let look = async || folder.audit(&words).await;
    let seen = |size| {
        let note: SignedNote = folder.text("seen.txt").parse().unwrap();
        assert!(note::verify_cosignature(&note, &witness).unwrap() > 1_700_000_000);
        let keys: [VerifierKey; 1] = [truth.key.verifier()];
        assert_eq!(note::verify(&note, &keys).unwrap().size, size);
    };

    let done = look().await;
    assert!(
        done.status.success() && output_of(&done).contains("taken on trust"),
        "{}",
        output_of(&done)
    );
    assert!(output_of(&done).contains(folder.text("seen.txt").trim()));
    seen(30);
    let mut grown = truth.clone();
    grown.grow(47, "true");
    show(&grown);
    assert!(look().await.status.success());
    assert!(look().await.status.success());
    seen(47);

    let mut split = Log { events: grown.events[..46].to_vec(), ..grown.clone() };
    split.grow(47, "another");
    let mut forked = Log { events: grown.events[..5].to_vec(), ..grown.clone() };
    forked.grow(60, "another");
    for (shown, part) in
        [(&split, "SPLIT VIEW"), (&truth, "cut back"), (&forked, "does not extend")]
    {
        show(shown);
        let done = look().await;
        assert_eq!(done.status.code(), Some(1), "{}", output_of(&done));
        assert!(
            output_of(&done).contains("ALARM") && output_of(&done).contains(part),
            "{}",
            output_of(&done)
        );
        assert_eq!(folder.text("seen.txt.refused"), shown.note(shown.size()).to_string());
        seen(47);
    }

    // Signed by a key that is not the log's.
    let mut other = grown.clone();
    other.key = Arc::new(SigningKey::generate(ORIGIN).unwrap());
    show(&other);
    let done = folder.audit(&format!("{words} --public-key log.pub")).await;
    assert_eq!(done.status.code(), Some(2), "{}", output_of(&done));

    // The state file of another log, and one that was changed.
    show(&grown);
    let mut own = folder.text("seen.txt");
    folder.put("seen.txt", &grown.note(30).to_string());
    assert_eq!(look().await.status.code(), Some(2));
    own.insert(own.len() - 8, 'A');
    folder.put("seen.txt", &own);
    assert_eq!(look().await.status.code(), Some(2));
    fs::remove_file(folder.path("seen.txt")).unwrap();
    assert!(look().await.status.success());

    // An auditor asks for the checkpoint that it cosigned.
    grown.export(&folder.path("log.csv"), Format::Csv);
    let words = "verify --export log.csv --checkpoint seen.txt --public-key log.pub --witness-key witness.pub";
    let done = folder.audit(words).await;
    assert!(
        done.status.success() && output_of(&done).contains("witness/example saw"),
        "{}",
        output_of(&done)
    );
}

#[tokio::test]
async fn a_witness_that_watches_survives_an_absent_log_and_stops_at_an_alarm() {
    let (truth, folder) = (Log::new(3), AuditorFolder::new());
    let log = Arc::new(Mutex::new(truth.clone()));
    let address = serve(&log).await;
    assert!(folder.audit("witness --new-key witness.key").await.status.success());
    let gone = "witness --url http://127.0.0.1:9/ --state seen.txt --key witness.key --once";
    assert_eq!(folder.audit(gone).await.status.code(), Some(2));
    assert!(!folder.path("seen.txt").exists());

    let words = format!(
        "witness --url http://{address} --state seen.txt --key witness.key --interval 20ms"
    );
    let watching = folder.audit(&words);
    let changing = async {
        let saved = async |size: u64| {
            eventually("the witness has seen it", async || {
                let note = fs::read_to_string(folder.path("seen.txt")).ok()?;
                let note: SignedNote = note.parse().ok()?;
                (note.checkpoint().ok()?.size == size).then_some(())
            })
            .await;
        };
        saved(3).await;
        log.lock().unwrap().grow(9, "true");
        saved(9).await;
        *log.lock().unwrap() = truth;
    };
    let (done, ()) = tokio::join!(watching, changing);
    assert_eq!(done.status.code(), Some(1), "{}", output_of(&done));
    assert!(output_of(&done).contains("ALARM"), "{}", output_of(&done));
}
