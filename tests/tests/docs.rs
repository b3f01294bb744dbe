//! The documentation is true as far as a program can tell: its links lead
//! somewhere, the files that it names exist, each guarantee names a test that
//! there is, and the list of metrics is the code's. Reads files only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders whose files the documentation may name by their path from the root.
const FOLDERS: [&str; 13] = [
    "api",
    "audit",
    "bench-cqrs-es",
    "commands",
    "core",
    "docs",
    "fuzz",
    "migrations",
    "projections",
    "replays",
    "scripts",
    "tests",
    "workers",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every page: its path from the root, and its text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = vec![PathBuf::from("README.md"), PathBuf::from("migrations/README.md")];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "md") {
            pages.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    assert!(pages.len() > 7, "the pages are found: {pages:?}");
    let read = |page: PathBuf| {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        (page, text)
    };
    pages.into_iter().map(read).collect()
}

/// What stands between two marks, wherever it does.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).filter_map(|rest| Some(rest.split_once(end)?.0)).collect()
}

/// What stands in backquotes, code blocks left out.
fn code(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for (page, text) in pages() {
        for link in between(&text, "](", ")") {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            links += 1;
            let file = link.split('#').next().unwrap();
            let target = root().join(&page).parent().unwrap().join(file);
            assert!(target.exists(), "{}: {link}", page.display());
        }
    }
    assert!(links > 15, "{links} links are found");
}

#[test]
fn files_that_are_named_exist() {
    let (mut named, mut missing) = (0, Vec::new());
    for (page, text) in pages() {
        for name in code(&text) {
            let is_path = name.split_once('/').is_some_and(|(top, _)| FOLDERS.contains(&top))
                && !name.contains(['*', ' ', '<', '{', '…']);
            if is_path {
                named += 1;
                if !root().join(name).exists() {
                    missing.push(format!("{}: {name}", page.display()));
                }
            }
        }
    }
    assert!(named > 30, "{named} paths are found");
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

#[test]
fn every_guarantee_names_a_test_that_there_is() {
    let text = fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let mut proved = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let Some((promise, proof)) = row.trim_matches('|').split_once(" | ") else { continue };
        if promise.contains("What holds") || promise.contains("---") {
            continue;
        }
        let tests: Vec<_> = code(proof).into_iter().filter(|name| name.contains("::")).collect();
        assert!(!tests.is_empty(), "no test proves: {promise}");
        for test in tests {
            let (file, function) = test.split_once("::").unwrap();
            let source = root().join(format!("tests/tests/e2e/{file}.rs"));
            let source = fs::read_to_string(&source).unwrap_or_default();
            assert!(source.contains(&format!("async fn {function}()")), "there is no {test}");
            proved += 1;
        }
    }
    assert!(proved > 40, "{proved} tests are found");
}

/// The names that the code gives to metrics.
fn recorded(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            recorded(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for (at, _) in text.match_indices("\"exodrive_") {
                let before = text[..at].trim_end();
                if ["counter!(", "gauge!(", "histogram!("].iter().any(|it| before.ends_with(it)) {
                    let name = text[at + 1..].split('"').next().unwrap();
                    found.insert(name.to_owned());
                }
            }
        }
    }
}

#[test]
fn the_list_of_metrics_is_the_codes() {
    let mut recorded_names = BTreeSet::new();
    for folder in FOLDERS.iter().filter(|it| **it != "tests" && **it != "bench-cqrs-es") {
        recorded(&root().join(folder), &mut recorded_names);
    }
    let text = fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let list = text.split("## Metrics").nth(1).expect("the page has a list");
    let rows = list.lines().filter_map(|line| line.strip_prefix("| `exodrive_"));
    let listed: BTreeSet<_> =
        rows.map(|row| format!("exodrive_{}", row.split('`').next().unwrap())).collect();
    assert!(listed.len() > 20, "{listed:?}");
    assert_eq!(listed, recorded_names);
}
