//! Runs a command with `DATABASE_URL` of a throw-away Postgres, for
//! `scripts/sqlx-prepare`. Depends on no crate with checked queries, so
//! that it builds when those do not.

#![expect(clippy::print_stderr, reason = "a command line prints")]

use exodrive_runtime::services::{Options, PrivateServices};
use std::process::{Command, ExitCode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with_postgres COMMAND [ARGUMENT...]");
        return Ok(ExitCode::from(2));
    };
    let folder = std::env::temp_dir().join(format!("exodrive-sqlx-{}", std::process::id()));
    // A service with an address is not started.
    let not_needed = Some("unused://".to_owned());
    let services = PrivateServices::start(Options {
        nats: not_needed.clone(),
        redis: not_needed,
        ..Options::for_tests(folder)
    })
    .await?;
    let status = Command::new(program)
        .args(arguments)
        .env("DATABASE_URL", &services.administrators().database)
        .status()?;
    services.stop().await;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
