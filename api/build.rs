//! Embeds the demo's deliveries and season, so that `exodrive demo` needs no
//! files.

use std::{env, fmt::Write, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    embed("resend/payloads", "payloads.rs")?;
    embed("season", "season.rs")
}

/// Writes a list of a folder's files (name and bytes) as code.
fn embed(folder: &str, code_file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../tests/fixtures").join(folder);
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut code = String::from("&[\n");
    for file in files {
        let (name, path) = (file.file_name(), file.path().canonicalize()?);
        writeln!(code, "    ({:?}, include_bytes!({path:?})),", name.to_string_lossy())?;
    }
    code.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join(code_file), code)?;
    Ok(())
}
