//! The shape of the workspace: which crate may import which, what may be a
//! dependency at all, and that every crate is held to the same lints. Reads what
//! cargo knows, without the network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "workspace/circles.rs"]
mod circles;
#[path = "workspace/sbom.rs"]
mod sbom;
#[path = "workspace/supply.rs"]
mod supply;

use circles::Parents;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// The crates of this workspace that each of them may import.
const IMPORTS: [(&str, &[&str]); 13] = [
    ("exodrive-domain", &[]),
    ("exodrive-log", &["exodrive-domain"]),
    ("exodrive-proof", &[]),
    ("exodrive-runtime", &[]),
    ("exodrive-migrations", &[]),
    (
        "exodrive-projections",
        // Whoever owns the tables applies the migrations that they stand on.
        &["exodrive-domain", "exodrive-log", "exodrive-runtime", "exodrive-migrations"],
    ),
    ("exodrive-replays", &["exodrive-domain", "exodrive-log", "exodrive-projections"]),
    (
        "exodrive-audit",
        &[
            "exodrive-domain",
            "exodrive-log",
            "exodrive-proof",
            "exodrive-projections",
            "exodrive-replays",
        ],
    ),
    (
        "exodrive-commands",
        &[
            "exodrive-domain",
            "exodrive-log",
            "exodrive-runtime",
            "exodrive-projections",
            "exodrive-replays",
        ],
    ),
    (
        "exodrive-workers",
        &[
            "exodrive-domain",
            "exodrive-log",
            "exodrive-runtime",
            "exodrive-projections",
            "exodrive-replays",
            "exodrive-audit",
            "exodrive-commands",
        ],
    ),
    (
        "exodrive-api",
        &[
            "exodrive-domain",
            "exodrive-log",
            "exodrive-proof",
            "exodrive-runtime",
            "exodrive-projections",
            "exodrive-replays",
            "exodrive-audit",
            "exodrive-commands",
            "exodrive-workers",
        ],
    ),
    (
        "exodrive-tests",
        &[
            "exodrive-domain",
            "exodrive-log",
            "exodrive-proof",
            "exodrive-runtime",
            "exodrive-migrations",
            "exodrive-projections",
            "exodrive-replays",
            "exodrive-audit",
            "exodrive-commands",
            "exodrive-workers",
            "exodrive-api",
        ],
    ),
    ("exodrive-fuzz", &["exodrive-domain", "exodrive-proof"]),
];

/// Crates of this workspace that may import these crates and no other.
const CLOSED: [(&str, &[&str]); 3] = [
    (
        "exodrive-domain",
        &[
            "base64",
            "bytes",
            "chrono",
            "chrono-tz",
            "email_address",
            "idna",
            "iso_currency",
            "mail-parser",
            "proptest",
            "serde",
            "serde_json",
            "sha2",
            "strum",
            "thiserror",
            "unicode-normalization",
            "url",
            "uuid",
        ],
    ),
    (
        "exodrive-proof",
        &[
            "base64",
            "bytes",
            "chrono",
            "csv",
            "hex",
            "memchr",
            "parquet",
            "proptest",
            "ring",
            "serde",
            "serde_json",
            "sha2",
            "tempfile",
            "thiserror",
        ],
    ),
    ("exodrive-migrations", &["sqlx"]),
];

/// Crates that only these crates of this workspace may import, the tests apart.
const OWNED: [(&str, &[&str]); 5] = [
    ("async-nats", &["exodrive-log"]),
    ("sqlx", &["exodrive-projections", "exodrive-migrations", "exodrive-audit"]),
    (
        "redis",
        &[
            "exodrive-log",
            "exodrive-projections",
            "exodrive-commands",
            "exodrive-workers",
            "exodrive-api",
        ],
    ),
    ("axum", &["exodrive-api"]),
    ("clap", &["exodrive-api"]),
];

/// Crates in which a file may take from its own children what they build on it: a
/// crate's root and a folder's `mod.rs` hold what the folder shares.
const PUT_TOGETHER: [&str; 5] =
    ["exodrive-proof", "exodrive-runtime", "exodrive-commands", "exodrive-api", "exodrive-tests"];

static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let done = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        // Crates for other systems are not downloaded.
        .args(["--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
});

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}"))
}

fn packages() -> &'static [Value] {
    METADATA["packages"].as_array().unwrap()
}

/// The workspace's own packages.
fn members() -> Vec<&'static Value> {
    packages().iter().filter(|package| package["source"].is_null()).collect()
}

/// The names that a package's manifest lists, of any kind.
fn imports(package: &Value) -> BTreeSet<&str> {
    package["dependencies"].as_array().unwrap().iter().map(|it| text(it, "name")).collect()
}

