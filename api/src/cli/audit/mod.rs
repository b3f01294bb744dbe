//! `exodrive audit`: for auditors.

mod files;
mod verify;
mod witness;

use super::{Failure, table};
use clap::Subcommand;
use std::process::ExitCode;

/// The log is not what was signed, or what was shown before.
const TAMPERED: u8 = 1;
/// Nothing can be said.
const UNUSABLE: u8 = 2;

#[derive(clap::Args)]
#[command(after_help = "What an auditor does:
  1. Get the log's public key once, from somebody other than whoever runs the log.
  2. Keep a checkpoint now and then, or run a witness, on a machine of your own.
  3. Ask for an export, and verify it against all that you kept. Everything that
     the log said at a checkpoint is then proven to be said still, unchanged.

Examples:
  exodrive audit verify --export log.ndjson --checkpoint kept/*.txt --public-key log.pub
  exodrive audit witness --new-key witness.key --name witness.example.org
  exodrive audit witness --url https://rental.example --state seen.txt --key witness.key")]
pub(super) struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Verify an export offline: every event, the root, the signatures, and all that you kept
    Verify(verify::Verify),
    /// Watch a log from a machine of your own, and cosign what it shows
    Witness(witness::Witness),
}

impl Audit {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Verify(verify) => verify.run(),
            Action::Witness(witness) => witness.run().await,
        }
    }
}
