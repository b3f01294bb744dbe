//! Embeds the demo's deliveries, so that `exodrive demo` needs no files.

use std::{env, fmt::Write, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder =
        Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../tests/fixtures/resend/payloads");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut code = String::from("&[\n");
    for file in files {
        let (name, path) = (file.file_name(), file.path().canonicalize()?);
        writeln!(code, "    ({:?}, include_bytes!({path:?})),", name.to_string_lossy())?;
    }
    code.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("payloads.rs"), code)?;
    Ok(())
}