/// The imports of a package that the tables forbid.
fn forbidden_edges(package: &str, imports: &BTreeSet<&str>) -> Vec<String> {
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == package) else {
        return vec![format!("{package} is in no row of the table of imports")];
    };
    let is_ours = |name: &&&str| IMPORTS.iter().any(|(ours, _)| *ours == **name);
    let ours = imports.iter().filter(is_ours).filter(|name| !allowed.contains(*name));
    let closed = CLOSED.iter().filter(|(name, _)| *name == package).flat_map(|(_, allowed)| {
        imports.iter().filter(|name| !is_ours(name) && !allowed.contains(*name))
    });
    let owned = imports.iter().filter(|name| {
        package != "exodrive-tests"
            && OWNED
                .iter()
                .any(|(crate_name, importers)| crate_name == *name && !importers.contains(&package))
    });
    ours.chain(closed).chain(owned).map(|name| format!("{package} may not import {name}")).collect()
}

#[test]
fn no_crate_imports_what_it_may_not() {
    let members = members();
    let names: BTreeSet<_> = members.iter().map(|package| text(package, "name")).collect();
    assert_eq!(names, IMPORTS.iter().map(|(name, _)| *name).collect());
    let broken: Vec<_> = members
        .iter()
        .flat_map(|package| forbidden_edges(text(package, "name"), &imports(package)))
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_forbidden_edge_is_seen() {
    for (package, import) in [
        ("exodrive-domain", "exodrive-log"),
        ("exodrive-domain", "tokio"),
        ("exodrive-log", "exodrive-projections"),
        ("exodrive-log", "sqlx"),
        ("exodrive-runtime", "exodrive-domain"),
        ("exodrive-migrations", "tokio"),
        ("exodrive-projections", "axum"),
        ("exodrive-api", "exodrive-tests"),
        ("exodrive-fuzz", "exodrive-log"),
        ("exodrive-new", "serde"),
    ] {
        assert_eq!(
            forbidden_edges(package, &BTreeSet::from([import])).len(),
            1,
            "{package} {import}"
        );
    }
    assert!(
        forbidden_edges("exodrive-log", &BTreeSet::from(["exodrive-domain", "tokio"])).is_empty()
    );
}

/// The files of each crate that a package has, by their paths below its root
/// file: of its library, and of each program that is no library.
fn sources(package: &Value) -> Vec<(PathBuf, BTreeMap<String, String>)> {
    let folder = Path::new(text(package, "manifest_path")).with_file_name("src");
    let mut roots = vec![folder.clone()];
    if let Ok(programs) = fs::read_dir(folder.join("bin")) {
        roots.extend(programs.map(|it| it.unwrap().path()).filter(|it| it.is_dir()));
    }
    let mut sources = Vec::new();
    for root in roots {
        let mut files = BTreeMap::new();
        read_sources(&root, &root, &mut files);
        if files.contains_key("lib.rs") {
            files.remove("main.rs");
        }
        sources.push((root, files));
    }
    sources
}

fn read_sources(folder: &Path, root: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path != root.join("bin") {
            read_sources(&path, root, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn no_file_imports_in_a_circle() {
    let mut found = Vec::new();
    let mut stale: BTreeSet<_> = PUT_TOGETHER.into();
    for package in members() {
        let name = text(package, "name");
        for (root, files) in sources(package) {
            assert!(!files.is_empty(), "{} has no files", root.display());
            let strict = circles::circles(&files, Parents::Count);
            let circles = if PUT_TOGETHER.contains(&name) {
                if !strict.is_empty() {
                    stale.remove(name);
                }
                circles::circles(&files, Parents::PutTogether)
            } else {
                strict
            };
            let root = root.strip_prefix(self::root()).unwrap().display();
            found.extend(circles.iter().map(|circle| format!("{root}: {circle}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(stale.is_empty(), "no longer needed: {stale:?}");
}

#[test]
fn whoever_writes_a_view_opens_no_file_of_the_engine() {
    let views = root().join("projections/src/views");
    let mut files = BTreeMap::new();
    read_sources(&views, &views, &mut files);
    files.remove("list.rs").expect("the list of views, which the engine runs through");
    assert!(files.contains_key("inbox/mod.rs"), "{:?}", files.keys());
    let opens = |text: &String| text.contains("engine::") || text.contains("seals::");
    let opening: Vec<_> = files.iter().filter(|(_, text)| opens(text)).map(|it| it.0).collect();
    assert!(opening.is_empty(), "{opening:?}");
}

#[test]
fn every_crate_inherits_the_lints_and_unsafe_code_is_forbidden() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for lint in ["unsafe_code = \"forbid\"", "unwrap_used = \"deny\"", "print_stdout = \"deny\""] {
        assert!(manifest.contains(lint), "{lint}");
    }
    for package in members() {
        let manifest = fs::read_to_string(text(package, "manifest_path")).unwrap();
        let inherits = manifest.contains("[lints]\nworkspace = true\n");
        assert!(inherits, "{} does not inherit the workspace's lints", text(package, "name"));
    }
}
