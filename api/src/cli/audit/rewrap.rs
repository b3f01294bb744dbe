//! `exodrive audit rewrap`: wraps the data keys again, so that a wrapping key can be retired.

use super::Failure;
use crate::{cli::replay::reading_bar, settings::Connections};
use exodrive_log::{Log, Rewrapped};
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Example: to retire wrapping key 1
  1. Give every process EXODRIVE_DATA_KEYS=2:<base64 of 32 bytes>,1:<the old one>, and start it again.
  2. EXODRIVE_DATA_KEYS=2:...,1:... exodrive audit rewrap
  3. Give every process EXODRIVE_DATA_KEYS=2:... alone, and start it again.

Stores a new record of each key under the highest version, reads it back, and has the server overwrite the old one on
disk. It runs as the operator's NATS user (EXODRIVE_NATS_OPERATOR_URL) beside the system, may be interrupted at any
point, and goes on when it is run again. Backups made before still need the old key.")]
pub(super) struct Rewrap {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connections: Connections,
}

impl Rewrap {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let urls = self.connections.resolve()?;
        let config = self.connections.appending_config(urls.nats_operator, urls.nats_monitor)?;
        let log = Log::connect(&config).await?;
        let bar = reading_bar()?;
        let progress = |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        };
        let report = log.rewrap_keys(progress).await?;
        bar.finish_and_clear();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(ExitCode::SUCCESS);
        }
        let Rewrapped { rewrapped, already, destroyed, version } = report;
        say!(
            "{rewrapped} data keys are wrapped again by wrapping key {version}; {already} were \
             before, {destroyed} are destroyed.\nNo record needs an older wrapping key. One that a \
             process has stored meanwhile might: run this again before you take the old key away."
        );
        Ok(ExitCode::SUCCESS)
    }
}
