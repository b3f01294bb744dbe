//! libFuzzer on the target that the variable `EXODRIVE_FUZZ_TARGET` names. `scripts/fuzz` starts it.

#![no_main]
#![allow(clippy::expect_used, reason = "without a target there is nothing to do")]

use exodrive_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;
use std::{env, panic, sync::LazyLock};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = env::var("EXODRIVE_FUZZ_TARGET").expect("EXODRIVE_FUZZ_TARGET names a target");
    TARGETS.iter().find(|target| target.name == name).expect("there is a target of this name")
});

fuzz_target!(
    // libFuzzer's hook ends the process at every panic. Readers may catch those of a library; one that
    // leaves the property ends the process all the same.
    init: drop(panic::take_hook()),
    |input: &[u8]| {
        (TARGET.run)(input);
    }
);
