//! `test-servers COMMAND...` starts NATS, Postgres and Redis once, runs the command, and stops them:
//! the servers of every test that needs no servers of its own.
//!
//! The command finds in the folder `EXODRIVE_TEST_SERVERS` the file `systems.json`: the addresses
//! of many systems, each with a NATS account, a Redis database, and a name for a Postgres database,
//! which is a copy of the migrated database `exodrive`. Who uses a system makes the file
//! `taken/NUMBER` first.

#![expect(clippy::expect_used, clippy::print_stderr, reason = "a program of the tests")]

use exodrive_projections::Database;
use exodrive_runtime::{
    services::{Options, PrivateServices},
    shutdown,
};
use exodrive_tests::{Servers, complaints_of_postgres};
use std::{
    error::Error,
    fs,
    process::{Command, ExitCode},
};

/// More than there are tests.
const SYSTEMS: u16 = 400;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    // An interrupt reaches the command too, which ends; the servers then stop as always.
    let _interrupts = shutdown::requested()?;
    let mut args = std::env::args_os().skip(1);
    let mut command = Command::new(args.next().ok_or("which command?")?);
    let folder = tempfile::tempdir()?;
    let options = Options::for_tests(folder.path().join("services"));
    let services = PrivateServices::start(Options { neighbours: SYSTEMS, ..options }).await?;
    Database::migrate(&services.urls().database_operator).await?;
    let systems: Vec<Servers> = (1..=SYSTEMS)
        .map(|number| Servers {
            urls: services.neighbour(number).expect("one of them"),
            administrators: services.administrators().of_neighbour(number),
        })
        .collect();
    fs::write(folder.path().join("systems.json"), serde_json::to_vec(&systems)?)?;
    fs::create_dir(folder.path().join("taken"))?;
    command.args(args).env("EXODRIVE_TEST_SERVERS", folder.path());
    let ended = tokio::task::spawn_blocking(move || command.status()).await??;
    services.stop().await;
    let complaints = complaints_of_postgres(&folder.path().join("services"));
    if !complaints.is_empty() {
        eprintln!("Postgres complains of how the tests have used it:\n{complaints}");
        return Ok(ExitCode::FAILURE);
    }
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
