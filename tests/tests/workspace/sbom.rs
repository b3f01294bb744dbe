//! What `make sbom` writes: a CycloneDX document that names every crate of the program.

use crate::{root, text};
use serde_json::Value;
use std::{collections::BTreeSet, process::Command, sync::LazyLock};

static SBOM: LazyLock<Value> = LazyLock::new(|| {
    let sbom = root().join("scripts/sbom");
    serde_json::from_str(&stdout(&mut Command::new(sbom))).unwrap()
});

fn stdout(command: &mut Command) -> String {
    let done = command.current_dir(root()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The document's components, the program itself first.
fn components() -> Vec<&'static Value> {
    let program = &SBOM["metadata"]["component"];
    [program].into_iter().chain(SBOM["components"].as_array().unwrap()).collect()
}

/// The crates that cargo lists by these kinds of edges, as package URLs.
fn tree(edges: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--locked", "--package", "exodrive-api", "--prefix", "none"]);
    let lines = stdout(cargo.args(["--edges", edges, "--format", "{p}"]));
    let purl = |line: &str| {
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap());
        format!("pkg:cargo/{name}@{}", version.strip_prefix('v').unwrap())
    };
    lines.lines().map(purl).collect()
}

#[test]
fn it_has_what_cyclonedx_1_5_requires() {
    assert_eq!((text(&SBOM, "bomFormat"), text(&SBOM, "specVersion")), ("CycloneDX", "1.5"));
    assert_eq!(SBOM["version"], 1);
    let serial = text(&SBOM, "serialNumber").strip_prefix("urn:uuid:").unwrap();
    let groups: Vec<_> = serial.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12]);
    assert!(serial.bytes().all(|byte| byte == b'-' || matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    let mut refs = BTreeSet::new();
    for component in components() {
        assert!(["application", "library"].contains(&text(component, "type")), "{component}");
        assert!(["required", "excluded"].contains(&text(component, "scope")), "{component}");
        assert!(!text(component, "name").is_empty() && !text(component, "version").is_empty());
        assert!(refs.insert(text(component, "bom-ref")), "twice: {component}");
        let [licence] = component["licenses"].as_array().unwrap().as_slice() else {
            panic!("one expression stands alone: {component}");
        };
        assert!(!text(licence, "expression").contains('/'), "{component}");
        for hash in component["hashes"].as_array().into_iter().flatten() {
            assert_eq!((text(hash, "alg"), text(hash, "content").len()), ("SHA-256", 64));
        }
    }
    let known = ["bomFormat", "specVersion", "serialNumber", "version", "metadata", "components"];
    let mut fields = SBOM.as_object().unwrap().keys();
    assert!(fields.all(|it| known.contains(&it.as_str()) || it == "dependencies"));
}

#[test]
fn it_names_every_crate_of_the_program_and_how_they_depend_on_each_other() {
    let purls: BTreeSet<_> = components().iter().map(|it| text(it, "purl").to_owned()).collect();
    assert_eq!(purls, tree("normal"));
    let linked = components().into_iter().filter(|it| it["scope"] == "required");
    let linked: BTreeSet<_> = linked.map(|it| text(it, "purl").to_owned()).collect();
    assert_eq!(linked, tree("normal,no-proc-macro"));
    assert!(linked.len() > 200 && linked.len() < purls.len());

    let ours = |purl: &str| purl.starts_with("pkg:cargo/exodrive-");
    for component in components() {
        assert_eq!(component["hashes"].is_array(), !ours(text(component, "purl")), "{component}");
    }
    let dependencies = SBOM["dependencies"].as_array().unwrap();
    let refs: BTreeSet<_> = dependencies.iter().map(|it| text(it, "ref").to_owned()).collect();
    assert_eq!(refs, purls, "every component says what it depends on");
    let mut named = BTreeSet::from(["exodrive-api".to_owned()]);
    for on in dependencies.iter().flat_map(|it| it["dependsOn"].as_array().unwrap()) {
        assert!(purls.contains(on.as_str().unwrap()), "{on}");
        named.insert(on.as_str().unwrap().to_owned());
    }
    assert_eq!(named.len(), purls.len(), "but for the program, something depends on each");
}

#[test]
fn the_same_lock_file_gives_the_same_document() {
    let again = stdout(&mut Command::new(root().join("scripts/sbom")));
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), *SBOM);
}
