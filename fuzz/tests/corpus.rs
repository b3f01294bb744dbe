//! The properties hold of every stored input, and each is accepted or refused as its name says.
//!
//! `EXODRIVE_WRITE_SEEDS=1` writes the inputs that only code can make.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use exodrive_fuzz::TARGETS;
use std::{collections::BTreeSet, env, fs, path::PathBuf};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn every_target_has_inputs_that_are_accepted_and_refused_as_their_names_say() {
    let mut wrong = Vec::new();
    for target in TARGETS {
        let folder = corpus().join(target.name);
        if env::var_os("EXODRIVE_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            (target.made)()
                .iter()
                .for_each(|(name, input)| fs::write(folder.join(name), input).unwrap());
        }
        let mut verdicts = BTreeSet::new();
        for entry in
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", target.name))
        {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let accepted = (target.run)(&fs::read(&path).unwrap());
            let verdict = if accepted { "accepted-" } else { "refused-" };
            if !name.starts_with(verdict) {
                wrong.push(format!("{}/{name} is {verdict}", target.name));
            }
            verdicts.insert(verdict);
        }
        assert_eq!(verdicts.len(), 2, "{} has inputs of both kinds", target.name);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn inputs_that_code_makes_are_stored() {
    for target in TARGETS {
        for (name, _) in (target.made)() {
            assert!(corpus().join(target.name).join(name).exists(), "{}/{name}", target.name);
        }
    }
}

#[test]
fn every_folder_of_inputs_has_a_target() {
    let folders = fs::read_dir(corpus()).unwrap().map(|it| it.unwrap().file_name().into_string());
    let folders: BTreeSet<_> = folders.map(Result::unwrap).collect();
    assert_eq!(folders, TARGETS.iter().map(|target| target.name.to_owned()).collect());
}
