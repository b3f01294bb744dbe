//! What may be a dependency: the policy of `deny.toml`, checked without a network. cargo-deny would
//! do the same, but it is another download, and its newer releases ask for a database.

use crate::{packages, root, text};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::LazyLock,
};

/// What is read of `deny.toml`.
#[derive(Deserialize)]
struct Policy {
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Named>,
    deny: Vec<Named>,
}

/// A crate, and why it stands there.
#[derive(Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
    allow_git: Vec<String>,
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    toml::from_str(&text).unwrap()
});

/// What is read of `Cargo.lock`: every crate that any feature on any system can bring in.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Clone, Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

static LOCK: LazyLock<Lock> = LazyLock::new(|| {
    let text = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    toml::from_str(&text).unwrap()
});

/// Whether an SPDX expression can be met with the licences that we accept.
fn is_accepted(expression: &str, allowed: &[String]) -> bool {
    // Old manifests write "MIT/Apache-2.0".
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let accepted = any_of(&tokens, &mut at, allowed);
    assert_eq!(at, tokens.len(), "cannot read the licence {expression:?}");
    accepted
}

fn any_of(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut accepted = all_of(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        accepted |= all_of(tokens, at, allowed);
    }
    accepted
}

fn all_of(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut accepted = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        accepted &= one(tokens, at, allowed);
    }
    accepted
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let token = tokens[*at];
    *at += 1;
    if token == "(" {
        let accepted = any_of(tokens, at, allowed);
        assert_eq!(tokens.get(*at), Some(&")"));
        *at += 1;
        return accepted;
    }
    let mut licence = token.to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", tokens[*at + 1]);
        *at += 2;
    }
    allowed.contains(&licence)
}

#[test]
fn licence_expressions_are_read() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for accepted in
        ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR (MIT AND ISC)", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(is_accepted(accepted, &allowed), "{accepted}");
    }
    for refused in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND AGPL-3.0"] {
        assert!(!is_accepted(refused, &allowed), "{refused}");
    }
}

#[test]
fn every_crate_stands_under_an_accepted_licence() {
    let Licences { allow, exceptions } = &POLICY.licenses;
    let mut refused = Vec::new();
    for package in packages() {
        let name = text(package, "name");
        let licence = package["license"].as_str().unwrap_or("none");
        let own = exceptions.iter().filter(|it| it.name == name).flat_map(|it| &it.allow);
        let allowed: Vec<_> = allow.iter().chain(own).cloned().collect();
        if !is_accepted(licence, &allowed) {
            refused.push(format!("{name}: {licence}"));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    let is_there = |name: &str| LOCK.package.iter().any(|it| it.name == name);
    let stale: Vec<_> = exceptions.iter().map(|it| &it.name).filter(|it| !is_there(it)).collect();
    assert!(stale.is_empty(), "no longer needed: {stale:?}");
}

#[test]
fn no_crate_is_there_in_two_versions_but_for_a_reason() {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages() {
        versions.entry(text(package, "name")).or_default().insert(text(package, "version"));
    }
    versions.retain(|_, versions| versions.len() > 1);
    let skip = &POLICY.bans.skip;
    let new: Vec<_> =
        versions.iter().filter(|(name, _)| !skip.iter().any(|it| it.name == **name)).collect();
    assert!(new.is_empty(), "in more than one version: {new:#?}");
    let names = skip.iter().map(|it| it.name.as_str());
    let stale: Vec<_> = names.filter(|name| !versions.contains_key(name)).collect();
    assert!(stale.is_empty(), "no longer needed: {stale:?}");
}

/// The crates that the policy bans, each with the reason.
fn banned(packages: &[Locked]) -> Vec<String> {
    let ban = |name: &str| POLICY.bans.deny.iter().find(|it| it.name == name);
    let banned = packages.iter().filter_map(|it| Some((it, ban(&it.name)?)));
    banned.map(|(it, ban)| format!("{} {}: {}", it.name, it.version, ban.reason)).collect()
}

/// The crates that come from elsewhere than the policy allows, or whose content nothing pins. A
/// crate without a source is a folder: it must be one of ours.
fn from_elsewhere(packages: &[Locked], ours: &BTreeSet<&str>) -> Vec<String> {
    let Sources { allow_registry, allow_git } = &POLICY.sources;
    assert!(allow_git.is_empty(), "a branch or a tag can be moved");
    let is_allowed = |it: &&Locked| match &it.source {
        None => ours.contains(it.name.as_str()),
        Some(source) => {
            let registry = source.strip_prefix("registry+");
            let digits =
                |sum: &String| sum.len() == 64 && sum.bytes().all(|it| it.is_ascii_hexdigit());
            registry.is_some_and(|it| allow_registry.iter().any(|allowed| allowed == it))
                && it.checksum.as_ref().is_some_and(digits)
        }
    };
    let foreign = packages.iter().filter(|it| !is_allowed(it));
    foreign.map(|it| format!("{} {} of {:?}", it.name, it.version, it.source)).collect()
}

/// The names of the workspace's own crates.
fn ours() -> BTreeSet<&'static str> {
    crate::members().into_iter().map(|package| text(package, "name")).collect()
}

#[test]
fn no_banned_crate_is_there_and_every_ban_has_a_reason() {
    let banned = banned(&LOCK.package);
    assert!(banned.is_empty(), "{banned:#?}");
    let named = POLICY.bans.deny.iter().chain(&POLICY.bans.skip);
    let without: Vec<_> = named.filter(|it| it.reason.is_empty()).map(|it| &it.name).collect();
    assert!(without.is_empty(), "without a reason: {without:?}");
}

#[test]
fn every_crate_comes_from_crates_io_with_a_checksum_or_is_ours() {
    assert!(LOCK.package.len() > 300);
    let elsewhere = from_elsewhere(&LOCK.package, &ours());
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    // A checksum is of no use if another source takes the place of crates.io.
    for manifest in [root().join("Cargo.toml"), root().join(".cargo/config.toml")] {
        let text = fs::read_to_string(&manifest).unwrap();
        for replaced in ["[patch", "[replace", "[source", "paths ="] {
            let found = text.lines().any(|line| line.starts_with(replaced));
            assert!(!found, "{} has {replaced}", manifest.display());
        }
    }
}

#[test]
fn a_banned_crate_and_one_from_elsewhere_are_seen() {
    let crates_io = "registry+https://github.com/rust-lang/crates.io-index";
    let locked = |name: &str, source: Option<&str>, checksum: Option<&str>| Locked {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        source: source.map(str::to_owned),
        checksum: checksum.map(str::to_owned),
    };
    let sum = "ab".repeat(32);
    let good = locked("serde", Some(crates_io), Some(&sum));
    assert!(
        from_elsewhere(&[good.clone(), locked("exodrive-log", None, None)], &ours()).is_empty()
    );
    for bad in [
        locked("serde", None, None),
        locked("serde", Some(crates_io), None),
        locked("serde", Some(crates_io), Some("ab")),
        locked("serde", Some("git+https://github.com/serde-rs/serde?branch=main#1"), Some(&sum)),
        locked("serde", Some("registry+https://crates.example/index"), Some(&sum)),
    ] {
        assert_eq!(from_elsewhere(&[good.clone(), bad], &ours()).len(), 1);
    }
    assert_eq!(banned(&[good, locked("openssl-sys", Some(crates_io), Some(&sum))]).len(), 1);
}
