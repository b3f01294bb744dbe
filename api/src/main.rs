//! Entry point of the program `exodrive`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exodrive_api::cli::Cli::run_from_args()
}
