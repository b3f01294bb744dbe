//! What must hold of everything that reads bytes of strangers, as one function a reader: [`TARGETS`].
//! A property panics where it does not hold.
//!
//! **May import** the domain and the proofs. Of other crates it compiles single files that know
//! nothing of their crate: to build those crates with what a fuzzer needs takes minutes.
//!
//! **Flow.** `make fuzz` builds the program `fuzz`, in which the workspace's crates report what they
//! execute, and libFuzzer looks for inputs that reach more of them. `make test` runs the properties on
//! `corpus/`: a folder for each target, whose files begin with `accepted-` or `refused-`. What the
//! fuzzer found is added there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a property that does not hold ends the run"
)]

mod cursor;
mod delivery;
mod export;
mod import;
mod note;
mod signature;

/// A reader of bytes of strangers, with what must hold of it.
pub struct Target {
    /// Its name, and the folder of its inputs in `corpus/`.
    pub name: &'static str,
    /// Runs the property on an input. True if the reader accepts the input.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that only code can make, such as signed ones, by the names of their files.
    pub made: fn() -> Vec<(&'static str, Vec<u8>)>,
}

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run, made: Vec::new }
}

/// Every target.
pub const TARGETS: [Target; 8] = [
    target("cursor", cursor::holds),
    target("delivery", delivery::holds),
    Target { made: export::csv_seeds, ..target("export-csv", export::holds_of_csv) },
    Target { made: export::ndjson_seeds, ..target("export-ndjson", export::holds_of_ndjson) },
    Target { made: export::parquet_seeds, ..target("export-parquet", export::holds_of_parquet) },
    target("import", import::holds),
    Target { made: note::seeds, ..target("note", note::holds) },
    target("signature", signature::holds),
];
